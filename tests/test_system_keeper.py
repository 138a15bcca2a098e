"""The keeper beside a real Flower: runs that it does not know of, sites that are not there yet."""

import json
import time
from pathlib import Path

import pytest
from flwr.app import Message
from played import Line, admission, begin, made, played, started

from not_core.errors import ServiceError
from not_core.protocol import TRANSPLANT
from server import home as homes
from server import keeper, service
from server.home import Coordinator
from server.schedule import RUNNING, Begun
from simulations.benches.bare_sites import names
from simulations.federation.served import until

COUNT = 3


def exchange(coordinator: Coordinator, name: str) -> Begun:
    return next(one for one in coordinator.catalogue.schedule.begun() if one.name == name)


def test_the_keeper_beside_flower(tmp_path: Path) -> None:
    with made(tmp_path, COUNT) as coordinator, started(coordinator):
        a_run_that_was_not_noted_is_taken_on(coordinator)
        an_exchange_waits_for_its_sites(coordinator)
        what_flower_refuses_is_said_in_words(coordinator)
        log = (coordinator.folder / "logs" / "superlink.log").read_text()
    said = [json.loads(line)["says"] for line in log.splitlines()]
    assert "ControlServicer.RegisterNode" in said
    assert not [one for one in said if "List" in one or "list-" in one], "a line for each look"


def a_run_that_was_not_noted_is_taken_on(coordinator: Coordinator) -> None:
    """As when the keeper dies between the two."""
    control = service.control_of(coordinator.folder)
    begin(coordinator, COUNT, "adopted")  # no run is begun: too few sites are there
    begun = control.start({"home": str(coordinator.folder.resolve()), "exchange": "adopted"})
    until(lambda: exchange(coordinator, "adopted").run, 30, "a run")
    assert exchange(coordinator, "adopted").run == begun
    assert [run.identifier for run in control.runs()] == [begun]
    coordinator.catalogue.schedule.cancel("adopted")
    until(lambda: keeper.ended(coordinator, "adopted"), 30, "its end")
    (run,) = control.runs()
    assert (run.exchange, run.outcome) == ("adopted", "stopped")


def an_exchange_waits_for_its_sites(coordinator: Coordinator) -> None:
    """And then not for the one that is silent, to have the others sign."""

    def silent(line: Line, request: Message) -> bool:
        return request.metadata.message_type == TRANSPLANT

    settings = coordinator.folder / homes.SETTINGS
    settings.write_text(settings.read_text().replace("wire_seconds = 600", "wire_seconds = 8"))
    begin(coordinator, COUNT, "awaited")
    time.sleep(3 * keeper.POLL_SECONDS)
    assert exchange(coordinator, "awaited").runs == 0
    others, log = set(names(COUNT - 1)), coordinator.catalogue.log
    with played(coordinator, COUNT, 1, {COUNT - 1: silent}):
        until(lambda: {one.profile.site for one in log.witnesses()} == others, 90, "signatures")
        found = exchange(coordinator, "awaited")
        assert (found.state, found.runs) == (RUNNING, 1)
        coordinator.catalogue.schedule.cancel("awaited")
        until(lambda: keeper.ended(coordinator, "awaited"), 30, "its end")


def what_flower_refuses_is_said_in_words(coordinator: Coordinator) -> None:
    control = service.control_of(coordinator.folder)
    with pytest.raises(ServiceError, match=r"no such node.*admit' again"):
        control.unregister(12345)
    with pytest.raises(ServiceError, match="no such run"):
        control.stop(12345)
    _, key, _ = admission(coordinator, names(COUNT)[0])
    control.register(key)
    with pytest.raises(ServiceError, match="connect --new-key"):
        control.register(key)
    with pytest.raises(ServiceError, match="key is not one"):
        control.register("not a key")
    (ended, *_) = control.runs()
    with pytest.raises(ServiceError, match="has ended already"):
        control.stop(ended.identifier)
