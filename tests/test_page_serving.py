"""A page's server: who dawdles, who sends too much, who comes too often, and how it ends."""

import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import site
from servers import in_thread
from uvicorn.server import ServerState

from client.page import app as site_page
from not_core.errors import ServiceError
from not_core.page import serving
from not_core.page.application import Place
from not_core.page.guard import SIGN_IN
from not_core.service import connections
from not_core.service.supervisor import free_port

HELD = 0.4
ELSEWHERE = "127.0.0.2"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A site's page that is served here, with little patience."""
    monkeypatch.setattr(serving.Connection, "patience", HELD)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.05)
    found = Place.private(free_port())
    page = site_page.page_of(site(tmp_path), found, "token")

    @page.app.get("/static-slow", include_in_schema=False)
    def slow() -> str:
        time.sleep(3 * HELD)
        return "done"

    server = serving.Server(serving.config_of(page, found))
    with in_thread(server, found.port):
        yield found


def ask(place: Place, path: str = SIGN_IN, since: str = "127.0.0.1", **headers: str) -> int:
    """The code of an answer, asked for by a connection from an address."""
    transport = httpx.HTTPTransport(local_address=since)
    with httpx.Client(transport=transport) as client:
        named = {"host": f"{place.hosts[0]}:{place.port}"} | headers
        return client.get(f"http://{place.listen}:{place.port}{path}", headers=named).status_code


def dawdle(place: Place, said: bytes) -> socket.socket:
    connection = socket.create_connection((place.listen, place.port), timeout=5)
    connection.sendall(said)
    return connection


def is_shut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_it_is_asked_by_a_name_that_nobody_else_knows(place: Place) -> None:
    """Cookies of 127.0.0.1 go to every port of it, also to those of other people."""
    assert ask(place) == 200
    assert ask(place, host=f"127.0.0.1:{place.port}") == 400
    assert Place.private(1) != Place.private(1)


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\nhost:", b"POST / HTTP/1.1\r\nhost: x\r\n"]
)
def test_who_does_not_say_what_it_wants_is_left(place: Place, said: bytes) -> None:
    begun = time.monotonic()
    with dawdle(place, said) as connection:
        assert is_shut(connection)
    assert time.monotonic() - begun >= HELD


def test_a_slow_answer_is_waited_for(place: Place) -> None:
    with httpx.Client(headers={"host": place.hosts[0]}) as client:
        here = f"http://{place.listen}:{place.port}"
        client.get(f"{here}{SIGN_IN}?token=token")
        (cookie,) = client.cookies.items()
        answer = client.get(f"{here}/static-slow", headers={"cookie": "=".join(cookie)}, timeout=9)
    assert answer.text == '"done"'


def test_a_header_is_bounded(place: Place) -> None:
    assert ask(place, x="x" * (serving.HEADER_BYTES // 2)) == 200
    with dawdle(place, b"GET / HTTP/1.1\r\nx: " + b"x" * 4 * serving.HEADER_BYTES) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 4")


@pytest.mark.skipif(sys.platform != "linux", reason="another address on loopback")
def test_one_address_does_not_shut_out_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.Connection, "patience", 60.0)
    crowd = [dawdle(place, b"") for _ in range(serving.Connection.most + 10)]
    try:
        assert ask(place, since=ELSEWHERE) == 200
        assert is_shut(crowd[-1])
        with pytest.raises(httpx.HTTPError):
            ask(place)
    finally:
        for one in crowd:
            one.close()


class Caller:
    """A transport to nobody, which is shut in the next round of the loop, as asyncio's are."""

    def __init__(self, peer: str) -> None:
        self.peer, self.shut = peer, False

    def get_extra_info(self, name: str) -> Any:
        return (self.peer, 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.shut

    def abort(self) -> None:
        self.shut = True


def test_who_is_being_shut_takes_nobodys_place(place: Place, tmp_path: Path) -> None:
    """Many at once: those over the bound are still known when another address comes."""

    async def crowd() -> tuple[list[Caller], Caller]:
        config = serving.config_of(site_page.page_of(site(tmp_path / "two"), place, "t"), place)
        config.load()
        state = ServerState()

        def call(peer: str) -> Caller:
            caller = Caller(peer)
            serving.Connection(config, state, {}).connection_made(caller)  # type: ignore[arg-type]
            return caller

        return [call("127.0.0.1") for _ in range(serving.Connection.most + 10)], call(ELSEWHERE)

    callers, other = asyncio.run(crowd())
    bound = serving.Connection.most_of_one
    assert [one.shut for one in callers] == [number >= bound for number in range(len(callers))]
    assert not other.shut


def test_a_port_that_is_taken_is_said_before_an_address_is(tmp_path: Path) -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} .* --port"):
            site_page.main(site(tmp_path), port, told.append)
    assert told == []
