"""Nodes that Flower and the catalogue know differently: whatever was cut off or lost, is mended."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client import service as site_service
from not_core import canonical
from not_core.protocol import ADMISSION_TYPE, Admission
from not_core.service.supervisor import LOOPBACK, answers, free_port
from not_core.trust import keys
from not_core.trust.statement import sign_statement
from server import home as homes
from server import service
from server.home import Coordinator
from simulations.bare_sites import FEDERATION, found, names
from simulations.served import until

NAMES = names(2)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    found(tmp_path, len(NAMES))
    home = tmp_path / "coordinator"
    homes.create(home, tmp_path / FEDERATION)
    ports = {name: free_port() for name in ("port", "flower_port", "monitor_port")}
    service.create(home, service.Service(host=LOOPBACK, listen=LOOPBACK, **ports))
    loaded = homes.load(home)
    yield loaded
    loaded.catalogue.close()


@contextmanager
def started(coordinator: Coordinator) -> Iterator[None]:
    home = coordinator.folder
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-c", "from server.commands import main; main()", "start", str(home)]
    )
    try:
        port = service.load(home).flower_port
        until(lambda: answers(LOOPBACK, port), 60, "Flower")
        yield
    finally:
        process.terminate()
        process.wait(30)


def admission(coordinator: Coordinator, site: str) -> tuple[bytes, str]:
    """A site's word for a new node, and the node's public key."""
    key = coordinator.folder.parent / "key"
    key.write_bytes(site_service.node_key())
    key.chmod(0o600)
    public = site_service._public(key)
    identity = keys.load(coordinator.folder.parent / site)
    said = canonical.encode(Admission(profile=identity.profile, node_key=public))
    return sign_statement(said, ADMISSION_TYPE, identity), public


def test_what_was_cut_off_or_lost_is_mended_by_the_same_command(coordinator: Coordinator) -> None:
    control = service.control_of(coordinator.folder)
    one, key = admission(coordinator, NAMES[0])
    other, other_key = admission(coordinator, NAMES[1])
    with started(coordinator):
        begun = control.register(key)  # and then the machine fails
        assert service.admit(coordinator, one) == (NAMES[0], begun)
        assert service.admit(coordinator, one) == (NAMES[0], begun), "again, it changes nothing"
        control.unregister(begun)  # and then the machine fails
        one, key = admission(coordinator, NAMES[0])
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
