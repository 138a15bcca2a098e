"""A site whose node the coordinator has not let in is told so, by a real coordinator."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.supernode.fleet_http_connection import http_request_response
from played import made, started

from client import commands
from client import home as site_home
from client import service as site_service
from client.policy import Policy
from client.service import node_key_of
from not_core.service.supervisor import LOOPBACK
from not_core.trust import authority, keys
from not_core.trust.federation import load_trust
from not_core.trust.profile import read_request
from server import service
from server.home import Coordinator
from simulations.benches.bare_sites import FEDERATION


def connected(coordinator: Coordinator) -> Path:
    """Home of a member that is connected to a coordinator."""
    place = coordinator.folder.parent
    settings = site_home.Settings(site="clinic", model="", records="", general="", domain="care")
    home = place / "clinic"
    site_home.create(home, settings, Policy())
    request = read_request(home / "identity" / keys.REQUEST)
    profile = authority.admit(place / FEDERATION, request)
    keys.install(home / "identity", profile, load_trust(place / FEDERATION))
    address = f"{LOOPBACK}:{service.load(coordinator.folder).port}"
    site_service.connect(site_home.load(home), address, coordinator.folder / "tls.pem")
    return home


def test_a_node_that_was_not_admitted_is_told_whom_to_give_what(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(home: Path) -> tuple[str, str]:
        rows = json.loads(call("doctor", home, "--json", app=commands.app)[1])
        found = {row["check"]: (row["found"], row["says"]) for row in rows}
        return found["admission"]

    with made(tmp_path, 2) as coordinator:
        home = connected(coordinator)
        assert "cannot be reached" in said(home)[1]
        with started(coordinator):
            found, words = said(home)
            assert found == "WRONG"
            assert words.startswith("the coordinator has not admitted this node")
            assert words.endswith(f"give its operator {home / 'node' / 'admission'}")
            control = service.control_of(coordinator.folder)
            assert control.registered() == {}

            _, node = service.admit(coordinator, (home / "node" / "admission").read_bytes())
            assert said(home) == ("well", "the coordinator knows this node")
            assert node not in control.online(), "it was only asked"

            key = node_key_of(home / "node" / "key")
            address = (home / "node" / "coordinator").read_text()
            certificate = (home / "node" / "coordinator.pem").read_bytes()
            with http_request_response(address, False, certificate, (key, key.public_key())):
                assert node in control.online()
                assert said(home)[0] == "well"
                assert node in control.online(), "one that runs is not disturbed"

            late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
            with monkeypatch.context() as clock:
                clock.setattr("flwr.supernode.node_auth_http_interceptor.now", lambda: late)
                assert "clock" in said(home)[1]
            control.unregister(node)
            assert "has not admitted this node, or has taken it back" in said(home)[1]
