"""A federation of three sites on a tiny model, and its exchange without Flower's engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Message
from local_grid import LocalGrid

from not_core.manifest import Span
from not_core.protocol import Receipt, Terms
from server import home as coordinator_home
from server.catalogue import Kept
from server.exchange import Exchange, Settings, run_in_passes
from server.progress import Event
from simulations.federation import exchange as simulation
from simulations.federation.sites import load_sites

MARKS = [
    f"marked sentence number {i} of a private record, token {i * 7919:08x}" for i in range(200)
]
SITES = """
exchange = "trial"
[[site]]
name = "hospital"
domain = "medicine"
donates = true
records = "hospital.jsonl"
[[site]]
name = "clinic"
domain = "medicine, few"
donates = false
records = "clinic.jsonl"
[[site]]
name = "court"
domain = "law"
donates = true
records = "court.jsonl"
"""


def scenario(place: Path, model: Path, name: str, seed: int = 0) -> simulation.Scenario:
    """An exchange of the sites in ``place / "sites.toml"``, with homes in ``place / name``."""
    return simulation.Scenario(
        federation=load_sites(place / "sites.toml", None, seed),
        model=str(model),
        terms=Terms(
            span=Span(start=2, stop=5), rank=None, tokens=9_000, learning_rate=1e-2, seed=seed
        ),
        mode="replace",
        homes=place / name,
        parallel=2,
    )


def by_hand(
    scenario: simulation.Scenario,
    *,
    notify: Callable[[Event], None] = lambda event: None,
    dead: frozenset[str] = frozenset(),
    gone: frozenset[str] = frozenset(),
    awake: Mapping[str, Callable[[], bool]] = {},
    enrol_seconds: float = 60,
    wire_seconds: float = 30,
    exchange: str = "trial",
    invited: tuple[str, ...] = (),
    on_request: Callable[[Message], Message | None] = lambda message: message,
    on_reply: Callable[[Message], Message | None] = lambda message: message,
) -> LocalGrid:
    """Run a prepared exchange without Flower's engine."""
    homes = {i + 1: scenario.home(site.name) for i, site in enumerate(scenario.federation.sites)}
    grid = LocalGrid(homes, on_request, on_reply)
    grid.dead = {node for node, home in homes.items() if home.name in dead}
    grid.gone = {node for node, home in homes.items() if home.name in gone}
    grid.awake = {node: awake[home.name] for node, home in homes.items() if home.name in awake}
    sites = len(invited or homes)
    settings = Settings(
        asked=replace(scenario.asked, exchange=exchange, sites=sites, invited=invited),
        limits=replace(
            coordinator_home.IN_PROCESS,
            enrol_seconds=enrol_seconds,
            wire_seconds=wire_seconds,
            step_seconds=wire_seconds,
        ),
    )
    with coordinator_home.opened(scenario.coordinator) as coordinator:
        run_in_passes(lambda: Exchange(grid, coordinator, settings, notify))
    return grid


@dataclass
class Left:
    """What an exchange has left at its coordinator: organs by donor, receipts, the last run."""

    organs: dict[str, Kept]
    receipts: list[Receipt]
    run: dict[str, Any]

    @property
    def verdicts(self) -> dict[tuple[str, str], str]:
        """By donor and recipient."""
        return {(one.donor, one.recipient): one.verdict for one in self.receipts}

    @property
    def bytes(self) -> dict[str, int]:
        """Of the last run, in which nothing has failed."""
        assert self.run["failures"] == []
        return dict(self.run["bytes"])


def left(scenario: simulation.Scenario, exchange: str = "trial") -> Left:
    """Look into a scenario's coordinator."""
    with coordinator_home.opened(scenario.coordinator) as coordinator:
        catalogue = coordinator.catalogue
        organs = {one.donor: one for one in catalogue.organs(exchange)}
        return Left(organs, catalogue.receipts(exchange), catalogue.last_run(exchange) or {})
