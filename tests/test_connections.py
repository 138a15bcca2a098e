"""Connections to a server: who says nothing gives way to who does."""

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import uvicorn
from servers import in_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from not_core.service import connections, tls
from not_core.service.connections import Bounded, Door, origin
from server.gateway import PREFIX, Gateway

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other addresses on loopback")


class Few(Bounded):
    """Eight at most, of which six may be of one address."""

    most, most_of_one, patience = 8, 6, 60.0


def server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(app, http=Few, ws="none", log_config=None, timeout_graceful_shutdown=1)
    return uvicorn.Server(config)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.05)

    async def answer(request: Request) -> Response:
        return Response("here")

    with in_thread(server(Starlette(routes=[Route("/", answer)]))) as port:
        yield port


def connect(port: int, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(address, 0))


def is_shut(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def ask(port: int, address: str) -> int:
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as client:
        return client.get(f"http://127.0.0.1:{port}/").status_code


def test_a_crowd_that_says_nothing_makes_room(port: int) -> None:
    with ExitStack() as stack:
        few = [stack.enter_context(connect(port, "127.0.0.2")) for _ in range(2)]
        crowd = [stack.enter_context(connect(port, "127.0.0.3")) for _ in range(6)]
        time.sleep(0.2)
        assert ask(port, "127.0.0.4") == 200
        assert [is_shut(one) for one in crowd] == [True, *[False] * 5]
        assert not any(is_shut(one) for one in few)


def test_one_address_has_no_more_than_its_part(port: int) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(port, "127.0.0.3")) for _ in range(7)]
        time.sleep(0.2)
        assert is_shut(crowd[-1])
        assert not is_shut(crowd[0])


def test_who_never_begins_tls_gives_way_to_who_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_AT_THE_DOOR", 4)
    tls.create(tmp_path / "tls.pem", tmp_path / "tls.key", ["127.0.0.1"])
    trusted = ssl.create_default_context(cafile=str(tmp_path / "tls.pem"))

    async def answer(request: Request) -> Response:
        return Response("here")

    config = uvicorn.Config(
        Starlette(routes=[Route("/", answer)]),
        http=Few,
        ws="none",
        loop="asyncio",
        ssl_certfile=tmp_path / "tls.pem",
        ssl_keyfile=tmp_path / "tls.key",
        log_config=None,
    )
    with Door("127.0.0.1", 0) as door, ExitStack() as stack:
        monkeypatch.setattr(Few, "door", door)
        serving = uvicorn.Server(config)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [door]})
        thread.start()
        stack.callback(thread.join)
        stack.callback(setattr, serving, "should_exit", True)
        while not serving.started:
            time.sleep(0.02)
        port = door.getsockname()[1]
        alone = stack.enter_context(connect(port, "127.0.0.2"))
        crowd = [stack.enter_context(connect(port, "127.0.0.3")) for _ in range(3)]
        time.sleep(0.2)
        for _ in range(2):  # each is a connection by then, and stands at the door no more
            with httpx.Client(
                verify=trusted, transport=httpx.HTTPTransport(trusted, local_address="127.0.0.4")
            ) as client:
                assert client.get(f"https://127.0.0.1:{port}/").status_code == 200
        assert [is_shut(one) for one in crowd] == [True, False, False]
        assert not is_shut(alone)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("testclient", "", False),
    ],
)
def test_who_has_a_network_of_addresses_counts_once(one: str, other: str, same: bool) -> None:
    assert (origin((one, 1)) == origin((other, 2, 0, 0))) is same


def test_a_request_that_is_broken_off_leaves_no_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a stranger fills the disk with them."""
    tls.create(tmp_path / "tls.pem", tmp_path / "tls.key", ["127.0.0.1"])
    gateway = Gateway("https://127.0.0.1:1", tmp_path / "tls.pem")
    with in_thread(server(gateway.app())) as port, connect(port, "127.0.0.2") as one:
        head = f"POST {PREFIX}get-run HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf"
        one.sendall(head.encode())
        time.sleep(0.2)
        one.close()
        time.sleep(0.3)
    assert not [record for record in caplog.records if record.exc_info]


def test_who_does_not_take_its_answers_is_shut_and_who_goes_on_asking_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(Few, "patience", 1.0)

    async def answer(request: Request) -> Response:
        return Response(bytes(64_000_000 if request.url.query else 1))

    with in_thread(server(Starlette(routes=[Route("/", answer)]))) as port:
        with connect(port, "127.0.0.3") as deaf, httpx.Client() as client:
            deaf.sendall(b"GET /?all HTTP/1.1\r\nhost: x\r\n\r\n")
            opened = set()
            for _ in range(25):  # more than twice the patience
                said = client.get(f"http://127.0.0.1:{port}/")
                opened.add(said.extensions["network_stream"].get_extra_info("client_addr"))
                time.sleep(0.1)
            deaf.settimeout(5)
            took = 0
            with contextlib.suppress(ConnectionError):
                while part := deaf.recv(2**20):
                    took += len(part)
            assert took < 64_000_000
        assert len(opened) == 1, "the same connection all the time"
