"""What sites can reach of the coordinator, and how much of it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from flwr.app import RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from not_core.protocol import SEGMENT_BYTES, Refusal, pack
from not_core.service.bounds import MOST_ANSWER, MOST_CALL, MOST_OBJECTS
from server import gateway as gateways
from server.gateway import PATHS, PREFIX, Gateway, Limits, is_reply

Ask = Callable[..., Awaitable[httpx.Response]]


class Flower:
    """Stands in for Flower, which the system tests run: says what reached it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.held = asyncio.Event()
        self.held.set()

    async def answer(self, request: Request) -> Response:
        self.asked.append((request.url.path, dict(request.headers), await request.body()))
        await self.held.wait()
        return Response(b"answer", headers={"server": "flower", "content-type": "x/y"})


def gateway(limits: Limits | None = None) -> tuple[Flower, Ask]:
    """A gateway before a Flower, and a way to ask it from an address."""
    flower = Flower()
    app = Starlette(routes=[Route("/{path:path}", flower.answer, methods=["POST", "GET"])])
    made = Gateway("https://flower", Path("unused"), limits)
    made._client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="https://flower"
    )

    async def ask(
        path: str, method: str = "POST", address: str = "1.1.1.1", **more: object
    ) -> httpx.Response:
        transport = httpx.ASGITransport(app=made.app(), client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            return await client.request(method, path, **more)  # type: ignore[arg-type]

    return flower, ask


def test_the_calls_of_a_site_pass_and_no_others() -> None:
    async def run() -> None:
        flower, ask = gateway()
        for call in PATHS - {"push-messages"}:
            answer = await ask(PREFIX + call, content=b"question")
            assert (answer.status_code, answer.content) == (200, b"answer")
            assert "server" not in answer.headers
            assert flower.asked[-1][0] == PREFIX + call
            assert flower.asked[-1][2] == b"question"
        passed = len(flower.asked)
        for path in (
            "/",
            "/docs",
            "/openapi.json",
            "/v1/control/start-run",
            "/v1/control/register-node",
            "/v1/runtime/acquire-task",
            "/v1/fleet/register-node",
            "/v1/fleet/unregister-node",
            "/v1/fleet/../control/start-run",
            "/v1/fleet/%2e%2e/control/start-run",
            "/v1/fleet/pull-messages/../../control/list-runs",
            "//v1/control/start-run",
        ):
            assert (await ask(path)).status_code == 404, path
        assert (await ask(PREFIX + "get-run", method="GET")).status_code == 405
        assert len(flower.asked) == passed

    asyncio.run(run())


def pushed(
    content: RecordDict,
    source: int = 7,
    reply_to: str = "asked",
    number: int = 1,
    below: str = "content",
) -> PushMessagesRequest:
    """What Flower's node 7 pushes."""
    metadata = Metadata(src_node_id=source, reply_to_message_id=reply_to, message_id="content")
    tree = ObjectTree(object_id=below, children=[get_object_tree(content)])
    return PushMessagesRequest(
        node=Node(node_id=7),
        messages_list=[Message(metadata=metadata)] * number,
        message_object_trees=[tree] * number,
    )


def test_a_node_pushes_one_answer_of_its_own_and_nothing_else() -> None:
    value = Refusal(code="policy")
    segment = pack(value, bytes(SEGMENT_BYTES))
    assert is_reply(pushed(segment).SerializeToString())
    forged = [
        pushed(segment, source=1),  # as the coordinator
        pushed(segment, reply_to=""),  # unasked
        pushed(segment, number=2),
        pushed(segment, below="more"),  # Flower would store it beside what it has
        pushed(pack(value, b"".join(bytes([one]) * 5 * 2**20 for one in range(MOST_OBJECTS)))),
        PushMessagesRequest(node=Node(node_id=7)),
    ]
    assert not any(is_reply(one.SerializeToString()) for one in forged)
    assert not is_reply(b"\xff")

    async def run() -> None:
        flower, ask = gateway()
        path = PREFIX + "push-messages"
        answers = [await ask(path, content=one.SerializeToString()) for one in forged]
        assert [one.status_code for one in answers] == [403] * len(forged)
        assert flower.asked == []
        content = pushed(segment).SerializeToString()
        assert (await ask(path, content=content)).status_code == 200

    asyncio.run(run())


def test_a_tasks_token_does_not_pass() -> None:
    async def run() -> None:
        flower, ask = gateway()
        sent = {
            "flwr-task-token": "stolen",
            "flwr-superexec-signature": "stolen",
            "flwr-public-key": "key",
            "cookie": "x",
            "x-forwarded-for": "127.0.0.1",
        }
        await ask(PREFIX + "get-run", headers=sent)
        assert set(flower.asked[0][1]) & sent.keys() == {"flwr-public-key"}

    asyncio.run(run())


def test_a_request_is_bounded() -> None:
    async def run() -> None:
        flower, ask = gateway()
        assert (await ask(PREFIX + "push-object", content=bytes(MOST_ANSWER))).status_code == 200
        too_large = await ask(PREFIX + "push-object", content=bytes(MOST_ANSWER + 1))
        assert too_large.status_code == 413
        for call in PATHS - {"push-object"}:  # of nobody is it known yet who asks
            assert (await ask(PREFIX + call, content=bytes(MOST_CALL + 1))).status_code == 413
        assert len(flower.asked) == 1

    asyncio.run(run())


def test_a_site_that_floods_holds_up_itself() -> None:
    async def run() -> None:
        _, ask = gateway(Limits(rate=0.001, burst=5, at_once=100))
        flood = [(await ask(PREFIX + "get-run")).status_code for _ in range(9)]
        assert flood == [200] * 5 + [503] * 4
        assert (await ask(PREFIX + "get-run", address="2.2.2.2")).status_code == 200

    asyncio.run(run())


def test_requests_under_way_are_bounded() -> None:
    async def run() -> None:
        flower, ask = gateway(Limits(rate=100, burst=100, at_once=2))
        flower.held.clear()
        waiting = [asyncio.create_task(ask(PREFIX + "get-run")) for _ in range(2)]
        while len(flower.asked) < 2:
            await asyncio.sleep(0)
        assert (await ask(PREFIX + "get-run")).status_code == 503
        flower.held.set()
        assert [(await one).status_code for one in waiting] == [200, 200]
        assert (await ask(PREFIX + "get-run")).status_code == 200

    asyncio.run(run())


def test_a_flower_that_is_away_is_no_fault_of_the_site() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away")

    async def run() -> None:
        made = Gateway("https://flower", Path("unused"))
        made._client = httpx.AsyncClient(
            transport=httpx.MockTransport(refuse), base_url="https://flower"
        )
        transport = httpx.ASGITransport(app=made.app(), client=("1.1.1.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            answer = await client.post(PREFIX + "get-run")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")

    asyncio.run(run())


@pytest.mark.parametrize("quiet", [True, False])
def test_addresses_are_forgotten_when_they_are_quiet(
    quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 0.0
    monkeypatch.setattr("server.gateway.time.monotonic", lambda: moment)
    made = Gateway("https://flower", Path("unused"), Limits(rate=1, burst=10, at_once=1))
    for number in range(4097):
        made._peer(str(number))
    moment = 11.0 if quiet else 1.0
    made._peer("new")
    assert len(made._peers) == (1 if quiet else 4098)


def test_the_gateway_is_served_with_bounds_on_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "service.toml").write_text('host = "127.0.0.1"\n')
    served: dict[str, object] = {}

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        config = self.config
        served.update(http=config.http, loop=config.loop, door=sockets)
        served.update(proxies=config.proxy_headers)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(gateways.Connection, "door", None)  # and as it was, afterwards
    monkeypatch.setattr(gateways, "Door", lambda host, port: (host, port))
    monkeypatch.setattr(gateways, "allow_files", lambda: served.update(files=True))
    gateways.serve(tmp_path)
    connection = gateways.Connection
    assert served == {
        "http": connection,
        "loop": "asyncio",
        "door": [connection.door],
        "files": True,
        "proxies": False,  # whose word anybody on this machine could give
    }
    assert connection.door == ("0.0.0.0", 9092)  # noqa: S104
