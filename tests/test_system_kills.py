"""Processes of a served exchange die at any moment, as if their machines had; nothing is lost."""

import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from conftest import federation_of_three

from client import home as site_home
from client import progress, witness
from not_core.service import supervisor
from not_core.surgery import organ as organs
from server import claims
from server import home as coordinator_home
from server.bank import chunks
from server.schedule import RUNNING
from simulations.federation import exchange as simulation
from simulations.federation.served import Deployment, until

COORDINATORS = ("superlink", "superexec", "keeper", "gateway", "supervisor")
SITES = ("signing-agent", "supernode", "superexec", "task", "supervisor")


@dataclass(frozen=True)
class Death:
    """Whom to kill, where, and when: at any time, or once a site has begun something anew.

    Attributes:
        moment: ``training``, ``upload`` or ``transplant``; None for any time.
        pause: Most seconds from that moment, or from the death before.
    """

    victim: str
    where: str
    moment: str | None = None
    pause: float = 8.0


AIMED = [
    Death("task", "hospital", "training", 2.0),
    Death("supernode", "hospital", "training", 2.0),
    Death("supervisor", "hospital", "training", 2.0),
    Death("task", "hospital", "upload", 0.1),
    Death("supernode", "hospital", "upload", 0.3),
    Death("task", "clinic", "transplant", 1.0),
    Death("supernode", "clinic", "transplant", 1.0),
]


DIES = "dies"
"""File beside the homes: the next task that has said that a segment comes dies before it does."""


@contextmanager
def deployed(place: Path, model: Path, **policy: float) -> Iterator[Deployment]:
    """Three sites and a coordinator that trains long enough to be killed in."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        scenario = federation_of_three(place, model, monkeypatch)("served")
        terms = replace(scenario.terms, tokens=24_000, learning_rate=2e-3)
        donors = replace(scenario.donors, most_passes=50.0, **policy)
        scenario = replace(scenario, terms=terms, donors=donors)
        simulation.prepare(scenario)
        monkeypatch.setenv("DIES", str(place / DIES))
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with Deployment(scenario, site_app="dies:app").serving() as deployment:
            yield deployment


@pytest.fixture(scope="module")
def served(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("killed"), models["llama"]) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def private(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The same, with a bound on what all organs together may cost."""
    place, bound = tmp_path_factory.mktemp("private"), {"epsilon": 50.0, "delta": 1e-3}
    with deployed(place, models["llama"], **bound, epsilon_per_organ=8.0) as deployment:
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
        if victim == "supervisor":
            process = supervisor.served_by(home)
        else:
            process = supervisor.pids(home).get(victim)
        if process is None:
            return False
        psutil.Process(process).kill()
        if victim == "supervisor":  # who is started again by systemd, or an operator
            deployment.stop(home)
            deployment.start(home)
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


def begun(deployment: Deployment, exchange: str, where: str, moment: str) -> int:
    """How often a site has begun something so far, in an exchange."""
    home = deployment.sites[where]
    if moment == "training":
        doing = progress.read(home)
        return int(doing is not None and doing.step == "training")
    entries = [one for one in site_home.read_home(home).log.entries() if one.exchange == exchange]
    if moment == "upload":
        return sum(one.what == "part of a sealed organ" for one in entries)
    return sum(one.event == "trying" for one in entries)


def killed_exchange(
    deployment: Deployment, name: str, seed: int, deaths: Sequence[Death]
) -> list[Death]:
    """Run an exchange of new organs and kill one process after the other while it lasts."""
    dice = random.Random(seed)
    deployment.begin(name, seed=seed)
    done: list[Death] = []
    seen: Counter[tuple[str, str]] = Counter()
    coordinator = coordinator_home.load(deployment.coordinator)

    def running() -> bool:
        states = {one.name: one.state for one in coordinator.catalogue.schedule.begun()}
        return states[name] == RUNNING

    def reached(death: Death) -> bool:
        """Wait for a moment that no death of this exchange has had."""
        while running():
            if death.moment is None:
                return True
            place = (death.where, death.moment)
            if (count := begun(deployment, name, *place)) > seen[place]:
                seen[place] = count if death.moment != "training" else 0
                return True
            time.sleep(0.02)
        return False

    try:
        for death in deaths:
            if not reached(death):
                break
            time.sleep(dice.uniform(0.0 if death.moment else 0.5, death.pause))
            while running():
                if kill(deployment, death.victim, death.where):
                    done.append(death)
                    break
                if death.moment:
                    break  # it is over: the next time
                time.sleep(0.1)
        until(lambda: not running(), 900, f"end of {name} after killing {done}")
        assert [
            one.state for one in coordinator.catalogue.schedule.begun() if one.name == name
        ] == ["completed"], done
    finally:
        coordinator.catalogue.close()
    check(deployment, name)
    return done


def test_an_exchange_outlives_the_death_of_its_processes(served: Deployment) -> None:
    """A donor as it trains, what holds most, and, if it comes to that, a donor as it uploads and a
    recipient as it tries."""
    deaths = [AIMED[0], Death("superlink", "coordinator"), AIMED[4], AIMED[5]]
    done = killed_exchange(served, "killed", 7, deaths)
    assert {one.moment for one in done} >= {"training", None}
    assert len(done) >= 3


def test_a_donor_that_dies_between_a_reply_and_its_bytes(served: Deployment) -> None:
    """Its node does not wait for them for ever, and is asked again."""
    (told,) = {home.parents[2] / DIES for home in served.sites.values()}
    told.touch()
    killed_exchange(served, "handing-over", 8, [])
    assert not told.exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "death",
    [Death(victim, "coordinator") for victim in COORDINATORS]
    + [Death(victim, where) for where in ("hospital", "clinic") for victim in SITES]
    + AIMED,
    ids=lambda death: "-".join(filter(None, (death.victim, death.where, death.moment))),
)
def test_ten_deaths_of_each(served: Deployment, death: Death) -> None:
    done: list[Death] = []
    for attempt in range(20):  # a task hands over a segment in less time than it takes to kill it
        name = f"killed-{death.victim}-{death.where}-{death.moment or 'any'}-{attempt}"
        # Its own, in a deployment that serves all of these: else there would be nothing to train.
        done += killed_exchange(served, name, zlib.crc32(name.encode()), [death] * 3)
        if len(done) >= 10:
            break
    assert len(done) >= 10


@pytest.mark.exhaustive
def test_ten_deaths_of_a_private_training_charge_once(private: Deployment) -> None:
    """Each organ is paid for once, however often its training was cut off; no charge is lost."""
    done: list[Death] = []
    organs_made = 0
    while len(done) < 10:
        organs_made += 1
        victim = AIMED[organs_made % 3]
        done += killed_exchange(private, f"private-{organs_made}", 300 + organs_made, [victim] * 3)
        for donor in ("court", "hospital"):
            site = site_home.read_home(private.sites[donor])
            charges = site.ledger.reservations()
            assert len({one.charge.run for one in charges}) == len(charges) == organs_made
            assert all(one.result for one in charges)


@pytest.mark.exhaustive
def test_what_dies_while_nobody_can_be_told_is_done_again(served: Deployment) -> None:
    """Flower drops a failed task's reply where its SuperLink is away."""
    for seed in range(200, 203):
        deaths = [
            Death("superlink", "coordinator", pause=2),
            Death("task", "hospital", pause=2),
            Death("task", "clinic", pause=2),
        ]
        killed_exchange(served, f"untold-{seed}", seed, deaths)
