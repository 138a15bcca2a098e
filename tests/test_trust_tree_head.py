"""Tree heads, entries and cosignatures: what of them is believed."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import TypeAdapter, ValidationError

from not_core import canonical
from not_core.errors import FormatError, LogError, NotError, SignatureError
from not_core.trust import merkle
from not_core.trust.holder import HeldSigner
from not_core.trust.statement import signed_by
from not_core.trust.tree_head import (
    COSIGNATURE_TYPE,
    HEAD_TYPE,
    Cosignature,
    Entry,
    MerklePath,
    TreeHead,
    check_continues,
    check_includes,
    public,
    sign_head,
    verify_head,
)

KEY = HeldSigner(ec.generate_private_key(ec.SECP384R1()))
OTHER = HeldSigner(ec.generate_private_key(ec.SECP384R1()))
FEDERATION = "ab" * 32
ENTRIES = [
    Entry(event="offered", site="north", exchange="spring", digest=f"{number:064x}", time=number)
    for number in range(7)
]
LEAVES = [canonical.encode(entry) for entry in ENTRIES]


def subtree(start: int, stop: int) -> bytes:
    if stop - start == 1:
        return merkle.leaf_hash(LEAVES[start])
    split = merkle.middle(start, stop)
    return merkle.node_hash(subtree(start, split), subtree(split, stop))


def head(size: int, **changes: Any) -> TreeHead:
    root = subtree(0, size) if size else merkle.EMPTY
    found = TreeHead(
        federation=FEDERATION,
        key=public(KEY.public_key()),
        size=size,
        root=root.hex(),
        time=1_800_000_000,
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("proof", "right"),
    [
        ([], True),
        (["ab" * 32] * 128, True),
        (["ab" * 32] * 129, False),
        (["ab" * 31], False),
        (["AB" * 32], False),
    ],
    ids=["of one leaf", "of a tree of 2^128", "longer", "of another hash", "not as it is written"],
)
def test_a_path_has_its_form(proof: list[str], right: bool) -> None:
    reader = TypeAdapter(MerklePath)
    if right:
        assert reader.validate_python(tuple(proof)) == tuple(proof)
    else:
        with pytest.raises(ValidationError):
            reader.validate_python(tuple(proof))


def path(first: int, second: int) -> tuple[str, ...]:
    return tuple(one.hex() for one in merkle.consistency_path(first, second, subtree))


def test_a_head_is_believed_as_its_own_key_signed_it() -> None:
    envelope = sign_head(head(7), KEY)
    assert verify_head(envelope, FEDERATION) == head(7)
    with pytest.raises(LogError, match="another federation"):
        verify_head(envelope, "cd" * 32)
    with pytest.raises(SignatureError):
        verify_head(sign_head(head(7), OTHER), FEDERATION)
    with pytest.raises(SignatureError, match="is of type"):
        verify_head(signed_by(KEY, canonical.encode(head(7)), COSIGNATURE_TYPE), FEDERATION)
    altered = json.loads(envelope)
    altered["payload"] = base64.b64encode(canonical.encode(head(6))).decode()
    with pytest.raises(SignatureError):
        verify_head(canonical.encode(altered), FEDERATION)


def test_a_log_is_named_by_its_key() -> None:
    assert head(7).log == canonical.sha256(head(7).key.encode())
    assert head(7).log != head(7, key=public(OTHER.public_key())).log


def der(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    data = key.public_bytes(serialization.Encoding.DER, form)
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "AAAA",
        der(ed25519.Ed25519PrivateKey.generate().public_key()),
        der(ec.generate_private_key(ec.SECP256R1()).public_key()),
    ],
    ids=["none", "not a key", "Ed25519", "P-256"],
)
def test_only_p384_keys_sign_logs(key: str) -> None:
    with pytest.raises(NotError) as caught:
        verify_head(sign_head(head(7, key=key), KEY), FEDERATION)
    assert caught.value.code in {"log", "certificate", "format"}


@pytest.mark.parametrize(
    ("cls", "kind"), [(TreeHead, HEAD_TYPE), (Entry, ""), (Cosignature, COSIGNATURE_TYPE)]
)
def test_each_field_has_its_form(cls: type[Any], kind: str) -> None:
    good = {
        TreeHead: head(7),
        Entry: ENTRIES[0],
        Cosignature: Cosignature(site="north", head=head(7)),
    }[cls]
    plain = json.loads(canonical.encode(good))
    assert canonical.decode(cls, canonical.encode(plain), "value") == good
    wrong: dict[str, list[Any]] = {
        "format": ["organ-exchange/log-entry/v2", None],
        "federation": ["AB" * 32, "ab"],
        "key": ["{}", 5],
        "size": [-1, 1.5, "7"],
        "root": ["AB" * 32],
        "time": [-1, "now"],
        "event": ["eaten"],
        "site": ["North", ""],
        "exchange": ["Spring", None],
        "digest": ["AB" * 32],
        "head": [{}, None],
        "more": [1],
    }
    for field, values in wrong.items():
        if field in plain or field == "more":
            for value in values:
                with pytest.raises(FormatError):
                    canonical.decode(cls, canonical.encode(plain | {field: value}), "value")
    for field in set(plain):
        less = {name: one for name, one in plain.items() if name != field}
        with pytest.raises(FormatError):
            canonical.decode(cls, canonical.encode(less), "value")
    if cls is Entry:
        bare = canonical.encode(plain | {"exchange": ""})
        assert canonical.decode(cls, bare, "value").exchange == ""


def test_a_log_only_grows() -> None:
    check_continues(None, head(3), ())
    check_continues(None, head(3), ("ab" * 32,))  # nothing to hold it against
    check_continues(head(0), head(0), ())
    check_continues(head(4), head(4), ())
    for first in range(1, 7):
        check_continues(head(first), head(7), path(first, 7))
    with pytest.raises(LogError, match="another log"):
        check_continues(head(3, key=public(OTHER.public_key())), head(7), path(3, 7))
    with pytest.raises(LogError, match="has 3 entries, it had 7"):
        check_continues(head(7), head(3), path(3, 7))
    for before, after, proof in [
        (head(3, root="cd" * 32), head(7), path(3, 7)),
        (head(3), head(7, root="cd" * 32), path(3, 7)),
        (head(3), head(7), path(4, 7)),
        (head(3), head(7), ()),
        (head(7), head(7, root="cd" * 32), ()),
    ]:
        with pytest.raises(LogError, match="does not begin with"):
            check_continues(before, after, proof)


def test_a_log_holds_what_is_proven() -> None:
    for index, entry in enumerate(ENTRIES):
        proof = tuple(one.hex() for one in merkle.inclusion_path(index, 7, subtree))
        check_includes(head(7), index, entry, proof)
        for changed in (
            (head(7), index, replace(entry, event="received"), proof),
            (head(7), (index + 1) % 7, entry, proof),
            (head(7), index, entry, proof[1:]),
            (head(7, root="cd" * 32), index, entry, proof),
        ):
            with pytest.raises(LogError, match="no proof"):
                check_includes(*changed)
