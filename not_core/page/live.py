"""Server-sent events: a piece of a page, again whenever it has changed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

EVERY_SECONDS, PAUSES = 1.0, 9
"""Least pause before a piece is rendered again: in seconds, and in times of what that took."""
LONGEST_SECONDS = 60.0
"""A browser then asks again, and whoever is no longer signed in gets nothing."""

ending = threading.Event()
"""Set when the server stops: streams then end by themselves."""
MOST_KEPT = 64

Piece = Callable[[], tuple[str, bool]]
"""Renders the piece as it is now; and whether it will change no more."""


class Latest:
    """Texts as they were last rendered: once for all who look, and again when they have changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[Hashable, str]] = {}

    def text(self, key: Hashable, stamp: Hashable, render: Callable[[], str]) -> str:
        """A text.

        Args:
            key: Which.
            stamp: Of what it is rendered; taken before, so that what comes meanwhile shows later.
            render: Called where it was not yet rendered of that.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == stamp:
                return kept[1]
            text = render()
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = (stamp, text)
            return text


def stream(piece: Piece) -> StreamingResponse:
    """Send a piece of a page until it is final, or a minute has passed."""
    return StreamingResponse(_events(piece), media_type="text/event-stream")


async def _events(piece: Piece) -> AsyncIterator[str]:
    sent, deadline = "", time.monotonic() + LONGEST_SECONDS
    yield "retry: 1000\n\n"
    while time.monotonic() < deadline and not ending.is_set():
        started = time.monotonic()
        text, final = await run_in_threadpool(piece)
        took = time.monotonic() - started
        if text != sent:
            sent = text
            yield event("piece", text)
        if final:
            yield event("end", "")
            return
        await asyncio.sleep(max(EVERY_SECONDS, PAUSES * took))


def event(name: str, text: str) -> str:
    """One event; a line of data for each line of text.

    Source: HTML Living Standard, section 9.2.6.
    """
    data = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{data}\n"
