"""Connections to a server, within bounds on who connects and says nothing, or too much."""

import asyncio
import resource
import time
from collections import Counter
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOK_SECONDS = 1.0
MOST_FILES = 65_536


class Bounded(H11Protocol):
    """A connection that is shut when its client dawdles, or when others need its place.

    Attributes:
        most: Connections at one time; one more takes the place of one that says nothing.
        most_of_one: Of them, those of one address.
        patience: Seconds that a client may take to say what it asks for, and to take the answer.
    """

    most: ClassVar[int]
    most_of_one: ClassVar[int]
    patience: ClassVar[float]
    _since: float | None = None
    """Since when it is the client whom a request or an answer waits for."""
    _between: bool = False
    """Whether one request is answered, and nothing of another has come."""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        crowds = Counter(_address(one) for one in self.connections)
        if crowds[_address(self)] > self.most_of_one:
            transport.abort()
            return
        if len(self.connections) > self.most:
            self._make_room(crowds)
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

    def _make_room(self, crowds: Counter[str]) -> None:
        """Shut the connection that has waited longest, of the address that has most of them."""
        quiet = [
            (-crowds[_address(one)], one._since, one.transport)
            for one in self.connections
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


def _address(connection: Any) -> str:
    return str(connection.client[0]) if connection.client else ""


def allow_files() -> None:
    """Let this process have as many open files as it may.

    Who has connected and has not yet begun TLS is no connection here, and takes a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
