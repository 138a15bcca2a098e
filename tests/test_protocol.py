"""How values travel in Flower's messages."""

import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from not_core.protocol import CHUNK_BYTES, SALT_BYTES, SEGMENT_BYTES, Refusal, pack, unpack

PIECE = CHUNK_BYTES - SALT_BYTES


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, SEGMENT_BYTES])
def test_a_body_comes_out_as_it_went_in(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    packet = unpack(pack(Refusal(code="policy"), body))
    assert packet.body == body
    assert (packet.kind, packet.value) == ("Refusal", b'{"code":"policy"}')


def test_nobody_knows_the_digest_of_any_object_of_a_message() -> None:
    """Who names one first would say what is below it, and spoil the message for all."""
    assert CHUNK_BYTES == FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    one, other = (
        get_all_nested_objects(pack(Refusal(code="policy"), bytes(SEGMENT_BYTES))) for _ in range(2)
    )
    assert len(one) == len(other) == 10, "not two of its pieces are one object"
    assert not one.keys() & other.keys()
