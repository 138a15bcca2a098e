"""Connections to a server, within bounds on who connects and says nothing, or too much."""

import asyncio
import ipaddress
import resource
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOK_SECONDS = 1.0
MOST_FILES = 65_536
MOST_AT_THE_DOOR = 256
"""Who has connected and has not yet begun TLS, at one time."""
SITE_BITS = 64
"""Of an IPv6 address, those that its holder was given: the rest it can choose freely."""


class Door(socket.socket):
    """A listening socket, at which few may stand who are no connection yet.

    One more takes the place of the one that has stood longest, of the origin that has most. Only
    asyncio's own event loop accepts by it; ``Bounded`` tells it who has come in.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._standing: dict[Any, socket.socket] = {}
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((host, port))
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """See ``socket.socket``."""
        connection, peer = super().accept()
        self._standing = {key: one for key, one in self._standing.items() if one.fileno() >= 0}
        self._standing[peer] = connection
        if len(self._standing) > MOST_AT_THE_DOOR:
            crowds = Counter(origin(one) for one in self._standing)
            longest = max(self._standing, key=lambda one: crowds[origin(one)])
            with suppress(OSError):
                self._standing.pop(longest).shutdown(socket.SHUT_RDWR)
        return connection, peer

    def entered(self, peer: Any) -> None:
        """Who came from there is a connection now."""
        self._standing.pop(peer, None)


def origin(peer: tuple[Any, ...] | None) -> str:
    """Whom limits hold: an IPv4 address, or the network of an IPv6 address.

    Args:
        peer: Where somebody connects from, as sockets and requests have it.
    """
    address = str(peer[0]) if peer else ""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if known.version == 4 or known.ipv4_mapped:
        return address
    return str(ipaddress.ip_network((known, SITE_BITS), strict=False))


class Bounded(H11Protocol):
    """A connection that is shut when its client dawdles, or when others need its place.

    Attributes:
        most: Connections at one time; one more takes the place of one that says nothing.
        most_of_one: Of them, those of one origin.
        patience: Seconds that a client may take to say what it asks for, and to take the answer.
        door: By which they come in.
    """

    most: ClassVar[int]
    most_of_one: ClassVar[int]
    patience: ClassVar[float]
    door: ClassVar[Door | None] = None
    _since: float | None = None
    """Since when it is the client whom a request or an answer waits for."""
    _between: bool = False
    """Whether one request is answered, and nothing of another has come."""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        if self.door is not None:
            self.door.entered(transport.get_extra_info("peername"))
        # Those that are being shut are no longer there, though the loop has yet to take them out.
        standing = [one for one in self.connections if not one.transport.is_closing()]
        crowds = Counter(origin(one.client) for one in standing)
        if crowds[origin(self.client)] > self.most_of_one:
            transport.abort()
            return
        if len(standing) > self.most:
            self._make_room(standing, crowds)
        self._look()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._between:
            self._between, self._since = False, time.monotonic()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """An answer is written; the next request has its own time."""
        self._between, self._since = True, time.monotonic()
        super().on_response_complete()

    def _make_room(self, standing: Sequence[Any], crowds: Counter[str]) -> None:
        """Shut the connection that has waited longest, of the origin that has most of them."""
        quiet = [
            (-crowds[origin(one.client)], one._since, one.transport)
            for one in standing
            if isinstance(one, Bounded) and one._since is not None
        ]
        _, _, longest = min(quiet, key=lambda one: one[:2], default=(0, 0.0, self.transport))
        longest.abort()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        now = time.monotonic()
        asking = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not asking and not self.flow.write_paused:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since > self.patience:
            self.transport.abort()
            return
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


def allow_files() -> None:
    """Let this process have as many open files as it may: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
