"""Processes of a served exchange die at any moment, as if their machines had; nothing is lost."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import federation_of_three

from client import home as site_home
from client import witness
from not_core.service import supervisor
from not_core.surgery import organ as organs
from server import claims
from server import home as coordinator_home
from server.bank import chunks
from server.catalogue import RUNNING
from simulations import exchange as simulation
from simulations.served import Deployment, until

COORDINATORS = ("superlink", "superexec", "keeper", "gateway")
SITES = ("signing-agent", "supernode", "superexec", "task")


@pytest.fixture(scope="module")
def served(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    place = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make = federation_of_three(place, models["llama"], monkeypatch)
        scenario = make("served")
        # Long enough to be killed in; several passes over few records are allowed here.
        terms = replace(scenario.terms, tokens=24_000, learning_rate=2e-3)
        scenario = replace(scenario, terms=terms, donors=replace(scenario.donors, most_passes=50.0))
        simulation.prepare(scenario)
    with Deployment(scenario).serving() as deployment:
        yield deployment


def tasks(deployment: Deployment, site: str) -> list[int]:
    """Processes that work on a message at a site."""
    home = deployment.sites[site]
    superexec = supervisor.pids(home).get("superexec")
    if superexec is None or not psutil.pid_exists(superexec):
        return []
    found = psutil.Process(superexec).children(recursive=True)
    # Below Python's fork server, which has no child but them.
    return [one.pid for one in found if one.ppid() != superexec]


def kill(deployment: Deployment, victim: str, where: str) -> bool:
    """Kill a process now, if it is there."""
    home = deployment.coordinator if where == "coordinator" else deployment.sites[where]
    try:
        if victim == "task":
            working = tasks(deployment, where)
            for process in working:
                psutil.Process(process).kill()
            return bool(working)
        process = supervisor.pids(home).get(victim)
        if process is None:
            return False
        psutil.Process(process).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def check(deployment: Deployment, exchange: str) -> None:
    """An exchange has ended and all that it should have brought is there, once and whole."""
    coordinator = coordinator_home.load(deployment.coordinator)
    try:
        organs_there = coordinator.catalogue.organs(exchange)
        receipts = coordinator.catalogue.receipts(exchange)
        facts = coordinator.catalogue.last_run(exchange)
        coordinator.catalogue.log.verify()
    finally:
        coordinator.catalogue.close()
    assert facts is not None
    assert facts["failures"] == []
    assert sorted(one.donor for one in organs_there) == ["court", "hospital"]
    assert len({(one.organ, one.recipient) for one in receipts}) == len(receipts) == 6
    for one in organs_there:
        assert one.header is not None
        offer = claims.header(one.header, one.donation, coordinator.trust, exchange)
        claims.sealed(one.header, chunks(coordinator.bank, offer.body_sha256), one.donation, offer)
        made = deployment.sites[one.donor] / "organs" / "made" / one.organ
        assert organs.read_stored(made).manifest.digest == one.organ == offer.organ_digest
    for home in deployment.sites.values():
        site = site_home.load(home)
        site.log.verify()
        shown = witness.verify(site)
        assert shown is not None
        assert shown.wrong == ""
        assert not list(home.glob("organs/in/**/*.part"))
    assert not list((deployment.coordinator / "incoming").iterdir())


def killed_exchange(
    deployment: Deployment,
    name: str,
    seed: int,
    victims: Sequence[tuple[str, str]],
    pause: float = 8,
) -> list[str]:
    """Run an exchange of new organs and kill one process after the other while it lasts."""
    dice = random.Random(seed)
    deployment.begin(name, seed=seed)
    done: list[str] = []
    coordinator = coordinator_home.load(deployment.coordinator)

    def state() -> str:
        return next(one.state for one in coordinator.catalogue.begun() if one.name == name)

    try:
        for victim, where in victims:
            time.sleep(dice.uniform(0.5, pause))
            while state() == RUNNING:
                if kill(deployment, victim, where):
                    done.append(f"{victim} of {where}")
                    break
                time.sleep(0.1)
        until(lambda: state() != RUNNING, 900, f"end of {name} after killing {done}")
        assert state() == "completed", done
    finally:
        coordinator.catalogue.close()
    check(deployment, name)
    return done


def test_an_exchange_outlives_the_death_of_its_processes(served: Deployment) -> None:
    """The two that hold most: Flower's SuperLink, and a donor while it trains."""
    victims = [("task", "hospital"), ("superlink", "coordinator"), ("task", "clinic")]
    assert len(killed_exchange(served, "killed", 7, victims)) >= 2


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("victim", "where"),
    [(victim, "coordinator") for victim in COORDINATORS]
    + [(victim, where) for where in ("hospital", "clinic") for victim in SITES],
)
def test_ten_deaths_of_each(served: Deployment, victim: str, where: str) -> None:
    done: list[str] = []
    for attempt in range(10):
        name = f"killed-{victim}-{where}-{attempt}"
        done += killed_exchange(served, name, 100 + attempt, [(victim, where)] * 3)
        if len(done) >= 10:
            break
    assert len(done) >= 10


@pytest.mark.exhaustive
def test_what_dies_while_nobody_can_be_told_is_done_again(served: Deployment) -> None:
    """Flower drops a failed task's reply where its SuperLink is away."""
    for seed in range(200, 203):
        victims = [("superlink", "coordinator"), ("task", "hospital"), ("task", "clinic")]
        killed_exchange(served, f"untold-{seed}", seed, victims, pause=2)
