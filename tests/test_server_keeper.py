"""The keeper of exchanges: it starts runs, starts them again, gives up, cancels, and tidies up."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pages import WORDS, Members, asked

from not_core.errors import ExchangeError, ServiceError
from server import keeper
from server.control import ENDED, WELL, Run
from server.home import Coordinator
from server.schedule import CANCELLED, COMPLETED, RUNNING


@dataclass
class Runs:
    """Flower's control, as far as the keeper uses it: a list of runs, and who is there."""

    known: dict[int, Run] = field(default_factory=dict)
    there: set[int] = field(default_factory=lambda: {1, 2})
    stopped: list[int] = field(default_factory=list)

    def runs(self) -> list[Run]:
        return list(self.known.values())

    def start(self, config: dict[str, object]) -> int:
        number = len(self.known) + 1
        self.known[number] = Run(number, "running", "", str(config["exchange"]))
        return number

    def online(self) -> set[int]:
        return self.there

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def end(self, number: int, outcome: str) -> None:
        self.known[number] = replace(self.known[number], status=ENDED, outcome=outcome)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    found = Members(tmp_path).coordinator
    found.catalogue.schedule.begin(asked())
    for node, site in enumerate(("clinic", "hospital"), 1):
        found.catalogue.admitted(site, node, b"word")
    for name in ("spring.north.ab.part", "autumn.north.ab.part"):
        (found.folder / "incoming" / name).write_bytes(b"sealed")
    yield found
    found.catalogue.close()


def parts(coordinator: Coordinator) -> list[str]:
    return sorted(path.name for path in (coordinator.folder / "incoming").iterdir())


def state(coordinator: Coordinator) -> tuple[str, int]:
    (one,) = coordinator.catalogue.schedule.begun()
    return one.state, one.runs


def test_a_run_that_dies_is_started_again_until_one_completes(coordinator: Coordinator) -> None:
    runs, now = Runs(), 1000.0

    def look() -> None:
        nonlocal now
        now += keeper.AGAIN_SECONDS
        keeper.look(coordinator, runs, now)  # type: ignore[arg-type]  # what is used of a control

    look()
    assert state(coordinator) == (RUNNING, 1)
    look()  # it is under way
    assert state(coordinator) == (RUNNING, 1)
    runs.end(1, "failed")
    look()
    assert state(coordinator) == (RUNNING, 2)
    assert len(parts(coordinator)) == 2  # what has come so far is not fetched again
    runs.end(2, WELL)
    look()
    assert state(coordinator) == (COMPLETED, 2)
    assert parts(coordinator) == ["autumn.north.ab.part"]


def test_one_that_dies_too_often_is_given_up(coordinator: Coordinator) -> None:
    runs, now = Runs(), 1000.0
    for number in range(1, keeper.MOST_RUNS + 1):
        keeper.look(coordinator, runs, now)  # type: ignore[arg-type]
        assert state(coordinator) == (RUNNING, number)
        runs.end(number, "failed")
        now += keeper.AGAIN_SECONDS
    keeper.look(coordinator, runs, now)  # type: ignore[arg-type]
    assert state(coordinator) == ("failed", keeper.MOST_RUNS)
    assert parts(coordinator) == ["autumn.north.ab.part"]


TERMS = WORDS | {"exchange": "winter", "sites": 0}


def test_one_begins_when_it_was_asked_for(coordinator: Coordinator) -> None:
    keeper.ask(coordinator, TERMS | {"sites": 2}, at=2000.0)
    runs = Runs()
    for now, begun in ((1999.0, ["spring"]), (2000.0, ["spring", "winter"])):
        keeper.look(coordinator, runs, now)  # type: ignore[arg-type]
        assert [one.name for one in coordinator.catalogue.schedule.begun() if one.run] == begun


def test_one_is_among_the_sites_that_are_named(coordinator: Coordinator) -> None:
    for number, site in enumerate(("north", "south"), 3):
        coordinator.catalogue.admitted(site, number, b"word")
    keeper.ask(coordinator, TERMS | {"invited": "south, north"})
    (one,) = [one for one in coordinator.catalogue.schedule.begun() if one.name == "winter"]
    assert (one.asked.sites, one.asked.invited) == (2, ("north", "south"))
    coordinator.catalogue.admitted("west", 5, b"word")
    keeper.ask(coordinator, TERMS | {"invited": "west south north"})  # one more may come
    for wrong, words in (
        ({}, "0 sites"),
        ({"invited": "north"}, "1 sites"),
        ({"invited": "north east"}, "no site east"),
        ({"invited": "north south", "sites": 3}, "more than are named"),
        ({"invited": "north sou/th"}, "invited.1: .* not 'sou/th'; correct it"),
    ):
        with pytest.raises(ExchangeError, match=words):
            keeper.ask(coordinator, TERMS | wrong)


