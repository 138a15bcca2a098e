"""Messages to sites and what follows from each reply.

Each reply starts its own continuation, so one slow or dead site holds up nobody else. Every
message has a time limit.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from not_core.errors import NotError
from not_core.protocol import Packet, pack, unpack

POLL_SECONDS = 0.2

_log = logging.getLogger(__name__)

UNANSWERED = frozenset({"timeout", "unreachable"})
"""Codes that say nothing but that no reply came."""

Then = Callable[[Packet], None]
"""Acts on a reply; a ``NotError`` that it raises goes to ``failed`` as its code."""

Failed = Callable[[str], None]
"""Told the code of what went wrong: ``timeout``, ``unreachable`` or ``format``."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    deadline: float
    then: Then
    failed: Failed


class Dispatch:
    """Sends requests and runs continuations until nothing is under way.

    Args:
        grid: Flower's.
        group: Name that ties the messages of one exchange together.
        seen: Told of every reply, errors included, before it is acted upon.
    """

    def __init__(
        self, grid: Grid, group: str, seen: Callable[[Packet], None] = lambda packet: None
    ) -> None:
        self._grid, self._group, self._seen = grid, group, seen
        self._waiting: dict[str, _Waiting] = {}
        self._lost: list[Failed] = []
        self.sent_bytes = 0
        self.received_bytes = 0

    def post(
        self,
        node: int,
        message_type: str,
        value: object,
        *,
        body: bytes = b"",
        seconds: float,
        then: Then,
        failed: Failed,
    ) -> None:
        """Send a request; ``then`` or ``failed`` is called once, from ``run``."""
        message = Message(
            pack(value, body),
            dst_node_id=node,
            message_type=message_type,
            group_id=self._group,
            ttl=seconds,
        )
        self.sent_bytes += len(body)
        pushed = [identifier for identifier in self._grid.push_messages([message]) if identifier]
        if not pushed:  # the node has left, or the message was refused
            self._lost.append(failed)
            return
        self._waiting[pushed[0]] = _Waiting(time.monotonic() + seconds, then, failed)

    def run(self) -> None:
        """Handle replies until every request has been answered or has run out of time."""
        while self._waiting or self._lost:
            while self._lost:
                self._lost.pop()("unreachable")
            for reply in self._grid.pull_messages(list(self._waiting)):
                self._handle(reply)
            now = time.monotonic()
            late = [key for key, one in self._waiting.items() if one.deadline < now]
            for key in late:
                self._waiting.pop(key).failed("timeout")
            if self._waiting:
                time.sleep(POLL_SECONDS)

    def _handle(self, reply: Message) -> None:
        # A failed node's reply comes from another source: only the identifier ties it to its ask.
        one = self._waiting.pop(reply.metadata.reply_to_message_id, None)
        if one is None:
            return
        if reply.has_error():
            # Flower puts an exception's text here; whoever keeps messages wants to see it.
            self._seen(Packet("Error", str(reply.error.reason).encode(), b""))
            one.failed("unreachable")
            return
        try:
            packet = unpack(reply.content)
            self._seen(packet)
            self.received_bytes += len(packet.body)
            one.then(packet)
        except NotError as error:
            one.failed(error.code)
        except Exception as error:  # one site's reply must not end the exchange of the others
            _log.error("a reply to %s: %s", self._group, type(error).__name__, exc_info=error)
            one.failed("internal")
