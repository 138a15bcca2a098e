"""Replies are taken in apart from each other, and room for them is given back, however they end."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree

from not_core.service import replies
from not_core.service.bounds import MOST_MESSAGE
from not_core.service.replies import Replies


class Runtime:
    """Stands in for Flower's: tells of each reply once; hands out objects, slowly or at once."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.slow: set[str] = set()
        self.told: set[str] = set()

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 - Flower's
        found = [one for one in request.message_ids if one in self.sizes.keys() - self.told]
        self.told.update(found)
        said = [
            {"message_id": f"r{one}", "reply_to_message_id": one, "src_node_id": 7} for one in found
        ]
        return SimpleNamespace(
            messages_list=[
                SimpleNamespace(metadata=SimpleNamespace(message_type="query.x", **one))
                for one in said
            ],
            message_object_trees=[ObjectTree(object_id=one) for one in found],
        )

    def PullObject(self, request: Any) -> Any:  # noqa: N802 - Flower's
        while request.object_id in self.slow:
            time.sleep(0.01)
        content = bytes(self.sizes[request.object_id])
        return SimpleNamespace(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802 - Flower's
        pass


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def grid(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Replies:
    monkeypatch.setattr(Replies, "_runtime_client", runtime)
    monkeypatch.setattr(Replies, "run", SimpleNamespace(run_id=1))
    monkeypatch.setattr(replies, "FIRST_PAUSE", 0.01)
    return Replies(token="x")


def taken(grid: Replies, *asked: str) -> list[str]:
    """To which of some messages replies are taken in, in a while."""
    found: list[Message] = []
    deadline = time.monotonic() + 2
    while len(found) < len(asked) and time.monotonic() < deadline:
        found += grid.pull_messages(set(asked) - {_asked(one) for one in found})
        time.sleep(0.01)
    return sorted(_asked(one) for one in found)


def _asked(reply: Message) -> str:
    return str(reply.metadata.reply_to_message_id)


def test_who_is_asked_no_longer_takes_no_room(grid: Replies, runtime: Runtime) -> None:
    """Its time was over as its reply came, or another copy of the request was answered."""
    for number in range(8):
        late = f"late{number}"
        runtime.sizes[late] = MOST_MESSAGE
        runtime.slow.add(late)
        assert grid.pull_messages([late]) == []
        assert grid.pull_messages([]) == []  # while it is taken in
        runtime.slow.remove(late)
    runtime.sizes["whole"] = MOST_MESSAGE
    grid.pull_messages(["whole"])
    time.sleep(0.2)  # it is there, and nobody wants it
    runtime.sizes["honest"] = 10
    assert taken(grid, "honest") == ["honest"]


def test_what_waits_to_be_fetched_is_bounded(
    grid: Replies, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MOST_HELD", 100)
    runtime.sizes |= {"one": 100, "two": 100}
    runtime.slow.add("two")
    grid.pull_messages(["one", "two"])
    time.sleep(0.2)
    runtime.sizes["three"] = 1
    runtime.slow.remove("two")
    assert taken(grid, "one", "two", "three") == ["one", "three", "two"]
