"""What a message may make its receiver hold, however it is sent."""

import gzip
from collections.abc import Iterator
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
