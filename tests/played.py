"""A real coordinator in processes of its own, and sites without models that a test plays at it."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from client import service as site_service
from not_core import canonical
from not_core.protocol import ADMISSION_TYPE, Admission, pack, unpack
from not_core.service.supervisor import LOOPBACK, answers, free_port
from not_core.trust import keys
from not_core.trust.statement import sign_statement
from server import home as homes
from server import service
from server.home import Coordinator
from simulations.benches.bare_sites import FEDERATION, BareSites, found, names
from simulations.benches.bench_coordinator import settings
from simulations.federation.served import until

Reply = Callable[["Line", Message], bool]
"""Answers a request by itself; whether it has."""


@contextmanager
def made(place: Path, sites: int) -> Iterator[Coordinator]:
    """A coordinator's home, for the sites that ``bare_sites`` found beside it."""
    found(place, sites)
    home = place / "coordinator"
    homes.create(home, place / FEDERATION)
    ports = {name: free_port() for name in ("port", "flower_port", "monitor_port")}
    service.create(home, service.Service(host=LOOPBACK, listen=LOOPBACK, **ports))
    with homes.opened(home) as loaded:
        yield loaded


@contextmanager
def started(coordinator: Coordinator) -> Iterator[None]:
    """Serve it meanwhile, as its operator would."""
    home = coordinator.folder
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-c", "from server.commands import main; main()", "start", str(home)]
    )
    try:
        served = service.load(home)
        for port in (served.flower_port, served.port):
            until(lambda port=port: answers(LOOPBACK, port), 60, f"port {port}")
        yield
    finally:
        process.terminate()
        process.wait(30)


def admission(coordinator: Coordinator, site: str) -> tuple[bytes, str, bytes]:
    """A site's word for a new node; the node's public key and private key."""
    private = site_service.node_key()
    key = coordinator.folder.parent / "key"
    key.write_bytes(private)
    key.chmod(0o600)
    public = site_service._public(key)
    identity = keys.load(coordinator.folder.parent / site)
    said = canonical.encode(Admission(profile=identity.profile, node_key=public))
    return sign_statement(said, ADMISSION_TYPE, identity), public, private


class Line:
    """What a node says to its coordinator, in Flower's own words."""

    def __init__(self, calls: tuple[Any, ...]) -> None:
        self.node, self._receive, self._send, _, _, self._pull, self._push, self._confirm = calls

    def received(self) -> Message | None:
        """The next request, taken in whole."""
        got = self._receive()
        if got is None:
            return None
        begun, tree = got
        run, identifier = begun.metadata.run_id, begun.metadata.message_id
        contents = pull_objects(
            [each.object_id for each in iterate_object_tree(tree)],
            pull_object_fn=lambda each: self._pull(run, each),
        )
        self._confirm(run, identifier)
        message = inflate_object_from_contents(identifier, contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = identifier
        return message

    def send(self, reply: Message, tree: Any) -> tuple[set[str], str]:
        """Announce a reply whose objects are these; those that are wanted, and a session."""
        wanted: tuple[set[str], str] = self._send(reply, tree, 0.1)
        return wanted

    def stores(self, reply: Message, tree: Any) -> bool:
        """Whether the coordinator takes a reply with these objects; Flower reads a 403 so."""
        try:
            self.send(reply, tree)
        except RunNotRunningException:
            return False
        return True

    def announce(self, reply: Message, root: Any = None) -> Callable[[], None]:
        """Announce a reply, or another object in its place; what then sends its objects."""
        whole = reply if root is None else root
        with no_object_id_recompute():
            objects, tree = get_all_nested_objects(whole), get_object_tree(whole)
            reply.metadata.__dict__["_message_id"] = whole.object_id
            wanted, session = self.send(reply, tree)

        def push() -> None:
            for identifier, one in objects.items():
                if identifier in wanted:
                    self._push(reply.metadata.run_id, session, identifier, one.deflate())

        return push


@contextmanager
def played(
    coordinator: Coordinator, count: int, donors: int, instead: dict[int, Reply]
) -> Iterator[BareSites]:
    """Admit so many sites and answer for them; some may answer otherwise."""
    place, stopping = coordinator.folder.parent, threading.Event()
    (place / "work").mkdir()
    sites = BareSites(place, place / "work", count, donors, size=1000)
    certificate = (coordinator.folder / "tls.pem").read_bytes()
    address = f"{LOOPBACK}:{service.load(coordinator.folder).port}"

    def play(number: int, private: Any) -> None:
        with http_request_response(
            address, False, certificate, (private, private.public_key())
        ) as calls:
            line = Line(calls)
            while not stopping.is_set():
                request = line.received()
                if request is None:
                    time.sleep(0.2)
                    continue
                if number in instead:
                    answered = True
                    with suppress(Exception):  # of what nobody wants the rest is not taken
                        answered = instead[number](line, request)
                    if answered:
                        continue
                packet = unpack(request.content)
                value, body = sites.answer(number + 1, request.metadata.message_type, packet)
                line.announce(Message(pack(value, body), reply_to=request))()

    with ExitStack() as stack:
        threads: list[threading.Thread] = []
        stack.callback(lambda: [one.join(20) for one in threads])
        stack.callback(stopping.set)
        for number, name in enumerate(names(count)):
            envelope, _, private = admission(coordinator, name)
            service.admit(coordinator, envelope)
            key = serialization.load_ssh_private_key(private, None)
            thread = threading.Thread(target=play, args=(number, key), daemon=True)
            thread.start()
            threads.append(thread)
        yield sites


def begin(coordinator: Coordinator, count: int, name: str = "bench") -> None:
    """Ask for an exchange of so many sites."""
    coordinator.catalogue.schedule.begin(replace(settings(count).asked, exchange=name))
