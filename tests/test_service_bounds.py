"""What a message may make its receiver hold, however it is sent."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Array, ArrayRecord
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from not_core.protocol import SEGMENT_BYTES
from not_core.service import bounds


@pytest.fixture
def bounded() -> Iterator[None]:
    stock = Array.__dict__["inflate"]
    bounds.bound_arrays()
    yield
    Array.inflate = stock  # type: ignore[method-assign]


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


@pytest.mark.parametrize(
    ("raw", "headers", "taken"),
    [
        (bytes(bounds.MOST_ANSWER), {}, True),
        (bytes(bounds.MOST_ANSWER + 1), {}, False),
        (gzip.compress(bytes(99)), {"content-encoding": "gzip"}, False),
    ],
    ids=["the largest", "a larger", "a compressed"],
)
def test_an_answer_is_as_large_as_an_object_at_most(
    raw: bytes, headers: dict[str, str], taken: bool
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(raw))

    with bounds.Client(transport=httpx.MockTransport(answer)) as client:
        if taken:
            assert client.post("https://coordinator/x").content == raw
            return
        with pytest.raises(httpx.DecodingError):
            client.post("https://coordinator/x")


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


def test_a_sites_node_runs_with_these_bounds(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from flwr.supernode import cli, start_client_internal as node
from flwr.supercore.protobuf import client
from not_core.service import bounds, flower
cli.flower_supernode = lambda: None
node._pull_and_store_message = lambda receive: receive()
flower.supernode(Path(sys.argv[1]), 1.0, [])
assert client.httpx.Client is bounds.Client
leaves = [type("Tree", (), {"object_id": "x", "children": []})] * bounds.MOST_OBJECTS
tree = type("Tree", (), {"object_id": "root", "children": leaves})
assert node._pull_and_store_message(receive=lambda: ("message", tree)) is None
assert node._pull_and_store_message(receive=lambda: ("message", leaves[0])) is not None
"""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, str(tmp_path / "beat")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
