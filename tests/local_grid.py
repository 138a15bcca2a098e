"""Flower's grid without Flower's network: messages go straight into the real client app."""

from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import site_app
from simulations.benches.pipe_grid import PushPullGrid

Tamper = Callable[[Message], Message | None]


class LocalGrid(PushPullGrid):
    """One node a home folder.

    Args:
        homes: Home folders of sites, by node id.
        on_request: Sees and may change each request; None drops it.
        on_reply: Sees and may change each reply; None drops it.
    """

    def __init__(
        self,
        homes: dict[int, Path],
        on_request: Tamper = lambda message: message,
        on_reply: Tamper = lambda message: message,
    ) -> None:
        # Flower notes the run in globals of the process, without which no message can be made.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self._homes, self._on_request, self._on_reply = homes, on_request, on_reply
        self._app = site_app(lambda context: homes[context.node_id])
        self._replies: dict[str, Message] = {}
        self._count = 0
        self.dead: set[int] = set()
        self.gone: set[int] = set()
        self.awake: dict[int, Callable[[], bool]] = {}
        """Whether a node's replies come by now, of those whose replies ever keep one waiting."""
        self.requests: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            self._count += 1
            identifier = f"m{self._count}"
            identifiers.append(identifier)
            message.metadata.__dict__["_message_id"] = identifier
            self.requests.append(message)
            node = message.metadata.dst_node_id
            if node in self.gone:
                identifiers[-1] = ""
                continue
            if node in self.dead:
                self._replies[identifier] = Message(Error(5, "gone"), reply_to=message)
                continue
            sent = self._on_request(message)
            if sent is None:
                continue
            context = Context(1, node, {}, RecordDict(), {})
            reply = self._on_reply(self._app(sent, context))
            if reply is not None:
                reply.metadata.__dict__["_reply_to_message_id"] = identifier
                self._replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        there = [i for i in message_ids if i in self._replies and self._comes(self._replies[i])]
        return [self._replies.pop(i) for i in there]

    def _comes(self, reply: Message) -> bool:
        return self.awake.get(reply.metadata.src_node_id, lambda: True)()

    def get_node_ids(self) -> list[int]:
        return list(self._homes)
