"""What sites say that mean harm, and a stolen task token, at a coordinator in real processes."""

import os
import secrets
import sqlite3
import ssl
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Array, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import GetNodesRequest
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.runtime import RuntimeHttpClient
from played import Line, begin, made, played, started

from not_core.protocol import CHUNK_BYTES, DELIVER, REVOKE, SEGMENT_BYTES, Refusal, pack
from not_core.service.supervisor import LOOPBACK
from server.catalogue import Happened
from server.home import Coordinator
from server.service import load
from simulations.benches.bare_sites import names
from simulations.federation.served import until

SITES, DONORS = 7, 2
SILENT, NONSENSE, HUGE, BOMB, POISON = 2, 3, 4, 5, 6
"""Four spoil what they answer to a delivery; one, what others say."""


def test_a_spoilt_reply_is_its_senders_affair(tmp_path: Path) -> None:
    """While one reply never comes whole, the donors' organs go from hand to hand."""
    announced: list[Line] = []
    stored_again: list[bool] = []
    poisoned: list[Line] = []

    def silent(line: Line, request: Message) -> bool:
        if request.metadata.message_type != DELIVER:
            return False
        reply = Message(pack(Refusal(code="policy")), reply_to=request)
        line.announce(reply)
        announced.append(line)
        stored_again.append(line.stores(reply, ObjectTree(object_id=secrets.token_hex(32))))
        return True

    def nonsense(line: Line, request: Message) -> bool:
        if request.metadata.message_type != DELIVER:
            return False
        line.announce(Message(RecordDict(), reply_to=request), ConfigRecord({"a": 1}))()
        return True

    def huge(line: Line, request: Message) -> bool:
        if request.metadata.message_type != DELIVER:
            return False
        body = os.urandom(SEGMENT_BYTES + 2 * 1024 * 1024)
        line.announce(Message(pack(Refusal(code="policy"), body), reply_to=request))()
        return True

    def bomb(line: Line, request: Message) -> bool:
        """One piece that is sent once, and named eight times."""
        if request.metadata.message_type != DELIVER:
            return False
        said = pack(Refusal(code="policy"))
        body = bytes(8 * CHUNK_BYTES)
        said.array_records["content"]["body"] = Array("uint8", (len(body),), "organ.bytes", body)
        line.announce(Message(said, reply_to=request))()
        return True

    def poison(line: Line, request: Message) -> bool:
        """Say what is below objects that others will send, as far as they can be known."""
        if request.metadata.message_type != REVOKE or poisoned:
            return False
        reply = Message(pack(Refusal(code="policy")), reply_to=request)
        known: list[Any] = [Array("uint8", (0,), "organ.bytes", b"")]
        known += [ConfigRecord({"name": kind}) for kind in ("DonateRequest", "DeliverRequest")]
        below = [ObjectTree(object_id=secrets.token_hex(32))]
        leaves = [ObjectTree(object_id=one.object_id, children=below) for one in known]
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree = ObjectTree(object_id=reply.object_id, children=leaves)
            line.send(reply, tree)
        poisoned.append(line)
        return True

    def failures() -> set[tuple[str, str]]:
        return {(one.site, one.code) for one in events(coordinator) if one.code}

    evil = {SILENT: silent, NONSENSE: nonsense, HUGE: huge, BOMB: bomb, POISON: poison}
    with (
        made(tmp_path, SITES) as coordinator,
        started(coordinator),
        played(coordinator, SITES, DONORS, evil),
    ):
        begin(coordinator, SITES)
        until(lambda: len(coordinator.catalogue.receipts("bench")) == 4, 300, "four receipts")
        assert announced, "the reply that never comes was begun"
        assert stored_again == [False], "one reply has one content, however often it is announced"
        assert poisoned, "what others might have said was named first"
        spoilt = {(names(SITES)[number], "format") for number in (NONSENSE, HUGE, BOMB)}
        until(lambda: spoilt <= failures(), 60, "what was spoilt is named")
        silent_one = names(SITES)[SILENT]
        assert not [one for one in failures() if one[0] == silent_one], "which is still awaited"
        a_stolen_token_opens_nothing(coordinator)
        [begun] = coordinator.catalogue.schedule.begun()
        assert (begun.state, begun.runs) == ("running", 1)


def a_stolen_token_opens_nothing(coordinator: Coordinator) -> None:
    """The token of the task that runs: good on loopback, and of no use to who comes from a site."""
    with closing(sqlite3.connect(coordinator.folder / "flower" / "state.db")) as book:
        [(token,)] = book.execute("SELECT token FROM task WHERE token IS NOT NULL").fetchall()
    served = load(coordinator.folder)

    def nodes(port: int, certificate: str) -> int:
        client = RuntimeHttpClient.from_server_address(
            f"{LOOPBACK}:{port}",
            insecure=False,
            root_certificates=(coordinator.folder / certificate).read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
                RuntimeTokenHttpInterceptor(token=token),
            ],
        )
        with closing(client):
            return len(client.GetNodes(GetNodesRequest()).nodes)

    assert nodes(served.flower_port, "flower/loopback.pem") == SITES
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        nodes(served.port, "tls.pem")
    trusted = ssl.create_default_context(cafile=str(coordinator.folder / "tls.pem"))
    with httpx.Client(verify=trusted) as site:
        for call in ("get-run", "pull-messages"):
            answer = site.post(
                f"https://{LOOPBACK}:{served.port}/v1/fleet/{call}",
                headers={"flwr-task-token": token, "content-type": PROTOBUF_MEDIA_TYPE},
            )
            assert answer.status_code == 401


def events(coordinator: Coordinator) -> list[Happened]:
    return list(coordinator.catalogue.events("bench", 1000))
