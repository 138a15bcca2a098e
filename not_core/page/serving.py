"""How a page is served: within bounds on who connects and says nothing, or too much."""

from collections.abc import Callable
from types import FrameType

import uvicorn

from not_core.errors import ServiceError
from not_core.page.application import Page, Place
from not_core.page.live import ending
from not_core.service.connections import Bounded, Door

HEADER_BYTES = 32 * 1024
STOP_SECONDS = 2


class Connection(Bounded):
    """One to a page."""

    most, most_of_one, patience = 128, 64, 10.0


class Server(uvicorn.Server):
    """Ends streams when it is told to stop, which would else be cut off."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See ``uvicorn.Server``."""
        ending.set()
        super().handle_exit(sig, frame)


def config_of(page: Page, place: Place) -> uvicorn.Config:
    """How uvicorn is to serve a page."""
    return uvicorn.Config(
        page.app,
        loop="asyncio",
        http=Connection,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
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
    try:
        door = Door(place.listen, place.port)
    except OSError as error:
        raise ServiceError(
            f"port {place.port} of {place.listen} cannot be listened on ({error.strerror}); "
            "end what uses it, or choose another by --port"
        ) from None
    with door:
        Connection.door = door
        told(place.url)
        Server(config_of(page, place)).run(sockets=[door])
