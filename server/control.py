"""Flower's own command, by which the operator's side registers nodes and starts runs.

Flower asks who is there of nobody who reaches its control API, so it is reached on loopback only.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from not_core.errors import ServiceError
from not_core.service.flower import QUIET

SECONDS = 120
POLL_SECONDS = 2.0
APP = """\
[project]
name = "organ-exchange"
version = "1"
description = "An exchange, among code that is installed everywhere"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "organ-exchange"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
"""
"""What a run of ours brings: names of what is installed everywhere, and not a line of code."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of Flower's: ``status`` is its word, such as ``running`` or ``finished:completed``."""

    identifier: str
    status: str


@dataclass(frozen=True, slots=True)
class Control:
    """Flower's control of the coordinator in ``home``."""

    home: Path

    def register(self, key: Path) -> str:
        """Register a node's public key, in OpenSSH form; the node's id.

        Raises:
            ServiceError: Flower does not run, or has the key.
        """
        return str(self._ask("supernode", "register", str(key), "own")["node-id"])

    def unregister(self, node: str) -> None:
        """Take a node's registration back.

        Raises:
            ServiceError: Flower does not run, or has no such node.
        """
        self._ask("supernode", "unregister", node, "own")

    def start(self, config: dict[str, str | int | float]) -> str:
        """Start a run with a configuration; the run's id.

        Raises:
            ServiceError: Flower does not run, or refuses.
        """
        app = self.home / "flower" / "organ-exchange"
        app.mkdir(mode=0o700, exist_ok=True)
        # Flower takes values for what an app itself names, only.
        (app / "pyproject.toml").write_text(APP + tomli_w.dumps(config), encoding="utf-8")
        words = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        return str(self._ask("run", str(app), "own", "--run-config", words)["run-id"])

    def runs(self) -> list[Run]:
        """All runs, newest first.

        Raises:
            ServiceError: Flower does not run.
        """
        rows = self._ask("list", "own")["runs"]
        return [Run(str(row["run-id"]), str(row["status"])) for row in rows]

    def ended(self, run: str) -> str:
        """Wait for a run to end; Flower's word for how.

        Raises:
            ServiceError: Flower does not run, or knows no such run.
        """
        while True:
            found = {one.identifier: one.status for one in self.runs()}
            if run not in found:
                raise ServiceError(f"Flower knows no run {run}; see organ-coordinator status")
            if found[run].startswith("finished"):
                return found[run]
            time.sleep(POLL_SECONDS)

    def _ask(self, *words: str) -> dict[str, Any]:
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(self.home / "flower")}
        try:
            done = subprocess.run(  # noqa: S603
                [str(Path(sys.executable).with_name("flwr")), *words, "--format", "json"],
                env=environment,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
            answer = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, OSError, ValueError) as error:
            raise ServiceError(
                f"Flower's control did not answer ({type(error).__name__}); see logs/superlink.log "
                f"in {self.home}, and whether organ-coordinator start runs"
            ) from None
        if not isinstance(answer, dict) or not answer.get("success"):
            found = answer.get("error-message", "") if isinstance(answer, dict) else ""
            raise ServiceError(f"Flower refused {words[0]}: {str(found).strip()[-300:]}")
        return answer
