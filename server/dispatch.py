"""Messages to sites and what follows from each reply.

Each reply starts its own continuation, so one slow or dead site holds up nobody else. Every
message has a time limit. A request whose node is away, or died over it, is sent again for a while:
sites answer again what they have answered.

Flower delivers a message at most once and drops a reply that it cannot pass on, so a request may be
lost without a word when a process dies. Hence one that stays without an answer is asked again, at
growing intervals; the first answer counts.

A node does one thing at a time, so it is asked one thing at a time: what else it is to be asked
waits here, where it takes no time limit, no memory and no place on a slow link. Who leaves one
request without an answer is not asked the others that wait.

What takes long on this machine, such as hashing a body or storing it far away, is done aside, in
threads; replies of others are handled meanwhile.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from flwr.app import Message
from flwr.serverapp import Grid

from not_core.errors import NotError
from not_core.protocol import Packet, pack, unpack

THREADS = 4
POLL_SECONDS, POLL_SECONDS_EACH, LONGEST_POLL_SECONDS = 0.2, 0.001, 3.0
"""Pause between looks for replies; for each message that waits for one; at most. A look costs
Flower something for each of them, and too frequent looks all its time (docs/scale.md)."""
AGAIN_SECONDS = 2.0
FIRST_REPEAT_SECONDS, LONGEST_REPEAT_SECONDS = 60.0, 600.0
"""How long a request stays without an answer before it is repeated; doubled each time."""

_log = logging.getLogger(__name__)

UNANSWERED = frozenset({"timeout", "unreachable"})
"""Codes that say nothing but that no reply came."""

Then = Callable[[Packet], None]
"""Acts on a reply; a ``NotError`` that it raises goes to ``failed`` as its code."""

Failed = Callable[[str], None]
"""Told the code of what went wrong: ``timeout``, ``unreachable`` or ``format``."""

Done = Callable[[Future[None]], None]
"""Acts on work that is done, and asks for its result, which raises what the work raised."""

Body = Callable[[], bytes]
"""Reads what a message carries, whenever it is sent; it is not kept while an answer is awaited."""


@dataclass(slots=True)
class _Request:
    node: int
    message_type: str
    value: object
    body: Body
    seconds: float
    then: Then
    failed: Failed
    identifiers: list[str] = field(default_factory=list)
    """Of its messages that an answer may come to."""
    deadline: float = 0.0
    accepted_at: float = 0.0
    again_until: float | None = None
    again_at: float = 0.0
    repeat_at: float = 0.0
    repeat_seconds: float = 0.0


class Dispatch:
    """Sends requests and runs continuations until nothing is under way.

    Args:
        grid: Flower's.
        group: Name that ties the messages of one exchange together.
        seen: Told of every reply, errors included, before it is acted upon.
        patience: Seconds for which a request is sent again after its node was found away, counted
            anew where the node has worked on it for longer than that; 0 sends nothing twice.
        looked: Called after each look for replies, when all that came have been acted upon.
    """

    def __init__(
        self,
        grid: Grid,
        group: str,
        seen: Callable[[Packet], None] = lambda packet: None,
        patience: float = 0.0,
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._grid, self._group, self._seen, self._patience = grid, group, seen, patience
        self._looked = looked
        self._queues: defaultdict[int, deque[_Request]] = defaultdict(deque)
        """What each node is asked now, and what it is asked then."""
        self._waiting: dict[str, _Request] = {}
        self._lost: list[_Request] = []
        self._aside: list[tuple[Future[None], Done, Failed]] = []
        self._threads = ThreadPoolExecutor(THREADS)
        self.sent_bytes = 0
        self.received_bytes = 0

    def post(
        self,
        node: int,
        message_type: str,
        value: object,
        *,
        body: Body = bytes,
        seconds: float,
        then: Then,
        failed: Failed,
    ) -> None:
        """Send a request when its node has answered those before it.

        ``then`` or ``failed`` is called once, from ``run``. The time limit begins when it is first
        sent.

        Raises:
            NotError: ``body`` raises it, where it is sent at once.
        """
        queue = self._queues[node]
        queue.append(_Request(node, message_type, value, body, seconds, then, failed))
        if len(queue) == 1:
            try:
                self._send(queue[0])
            except NotError:
                queue.clear()
                raise

    def aside(self, work: Callable[[], None], then: Done, failed: Failed) -> None:
        """Do work in a thread; ``then``, or ``failed`` in its place, is called from ``run``."""
        self._aside.append((self._threads.submit(work), then, failed))

    def run(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Handle replies until every request has been answered or has run out of time.

        Args:
            enough: Whether to return before that; what is under way stays so.
        """
        while self._busy and not enough():
            now = time.monotonic()
            due = [one for one in self._lost if one.again_at <= now]
            self._lost = [one for one in self._lost if one.again_at > now]
            for one in due:
                if one.again_until is not None and now < one.again_until:
                    self._send_again(one)
                else:
                    self._give_up(one, "unreachable")
            for reply in self._grid.pull_messages(list(self._waiting)):
                self._handle(reply)
            ended = [one for one in self._aside if one[0].done()]
            self._aside = [one for one in self._aside if one not in ended]
            for work, then, failed in ended:
                self._follow(partial(then, work), failed)
            self._look(time.monotonic())
            self._looked()
            if self._busy:
                pause = POLL_SECONDS_EACH * len(self._waiting)
                time.sleep(min(max(POLL_SECONDS, pause), LONGEST_POLL_SECONDS))

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._lost or self._aside)

    def _look(self, now: float) -> None:
        """Give up what is late, and repeat what may have been lost."""
        for one in {id(one): one for one in self._waiting.values()}.values():
            if one.deadline < now:
                self._give_up(one, "timeout")
            elif self._patience and one.repeat_at < now:
                one.repeat_seconds = min(2 * one.repeat_seconds, LONGEST_REPEAT_SECONDS)
                one.repeat_at = now + one.repeat_seconds
                with suppress(NotError):  # where that fails, an earlier one is still under way
                    self._push(one)

    def _send_again(self, one: _Request) -> None:
        try:
            self._send(one)
        except NotError as error:
            self._end(one)
            one.failed(error.code)

    def _give_up(self, one: _Request, code: str) -> None:
        """A node does not answer: neither will it answer what waits."""
        self._settle(one)
        for each in self._queues.pop(one.node):
            each.failed(code)

    def _end(self, one: _Request) -> None:
        """A request is over: its node is asked the next."""
        self._settle(one)
        queue, failed = self._queues[one.node], []
        queue.popleft()
        while queue:
            try:
                self._send(queue[0])
                break
            except NotError as error:
                failed.append((queue.popleft(), error.code))
        for each, code in failed:
            each.failed(code)

    def _send(self, one: _Request) -> None:
        if not self._push(one):  # the node has left, or the message was refused
            self._away(one)
            return
        now = time.monotonic()
        one.deadline = one.deadline or now + one.seconds
        one.accepted_at, one.repeat_seconds = now, FIRST_REPEAT_SECONDS
        one.repeat_at = now + one.repeat_seconds

    def _push(self, one: _Request) -> bool:
        body = one.body()
        message = Message(
            pack(one.value, body),
            dst_node_id=one.node,
            message_type=one.message_type,
            group_id=self._group,
            ttl=one.seconds,
        )
        pushed = [identifier for identifier in self._grid.push_messages([message]) if identifier]
        for identifier in pushed:
            self.sent_bytes += len(body)
            self._waiting[identifier] = one
            one.identifiers.append(identifier)
        return bool(pushed)

    def _settle(self, one: _Request) -> None:
        """Wait for none of a request's messages any more."""
        for identifier in one.identifiers:
            self._waiting.pop(identifier, None)
        one.identifiers.clear()

    def _away(self, one: _Request) -> None:
        now = time.monotonic()
        if one.again_until is None:
            one.again_until = now + self._patience
        one.again_at = now + (AGAIN_SECONDS if self._patience else 0.0)
        self._lost.append(one)

    def _handle(self, reply: Message) -> None:
        # A failed node's reply comes from another source: only the identifier ties it to its ask.
        one = self._waiting.get(reply.metadata.reply_to_message_id)
        if one is None:
            return
        if reply.has_error():
            # Flower puts an exception's text here; whoever keeps messages wants to see it.
            self._seen(Packet("Error", str(reply.error.reason).encode(), b""))
            self._settle(one)
            if time.monotonic() > one.accepted_at + self._patience:
                one.again_until = None  # it was there again, and died anew
            self._away(one)
            return
        self._end(one)
        self._follow(partial(self._answer, one, reply), one.failed)

    def _answer(self, one: _Request, reply: Message) -> None:
        packet = unpack(reply.content)
        self._seen(packet)
        self.received_bytes += len(packet.body)
        one.then(packet)

    def _follow(self, then: Callable[[], None], failed: Failed) -> None:
        """Do what follows from something; nothing of one site ends the exchange of the others."""
        try:
            then()
        except NotError as error:
            facts = {"exchange": self._group, "code": error.code}
            _log.warning("refused: %s", error, extra=facts)
            failed(error.code)
        except Exception as error:
            facts = {"exchange": self._group, "code": "internal"}
            _log.error("failed", extra=facts, exc_info=error)
            failed("internal")
