"""An exchange by its real servers, all on this machine: a coordinator and sites, each a process.

The same homes as in ``exchange``; what institutions install runs, over TLS on loopback.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from client import home as site_home
from client import service as site_service
from not_core.errors import ExchangeError
from not_core.service import supervisor
from not_core.service.supervisor import LOOPBACK, free_port
from server import home as coordinator_home
from server import keeper, service
from server.schedule import COMPLETED
from simulations.federation.exchange import Scenario

Reached = TypeVar("Reached")

START_SECONDS = 120.0
STOP_SECONDS = 60.0
PAUSE = 0.3
"""Seconds between a site's looks for messages; nothing is far away here."""


def run(scenario: Scenario) -> None:
    """Carry out a prepared exchange.

    Raises:
        ExchangeError: It could not be carried out.
    """
    with Deployment(scenario).serving() as deployment:
        deployment.begin(scenario.federation.exchange)
        state = deployment.waited(scenario.federation.exchange)
    if state != COMPLETED:
        raise ExchangeError(f"the exchange has {state}; see logs in {scenario.coordinator}")


class Deployment:
    """A prepared scenario, served.

    Args:
        scenario: As ``simulations.federation.exchange.prepare`` left it.
        site_app: ``module:attribute`` of what answers at sites; for measurements.
    """

    def __init__(self, scenario: Scenario, site_app: str = site_service.APP) -> None:
        self.scenario, self._site_app = scenario, site_app
        self.coordinator = scenario.coordinator
        self.sites = {one.name: scenario.home(one.name) for one in scenario.federation.sites}
        if not (self.coordinator / service.SETTINGS).is_file():
            made = service.Service(
                host=LOOPBACK,
                listen=LOOPBACK,
                port=free_port(),
                flower_port=free_port(),
                monitor_port=free_port(),
            )
            service.create(self.coordinator, made)
        self.service = service.load(self.coordinator)
        self.address = f"{self.service.host}:{self.service.port}"
        for home in self.sites.values():
            if not (home / site_service.NODE).is_dir():
                certificate = self.coordinator / "tls.pem"
                site_service.connect(site_home.load(home), self.address, certificate)
        self._started: dict[Path, subprocess.Popen[bytes]] = {}

    @contextmanager
    def serving(self) -> Iterator["Deployment"]:
        """All processes running and all sites admitted; all ended afterwards."""
        with ExitStack() as stack:
            stack.callback(self.stop)
            self.start(self.coordinator)
            self.wait_for_gateway()
            coordinator = stack.enter_context(coordinator_home.opened(self.coordinator))
            for home in self.sites.values():
                service.admit(coordinator, (home / "node" / "admission").read_bytes())
                self.start(home)
            yield self

    def wait_for_gateway(self) -> None:
        """Until sites can reach the coordinator.

        Raises:
            ExchangeError: They cannot.
        """

        def answers() -> bool:
            return supervisor.answers(LOOPBACK, self.service.port)

        until(answers, START_SECONDS, f"gateway of {self.coordinator}")

    def start(
        self, home: Path, statement: str = "pass", environment: Mapping[str, str] | None = None
    ) -> None:
        """Start what serves a home.

        Args:
            home: The coordinator's or a site's.
            statement: Python to run in the process before; for experiments.
            environment: Added to this process's own.
        """
        module, options = "client", ["--pause", str(PAUSE)]
        if home != self.coordinator:
            statement = f"client.service.APP = {self._site_app!r}; {statement}"
        if home == self.coordinator:
            module, options = "server", []
        code = f"import {module}.service; {statement}; from {module}.commands import main; main()"
        (home / "logs").mkdir(mode=0o700, exist_ok=True)
        with (home / "logs" / "start.log").open("ab") as out:
            self._started[home] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", code, "start", str(home), *options],
                stdout=out,
                stderr=out,
                env={**os.environ, **(environment or {})},
            )

    def stop(self, *homes: Path) -> None:
        """End what serves these homes, or all."""
        stopped = [self._started.pop(home) for home in homes or list(self._started)]
        for process in stopped:
            process.send_signal(signal.SIGTERM)
        for process in stopped:
            process.wait(STOP_SECONDS)

    def begin(self, name: str, **changes: Any) -> None:
        """Ask for an exchange by the scenario's terms, or others."""
        with coordinator_home.opened(self.coordinator) as coordinator:
            coordinator.catalogue.schedule.begin(
                replace(self.scenario.asked, exchange=name, **changes)
            )

    def waited(self, name: str, seconds: float = float("inf")) -> str:
        """Wait for an exchange to end; how it did.

        Raises:
            ExchangeError: It has not ended in that time.
        """
        with coordinator_home.opened(self.coordinator) as coordinator:
            return until(lambda: keeper.ended(coordinator, name), seconds, f"exchange {name}")


def until(reached: Callable[[], Reached], seconds: float, what: str) -> Reached:
    """Wait for something to be so, and return it.

    Raises:
        ExchangeError: It is not so in that time.
    """
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise ExchangeError(f"{what}: waited {seconds:g} seconds; see the logs")
        time.sleep(0.2)
    return found
