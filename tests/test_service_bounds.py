"""What a message may make its receiver hold, however it is sent."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from not_core.protocol import SEGMENT_BYTES
from not_core.service import bounds


@pytest.fixture
def bounded() -> Iterator[None]:
    kinds: tuple[Any, ...] = (Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict)
    stock = [kind.__dict__["inflate"] for kind in kinds]
    bounds.bound_objects()
    yield
    for kind, inflate in zip(kinds, stock, strict=True):
        kind.inflate = inflate


def carried(body: bytes) -> Array:
    """An array as it comes out of a message."""
    record = ArrayRecord({"body": Array("uint8", (len(body),), "bytes", body)})
    contents = {key: one.deflate() for key, one in get_all_nested_objects(record).items()}
    found = inflate_object_from_contents(record.object_id, contents)
    assert isinstance(found, ArrayRecord)
    return found["body"]


@pytest.mark.usefixtures("bounded")
def test_a_whole_segment_passes_and_pieces_named_again_and_again_do_not() -> None:
    for body in (b"", b"a word", bytes(SEGMENT_BYTES)):
        assert carried(body).data == body
    with pytest.raises(ValueError, match="larger than any"):  # 5 MiB, named eight times
        carried(bytes(8 * 5 * 2**20))


@pytest.mark.usefixtures("bounded")
def test_words_are_few() -> None:
    """Of a few bytes each, they take hundreds in memory."""

    def said(words: int) -> RecordDict:
        record = RecordDict({"content": ConfigRecord({str(n): n for n in range(words)})})
        contents = {key: one.deflate() for key, one in get_all_nested_objects(record).items()}
        found = inflate_object_from_contents(record.object_id, contents)
        assert isinstance(found, RecordDict)
        return found

    assert len(said(1000).config_records["content"]) == 1000
    with pytest.raises(ValueError, match="words larger than any"):
        said(100_000)


@pytest.mark.parametrize(
    ("call", "raw", "headers", "taken"),
    [
        ("fleet/pull-object", bytes(bounds.MOST_ANSWER), {}, True),
        ("fleet/pull-object", bytes(bounds.MOST_ANSWER + 1), {}, False),
        ("runtime/pull-messages", bytes(bounds.MOST_ANSWER), {}, True),  # of thousands of sites
        ("fleet/pull-messages", bytes(bounds.MOST_CALL), {}, True),
        ("fleet/pull-messages", bytes(bounds.MOST_CALL + 1), {}, False),
        ("fleet/get-run", gzip.compress(bytes(99)), {"content-encoding": "gzip"}, False),
    ],
    ids=["the largest", "a larger", "many words", "words", "more words", "a compressed"],
)
def test_an_answer_is_as_large_as_an_object_at_most(
    call: str, raw: bytes, headers: dict[str, str], taken: bool
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(raw))

    with bounds.Client(transport=httpx.MockTransport(answer)) as client:
        if taken:
            assert client.post(f"https://coordinator/v1/{call}").content == raw
            return
        with pytest.raises(httpx.DecodingError):
            client.post(f"https://coordinator/v1/{call}")


def test_nobody_is_followed_elsewhere() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        where = {"location": "http://records.hospital.example/"}
        return httpx.Response(307, headers=where, stream=httpx.ByteStream(b""))

    transport = httpx.MockTransport(answer)
    with bounds.Client(transport=transport, follow_redirects=True) as client:
        assert client.post("https://coordinator/x").status_code == 307
    assert asked == ["coordinator"]


@pytest.mark.parametrize(("objects", "comes"), [(bounds.MOST_OBJECTS, True), (17, False)])
def test_a_message_of_many_objects_does_not_come(objects: int, comes: bool) -> None:
    leaves = [SimpleNamespace(object_id=f"{n}", children=[]) for n in range(objects - 1)]
    tree = SimpleNamespace(object_id="root", children=leaves)
    assert (bounds.few(lambda: ("message", tree))() is not None) == comes
    assert bounds.few(lambda: None)() is None


def test_of_many_objects_no_more_are_looked_at_than_it_takes() -> None:
    def endless() -> Iterator[SimpleNamespace]:
        while True:
            yield SimpleNamespace(object_id="x", children=[])

    tree = SimpleNamespace(object_id="root", children=endless())
    assert bounds.few(lambda: ("message", tree))() is None


def test_a_sites_node_runs_with_these_bounds(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from flwr.supernode import cli, start_client_internal as node
from flwr.supercore.protobuf import client
from not_core.service import bounds, flower
cli.flower_supernode = lambda: None
node._pull_and_store_message = lambda receive: receive()
pushed = []
node._push_messages = lambda state, object_store, send: pushed.append(object_store)
flower.await_reply = lambda state, sleep: pushed.append(sleep)
flower.end_tasks = lambda state: pushed.append(state)
flower.supernode(Path(sys.argv[1]), 1.0, [])
assert client.httpx.Client is bounds.Client
leaves = [type("Tree", (), {"object_id": "x", "children": []})] * bounds.MOST_OBJECTS
tree = type("Tree", (), {"object_id": "root", "children": leaves})
assert node._pull_and_store_message(receive=lambda: ("message", tree)) is None
assert node._pull_and_store_message(receive=lambda: ("message", leaves[0])) is not None
node._push_messages(state="state", object_store={}, send=None)
assert [type(one).__name__ for one in pushed] == ["function", "Patient", "str"]
"""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, str(tmp_path / "beat")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
