"""What sites reach of the coordinator: the few Flower calls that a site makes, and nothing else.

Flower serves its control API, with which runs are started and nodes registered, on the same port
as that of the sites, and asks nobody who they are there. So Flower listens on loopback only, and
this proxy passes on ``PATHS``. Whoever comes is held to a rate, a size and a time.
"""

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from not_core.service import journal
from not_core.service.bounds import FLEET, MOST_ANSWER, MOST_CALL, MOST_OBJECTS
from not_core.service.connections import Bounded, Door, allow_files, origin
from not_core.service.supervisor import end_with_parent

PREFIX = FLEET
PATHS = frozenset(
    {
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    }
)
"""Of Flower's fleet API, all but what registers and unregisters nodes: operators do that."""

CARRIES = "push-object"
"""The one call whose body is more than a few words; nobody knows yet who asks."""

KEPT_BYTES = 64 * 1024
"""Of a request in memory; more of it lies in a temporary file until all has come."""

UPSTREAM_SECONDS = 120.0
KEPT_SECONDS = 75
PASSED = ("content-type", "accept", "flwr-")
KEPT_BACK = ("flwr-task-token", "flwr-superexec-")
"""Headers that are passed on, by their beginnings, but for those that speak for a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one origin may ask of the gateway.

    Attributes:
        rate: Requests a second, over time.
        burst: Requests at once.
        at_once: Requests under way.
    """

    rate: float = 50.0
    burst: int = 200
    at_once: int = 16


class Connection(Bounded):
    """One to the gateway; several sites may come from one origin."""

    most, most_of_one, patience = 512, 128, UPSTREAM_SECONDS


@dataclass
class _Peer:
    allowance: float
    seen: float
    under_way: int = 0


class Gateway:
    """The proxy as an ASGI application.

    Args:
        upstream: Where Flower listens, such as ``https://127.0.0.1:9091``.
        certificate: PEM file of Flower's certificate.
        limits: On each origin.
    """

    def __init__(self, upstream: str, certificate: Path, limits: Limits | None = None) -> None:
        self._upstream, self._certificate = upstream, certificate
        self._limits = limits or Limits()
        self._peers: dict[str, _Peer] = {}
        self._client: httpx.AsyncClient | None = None

    def app(self) -> Starlette:
        """What a server serves."""

        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            context = ssl.create_default_context(cafile=str(self._certificate))
            async with httpx.AsyncClient(
                base_url=self._upstream,
                verify=context,
                trust_env=False,
                timeout=httpx.Timeout(UPSTREAM_SECONDS, connect=5),
                limits=httpx.Limits(max_connections=64),
            ) as client:
                self._client = client
                yield

        app = Starlette(
            routes=[Route(PREFIX + "{call}", self._pass_on, methods=["POST"])], lifespan=lifespan
        )
        app.router.redirect_slashes = False
        return app

    async def _pass_on(self, request: Request) -> Response:
        call = request.path_params["call"]
        if call not in PATHS:
            return Response(status_code=404)
        peer = self._peer(origin(request.client))
        if peer.allowance < 1 or peer.under_way >= self._limits.at_once:
            return _later(1)
        peer.allowance -= 1
        peer.under_way += 1
        try:
            with SpooledTemporaryFile(KEPT_BYTES) as body:
                most = MOST_ANSWER if call == CARRIES else MOST_CALL
                if not await _read(request, body, most):
                    return Response(status_code=413)
                if call == "push-messages" and not is_reply(body.read()):
                    return Response(status_code=403)
                return await self._ask(call, request, body)
        except (ClientDisconnect, TimeoutError):
            return _later(1)
        finally:
            peer.under_way -= 1

    async def _ask(self, call: str, request: Request, body: IO[bytes]) -> Response:
        assert self._client is not None  # noqa: S101
        headers = _passed(request.headers)
        try:
            content = _pieces(body)
            answer = await self._client.post(PREFIX + call, content=content, headers=headers)
        except httpx.HTTPError:
            return _later(2)
        return Response(
            answer.content, status_code=answer.status_code, headers=_passed(answer.headers)
        )

    def _peer(self, whose: str) -> _Peer:
        now = time.monotonic()
        if len(self._peers) > 4096:  # whoever has been quiet is as good as new
            self._peers = {
                key: one
                for key, one in self._peers.items()
                if one.under_way or now - one.seen < self._limits.burst / self._limits.rate
            }
        peer = self._peers.setdefault(whose, _Peer(self._limits.burst, now))
        gained = (now - peer.seen) * self._limits.rate
        peer.allowance = min(float(self._limits.burst), peer.allowance + gained)
        peer.seen = now
        return peer


def _later(seconds: int) -> Response:
    """What Flower's node takes for a reason to ask again: of a 429, say, it ends."""
    return Response(status_code=503, headers={"retry-after": str(seconds)})


def is_reply(body: bytes) -> bool:
    """Whether what a node pushes is one answer of its own, of bounded size.

    Flower knows which node asks, and believes it whom a message is from and to: a node could speak
    to another site as the coordinator does, and store what nobody asked for. It takes one answer to
    a question, but any object for its content, again and again: so the content is what is named.
    """
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return False
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    said = request.messages_list[0].metadata
    if said.src_node_id != request.node.node_id or not said.reply_to_message_id:
        return False
    [content] = request.message_object_trees
    if content.object_id != said.message_id:
        return False
    level, found = [content], 0
    while level:
        found += len(level)
        if found > MOST_OBJECTS:
            return False
        level = [child for each in level for child in each.children]
    return True


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.startswith(PASSED) and not name.startswith(KEPT_BACK)
    }


async def _read(request: Request, body: IO[bytes], most: int) -> bool:
    """Take in a request's body and go back to its start; False where it is larger than that."""
    size = 0
    async with asyncio.timeout(UPSTREAM_SECONDS):
        async for part in request.stream():
            size += len(part)
            if size > most:
                return False
            body.write(part)
    body.seek(0)
    return True


async def _pieces(body: IO[bytes]) -> AsyncIterator[bytes]:
    body.seek(0)
    while piece := body.read(KEPT_BYTES):
        yield piece


def serve(home: Path) -> None:
    """Serve the gateway of a coordinator's home until told to stop."""
    from server.service import load

    allow_files()
    service = load(home)
    gateway = Gateway(f"https://{service.flower}", home / "flower" / "loopback.pem")
    Connection.door = Door(service.listen, service.port)
    config = uvicorn.Config(
        gateway.app(),
        loop="asyncio",
        ssl_certfile=str(home / "tls.pem"),
        ssl_keyfile=str(home / "tls.key"),
        http=Connection,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEPT_SECONDS,
        timeout_graceful_shutdown=5,
        log_config=None,
    )
    uvicorn.Server(config).run(sockets=[Connection.door])


if __name__ == "__main__":
    end_with_parent()
    journal.begin()
    serve(Path(sys.argv[1]))
