"""Flower's grid without Flower: messages go to another process by a pipe, and are counted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from not_core.protocol import (
    DELIVER,
    DONATE,
    ENROL,
    REVOKE,
    SEGMENT,
    TRANSPLANT,
    WITNESS,
    unpack,
)
from simulations.benches.clock import Clock

STEPS = {
    REVOKE: "enrol",
    ENROL: "enrol",
    DONATE: "collect",
    SEGMENT: "collect",
    DELIVER: "deliver",
    TRANSPLANT: "transplant",
    WITNESS: "witness",
}
"""The step of an exchange that a message belongs to."""
PIPE, WAITING = "pipe", "waiting"
"""What the coordinator's time goes to besides steps: the pipe, and looking for replies."""


class Pipe(Protocol):
    """An end of ``multiprocessing.connection``."""

    def send(self, value: Any, /) -> None:
        """Send a value."""

    def recv(self) -> Any:
        """Wait for a value."""

    def poll(self) -> bool:
        """Whether one has come."""


class PushPullGrid(Grid):
    """A grid of which nothing is asked but to push, to pull and to name its nodes."""

    @property
    def run(self) -> Any:
        """There is none."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """There is none."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Nobody here makes messages so."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], **kwargs: Any) -> list[Message]:
        """Nobody here waits so."""
        raise NotImplementedError


class PipeGrid(PushPullGrid):
    """A grid whose nodes are at the other end of a pipe.

    Args:
        pipe: To ``play``.
        nodes: How many there are.
        steps: Counts what handling replies takes, by step.
    """

    def __init__(self, pipe: Pipe, nodes: int, steps: Clock) -> None:
        # Flower notes the run in globals of the process, without which no message can be made.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self._pipe, self._nodes, self._steps = pipe, nodes, steps
        self._asked: dict[str, tuple[int, str, int]] = {}
        self.sent: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()
        self.received_bytes: Counter[str] = Counter()
        """Messages, and bytes of their values and bodies, by type."""
        self.most_under_way = self.most_under_way_bytes = self.delivered_bytes = 0
        self._under_way_bytes = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to the other end."""
        identifiers = []
        for message in messages:
            to, what = message.metadata.dst_node_id, message.metadata.message_type
            packet = unpack(message.content)
            size = len(packet.value) + len(packet.body)
            identifier = f"message-{sum(self.sent.values())}"
            self.sent[what] += 1
            self.sent_bytes[what] += size
            self.delivered_bytes += len(packet.body) if what == DELIVER else 0
            self._asked[identifier] = (to, what, size)
            self._under_way_bytes += size
            self.most_under_way = max(self.most_under_way, len(self._asked))
            self.most_under_way_bytes = max(self.most_under_way_bytes, self._under_way_bytes)
            with self._steps.of(PIPE):
                self._pipe.send((identifier, to, what, message.content))
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies that are there, each counted while it is handled."""
        came = []
        with self._steps.of(PIPE):
            while self._pipe.poll():
                came.append(self._pipe.recv())
        for identifier, content in came:
            to, what, size = self._asked.pop(identifier)
            self._under_way_bytes -= size
            packet = unpack(content)
            self.received_bytes[what] += len(packet.value) + len(packet.body)
            asked = Message(RecordDict(), dst_node_id=to, message_type=what)
            reply = Message(content, reply_to=asked)
            reply.metadata.__dict__["_reply_to_message_id"] = identifier
            with self._steps.of(STEPS[what]):
                yield reply

    def get_node_ids(self) -> list[int]:
        """All nodes."""
        return list(range(1, self._nodes + 1))
