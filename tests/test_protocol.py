"""How values travel in Flower's messages."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from pydantic import TypeAdapter

from client.signing_wire import Ask
from not_core import protocol
from not_core.manifest import Manifest
from not_core.privacy.report import AuditReport
from not_core.protocol import CHUNK_BYTES, SALT_BYTES, SEGMENT_BYTES, Refusal, pack, unpack
from not_core.trust.delivery import DeliveryHeader
from not_core.trust.offer import Offer

READ = [
    *(
        each
        for each in vars(protocol).values()
        if isinstance(each, type) and is_dataclass(each) and each.__module__.startswith("not_core")
    ),
    *(Manifest, DeliveryHeader, Offer, Ask, AuditReport),
]
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


def sequences(schema: Any) -> Iterator[dict[str, Any]]:
    """All parts of a schema that hold as many values as there are."""
    if isinstance(schema, dict):
        if schema.get("type") in ("tuple", "list", "set", "dict"):
            yield schema
        schema = list(schema.values())
    if isinstance(schema, (list, tuple)):
        for part in schema:
            yield from sequences(part)


@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
def test_the_first_error_ends_the_reading_of_a_sequence(cls: type[Any]) -> None:
    for one in sequences(TypeAdapter(cls).core_schema):
        few = one["type"] == "tuple" and "variadic_item_index" not in one
        anything = "JsonValue" in str(one.get("values_schema", one.get("items_schema")))
        assert few or anything or one.get("fail_fast"), one


HOSTILE = """
import resource, sys
from not_core import canonical
from not_core.errors import FormatError
{imports}
data, before = {data}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    canonical.decode({cls}, data, "value", 2**24)
except FormatError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
EMPTY = 'b",".join([b"{{}}"] * {0})'
KEYS = """b"{{" + b",".join(b'"%x":0' % i for i in range({0})) + b"}}" """


@pytest.mark.parametrize("parts", [49_000, 3_000_000])
@pytest.mark.parametrize(
    ("module", "cls", "before", "many", "after"),
    [
        ("not_core.protocol", "WitnessRequest", '{"logged":[', EMPTY, "]}"),
        ("not_core.protocol", "DonateRequest", '{"addressees":[', EMPTY, "]}"),
        ("not_core.protocol", "Donation", "", KEYS, ""),
        ("not_core.manifest", "Manifest", '{"tensors":[', EMPTY, "]}"),
        ("not_core.manifest", "Manifest", '{"training":{"libraries":', KEYS, "}}"),
        ("not_core.trust.delivery", "DeliveryHeader", '{"wraps":', KEYS, "}"),
        ("client.signing_wire", "Ask", '{"sign":{"addressees":[', EMPTY, "]}}"),
    ],
)
def test_what_is_wrong_in_many_places_takes_no_more_than_it_may(
    parts: int, module: str, cls: str, before: str, many: str, after: str
) -> None:
    """A megabyte of ``{}`` took gigabytes: each error, and there was one a field, was noted."""
    data = f"{before.encode()!r} + {many.format(parts)} + {after.encode()!r}"
    program = HOSTILE.format(imports=f"from {module} import {cls}", data=data, cls=cls)
    said = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(said.stdout) < 350_000, "kilobytes"
