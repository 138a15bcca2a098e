"""The real processes of an exchange on loopback: a coordinator and its sites, each with its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from client import home as site_home
from client import service as site_service
from not_core.service import supervisor
from server import home as coordinator_home
from server import keeper, service
from simulations.exchange import Scenario

COORDINATOR, SITE = "server.commands", "client.commands"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(module: str, *words: object, statement: str = "pass") -> list[str]:
    """An installed command, without a shell; ``statement`` comes before it."""
    code = f"import server.service; {statement}; from {module} import main; main()"
    return [sys.executable, "-P", "-c", code, *map(str, words)]


def ask(module: str, *words: object) -> Any:
    """Run a command that prints JSON."""
    done = subprocess.run(  # noqa: S603
        [*command(module, *words), "--json"], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(reached: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < deadline, f"{what}: not in {seconds} seconds"
        time.sleep(0.2)
    return found


class Deployment:
    """A prepared scenario, served.

    Args:
        scenario: As ``simulations.exchange.prepare`` left it.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.coordinator = scenario.coordinator
        self.sites = {one.name: scenario.home(one.name) for one in scenario.federation.sites}
        self.service = service.Service(
            host="127.0.0.1", listen="127.0.0.1", port=free_port(), flower_port=free_port()
        )
        service.create(self.coordinator, self.service)
        self.address = f"127.0.0.1:{self.service.port}"
        for home in self.sites.values():
            site = site_home.load(home)
            site_service.create(site, self.address, self.coordinator / "tls.pem")
        self._started: dict[Path, subprocess.Popen[bytes]] = {}

    @contextmanager
    def serving(self, sites: Sequence[str] | None = None) -> Iterator["Deployment"]:
        """All processes running and all sites admitted; all ended afterwards."""
        with ExitStack() as stack:
            stack.callback(self.stop)
            self.start(self.coordinator)
            self.wait_for_gateway()
            admissions = [home / "node" / "admission" for home in self.sites.values()]
            ask(COORDINATOR, "admit", self.coordinator, *admissions)
            for name in self.sites if sites is None else sites:
                self.start(self.sites[name])
            yield self

    @contextmanager
    def replaced(self, statement: str, environment: dict[str, str]) -> Iterator[None]:
        """Another coordinator in the place of ours: the same but for one statement."""
        self.stop(self.coordinator)
        try:
            self.start(self.coordinator, statement, environment)
            self.wait_for_gateway()
            yield
        finally:
            self.stop(self.coordinator)
            self.start(self.coordinator)
            self.wait_for_gateway()

    def wait_for_gateway(self) -> None:
        """Until sites can reach the coordinator."""
        until(lambda: supervisor.answers("127.0.0.1", self.service.port), 60, "gateway")

    def start(
        self, home: Path, statement: str = "pass", environment: dict[str, str] | None = None
    ) -> None:
        """Start what serves a home."""
        module, options = SITE, ["--pause", 0.3]
        if home == self.coordinator:
            module, options = COORDINATOR, []
        (home / "logs").mkdir(exist_ok=True)
        with (home / "logs" / "start.log").open("ab") as out:
            self._started[home] = subprocess.Popen(  # noqa: S603
                command(module, "start", home, *options, statement=statement),
                stdout=out,
                stderr=out,
                env={**os.environ, **(environment or {})},
            )

    def stop(self, *homes: Path) -> None:
        """End what serves these homes, or all, by its own ids."""
        stopped = [self._started.pop(home) for home in homes or list(self._started)]
        for process in stopped:
            process.send_signal(signal.SIGTERM)
        for process in stopped:
            process.wait(60)

    def kill(self, home: Path, name: str) -> int:
        """End one process of a home at once, as if its machine had died; its id."""
        process = int(supervisor.status(home)[name]["pid"])
        os.kill(process, signal.SIGKILL)
        return process

    def exchange(self, name: str, **changes: object) -> str:
        """Run an exchange to its end; how it ended."""
        self.begin(name, **changes)
        return self.waited(name)

    def begin(self, name: str, **changes: object) -> None:
        """Ask for an exchange."""
        terms = self.scenario.terms
        options = {
            "sites": len(self.sites),
            "span": f"{terms.span.start}:{terms.span.stop}",
            "tokens": terms.tokens,
            "learning-rate": terms.learning_rate,
            "seed": terms.seed,
        } | changes
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        ask(COORDINATOR, "exchange", self.coordinator, name, *words)

    def waited(self, name: str) -> str:
        """Wait for an exchange to end; how it did."""
        coordinator = coordinator_home.load(self.coordinator)
        try:
            return keeper.waited(coordinator, name)
        finally:
            coordinator.catalogue.close()
