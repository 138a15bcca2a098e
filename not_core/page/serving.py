"""How a page is served: within bounds on who connects and says nothing, or too much."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from not_core.errors import ServiceError
from not_core.page.application import Page, Place
from not_core.page.live import ending

MOST_CONNECTIONS, MOST_OF_ONE = 128, 64
"""Connections at one time, and of them those of one address."""

REQUEST_SECONDS = 10.0
"""How long a client may take to say what it asks for."""

LOOK_SECONDS = 1.0
HEADER_BYTES = 32 * 1024
STOP_SECONDS = 2


class Bounded(H11Protocol):
    """A connection that is shut when its client dawdles, or its address has too many."""

    _since: float | None = None

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        here = [one for one in self.connections if _address(one) == _address(self)]
        if len(here) > MOST_OF_ONE:
            transport.abort()
            return
        self._look()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        now = time.monotonic()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since > REQUEST_SECONDS:
            self.transport.abort()
            return
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


def _address(connection: Any) -> str:
    return str(connection.client[0]) if connection.client else ""


class Server(uvicorn.Server):
    """Ends streams when it is told to stop, which would else be cut off."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """See ``uvicorn.Server``."""
        ending.set()
        super().handle_exit(sig, frame)


def config_of(page: Page, place: Place) -> uvicorn.Config:
    """How uvicorn is to serve a page."""
    return uvicorn.Config(
        page.app,
        http=Bounded,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        log_config=None,
    )


def serve(page: Page, place: Place, told: Callable[[str], None] = lambda address: None) -> None:
    """Serve a page until told to stop.

    Args:
        page: What.
        place: Where.
        told: Told the address once it is listened on.

    Raises:
        ServiceError: The port is taken, or may not be listened on.
    """
    family = socket.AF_INET6 if ":" in place.listen else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((place.listen, place.port))
        except OSError as error:
            raise ServiceError(
                f"port {place.port} of {place.listen} cannot be listened on ({error.strerror}); "
                "end what uses it, or choose another by --port"
            ) from None
        told(place.url)
        Server(config_of(page, place)).run(sockets=[listening])
