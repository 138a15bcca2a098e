"""Nodes that Flower and the catalogue know differently: whatever was cut off or lost, is mended."""

from pathlib import Path

from played import admission, made, started

from server import service
from server.home import Coordinator
from simulations.benches.bare_sites import names

NAMES = names(2)


def test_what_was_cut_off_or_lost_is_mended_by_the_same_command(tmp_path: Path) -> None:
    with made(tmp_path, len(NAMES)) as coordinator:
        mended(coordinator)


def mended(coordinator: Coordinator) -> None:
    control = service.control_of(coordinator.folder)
    one, key, _ = admission(coordinator, NAMES[0])
    other, other_key, _ = admission(coordinator, NAMES[1])
    with started(coordinator):
        begun = control.register(key)  # and then the machine fails
        assert service.admit(coordinator, one) == (NAMES[0], begun)
        assert service.admit(coordinator, one) == (NAMES[0], begun), "again, it changes nothing"
        control.unregister(begun)  # and then the machine fails
        one, key, _ = admission(coordinator, NAMES[0])
        anew = service.admit(coordinator, one)[1]
        service.admit(coordinator, other)
        assert sorted(control.registered().values()) == sorted([key, other_key])
        assert control.registered()[anew] == key
    for file in (coordinator.folder / "flower").glob("state.db*"):
        file.unlink()
    with started(coordinator):
        assert control.registered() == {}
        for word in (one, other):
            service.admit(coordinator, word)
        assert sorted(control.registered().values()) == sorted([key, other_key])
        known = {site: node for site, (node, _) in coordinator.catalogue.nodes().items()}
        assert set(known.values()) == control.registered().keys()