def test_one_that_is_cancelled_is_stopped(coordinator: Coordinator) -> None:
    runs = Runs()
    keeper.look(coordinator, runs, 1000.0)  # type: ignore[arg-type]
    coordinator.catalogue.schedule.cancel("spring")
    keeper.look(coordinator, runs, 1001.0)  # type: ignore[arg-type]
    assert runs.stopped == [1]
    assert state(coordinator) == (CANCELLED, 1)
    assert parts(coordinator) == ["autumn.north.ab.part"]


def test_an_exchange_that_is_refused_holds_up_no_other(coordinator: Coordinator) -> None:
    class Refusing(Runs):
        def start(self, config: dict[str, object]) -> int:
            if config["exchange"] == "spring":
                raise ServiceError("Flower refused: 24; see its log")
            return super().start(config)

    keeper.ask(coordinator, TERMS | {"sites": 2})
    keeper.look(coordinator, Refusing(), 1.0)  # type: ignore[arg-type]
    assert [one.name for one in coordinator.catalogue.schedule.begun() if one.run] == ["winter"]


def test_what_is_under_way_is_not_changed_without_a_word(coordinator: Coordinator) -> None:
    keeper.ask(coordinator, TERMS | {"sites": 2}, at=5000.0)
    keeper.ask(coordinator, TERMS | {"sites": 3}, at=2000.0)  # it waits: this is what is meant
    (one,) = [one for one in coordinator.catalogue.schedule.begun() if one.name == "winter"]
    assert (one.since, one.asked.sites) == (2000.0, 3)
    keeper.look(coordinator, Runs(), 2000.0)  # type: ignore[arg-type]
    keeper.ask(coordinator, TERMS | {"sites": 3})  # as it is
    with pytest.raises(ExchangeError, match="under way"):
        keeper.ask(coordinator, TERMS | {"sites": 2})
    with pytest.raises(ExchangeError, match="under way"):
        keeper.ask(coordinator, TERMS | {"sites": 3}, at=9000.0)


def test_one_waits_for_two_of_its_sites_and_no_run_counts_meanwhile(
    coordinator: Coordinator,
) -> None:
    coordinator.catalogue.admitted("west", 3, b"word")
    keeper.ask(coordinator, TERMS | {"invited": "clinic west"})
    runs, now = Runs(there={1, 7}), 1000.0

    def look(*there: int) -> dict[str, int]:
        nonlocal now
        runs.there = set(there)
        now += keeper.AGAIN_SECONDS
        keeper.look(coordinator, runs, now)  # type: ignore[arg-type]
        return {one.name: one.runs for one in coordinator.catalogue.schedule.begun()}

    for _ in range(keeper.MOST_RUNS + 1):
        assert look(1, 7) == {"spring": 0, "winter": 0}, "7 is nobody's"
    assert look(1, 2) == {"spring": 1, "winter": 0}
    assert look(1, 3) == {"spring": 1, "winter": 1}
    runs.end(2, "failed")
    for _ in range(keeper.MOST_RUNS + 1):
        assert look(3) == {"spring": 1, "winter": 1}
    assert look(1, 3) == {"spring": 1, "winter": 2}


def test_a_run_that_was_started_and_not_noted_is_taken_on(coordinator: Coordinator) -> None:
    runs = Runs()
    runs.start({"exchange": "spring"})  # and then the keeper is killed
    for now in (1000.0, 1100.0):
        keeper.look(coordinator, runs, now)  # type: ignore[arg-type]
        assert state(coordinator) == (RUNNING, 1)
        assert list(runs.known) == [1], "no other was started"
    runs.end(1, "failed")
    keeper.look(coordinator, runs, 1200.0)  # type: ignore[arg-type]
    assert list(runs.known) == [1, 2]
    runs.end(2, "failed")
    runs.start({"exchange": "spring"})  # and again
    coordinator.catalogue.schedule.cancel("spring")
    keeper.look(coordinator, runs, 1300.0)  # type: ignore[arg-type]
    assert (runs.stopped, state(coordinator)) == ([3], (CANCELLED, 2))
