"""Flower's grid, of which no node's reply holds up another's.

Flower's own waits, at each look, until every reply that has begun to come is whole: as long as the
slowest link takes, and three minutes for one whose sender has died meanwhile. One that is no
message ends the run. Here each is taken in apart, and a look returns what is whole by then.
"""

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import Message, Metadata, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid import HttpGrid

from not_core.service.bounds import MOST_MESSAGE

THREADS = 4
MOST_HELD = 4 * MOST_MESSAGE
"""Bytes of replies that are whole and not fetched yet."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0
"""Seconds before one that is not whole is looked at again; doubled each time."""


@dataclass(slots=True)
class _Coming:
    """A reply that has begun to come."""

    message: Any
    tree: Any
    due: float = 0.0
    pause: float = FIRST_PAUSE
    size: int = 0
    """Bytes that are held until it is fetched, or asked for no longer."""
    work: Future[Message | None] | None = None

    @property
    def asked(self) -> str:
        """What it replies to."""
        return str(self.message.metadata.reply_to_message_id)


class Replies(HttpGrid):
    """Flower's grid over HTTP; see the module.

    ``THREADS`` replies are taken in at once, and none while ``MOST_HELD`` bytes wait for a look.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._coming: list[_Coming] = []
        self._threads = ThreadPoolExecutor(THREADS)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are whole, of those to these messages.

        One that never comes whole is an error of Flower's; one that is no message, or larger than
        any of this protocol, has no content. What is no longer asked for is forgotten.
        """
        wanted = set(message_ids)
        # Flower tells of each once, and then knows nothing of it any more.
        asked = wanted - {one.asked for one in self._coming}
        coming = list(self._coming)
        if asked:
            request = PullAppMessagesRequest(message_ids=sorted(asked))
            found = self._runtime_client.PullMessages(request)
            pairs = zip(found.messages_list, found.message_object_trees, strict=True)
            coming += itertools.starmap(_Coming, pairs)
        still: list[_Coming] = []
        whole: list[Message] = []
        for one in coming:
            if one.work is not None and not one.work.done():
                still.append(one)
            elif one.asked not in wanted:
                continue  # and the room that it took is free
            elif one.work is not None and (taken := one.work.result()) is not None:
                whole.append(taken)
            else:
                self._again(one)
                still.append(one)
        self._coming = still
        return whole

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; one that Flower refuses to take has no identifier."""
        pushed: list[str] = []
        for message in messages:
            try:
                pushed += super().push_messages([message])
            except httpx.HTTPStatusError:
                pushed.append("")
        return pushed

    def close(self) -> None:
        """Close, with what is still taken in."""
        self._threads.shutdown(cancel_futures=True)
        super().close()

    def _again(self, one: _Coming) -> None:
        """Look whether a reply is whole, now or once it is due."""
        if one.work is not None:
            one.work = None
            one.due = time.monotonic() + one.pause
            one.pause = min(2 * one.pause, LONGEST_PAUSE)
        if one.due <= time.monotonic():
            one.work = self._threads.submit(self._taken, one)

    def _taken(self, one: _Coming) -> Message | None:
        """A whole reply; None where it is not yet, or there is no room for it."""
        if sum(each.size for each in self._coming) >= MOST_HELD:
            return None
        number, identifier = self.run.run_id, one.message.metadata.message_id
        pull = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, number)
        contents, size = {}, 0
        try:
            for each in iterate_object_tree(one.tree):
                contents[each.object_id] = pull(each.object_id)
                size += len(contents[each.object_id])
                if size > MOST_MESSAGE:
                    contents, size = {}, 0  # it is confirmed like any, and so forgotten
                    break
        except ObjectUnavailableError:
            return None
        except ObjectPullError:
            code = ErrorCode.MESSAGE_UNAVAILABLE
            return self._in_place_of(one, error=Error(code, "a reply that never came whole"))
        one.size = size
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=number, message_object_id=identifier
            )
        )
        try:
            message = inflate_object_from_contents(identifier, contents)
        except Exception:
            message = None
        if not isinstance(message, Message):
            return self._in_place_of(one, content=RecordDict())
        # What it says that it replies to, its sender can choose; Flower knows what it was sent for.
        message.metadata.__dict__ |= {
            "_message_id": identifier,
            "_reply_to_message_id": one.asked,
        }
        return message

    def _in_place_of(self, one: _Coming, **said: Any) -> Message:
        given = one.message.metadata
        return make_message(
            metadata=Metadata(
                run_id=self.run.run_id,
                message_id="",
                src_node_id=given.src_node_id,
                dst_node_id=self.node.node_id,
                message_type=given.message_type,
                group_id="",
                ttl=0,
                reply_to_message_id=one.asked,
                created_at=time.time(),
            ),
            **said,
        )
