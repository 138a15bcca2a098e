"""Every bit flipped, one at a time: refused by a typed error, and nothing written.

The ordinary suite takes every 61st bit, ``make fuzz`` all of them. A file is changed in place, and
what is verified before is remembered for as long as it is given the same bytes: ``remembering``.
"""

import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from forger import remembering
from trust_world import NOW, World, parts, terms

from not_core.errors import (
    BodyError,
    CertificateError,
    FormatError,
    NotError,
    UnsealError,
)
from not_core.trust import addressees, delivery, keys, revocation, sealing, signing

STRIDE = 61
"""A prime, so that all bits of a byte have their turn."""

strides = pytest.mark.parametrize(
    "stride", [STRIDE, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["some", "all"]
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = Path("/dev/shm")  # noqa: S108 - faster where there is one
    place = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield World(place)
    shutil.rmtree(place)


def flips(path: Path, stride: int, first: int = 0) -> Iterator[int]:
    """Flip one bit of a file after another, and put it right again; yields which byte."""
    data = path.read_bytes()
    handle = os.open(path, os.O_WRONLY)
    try:
        for bit in range(8 * first, 8 * len(data), stride):
            at = bit // 8
            os.pwrite(handle, bytes([data[at] ^ 1 << bit % 8]), at)
            yield at
            os.pwrite(handle, data[at : at + 1], at)
    finally:
        os.close(handle)
    assert path.read_bytes() == data


def sealed_to(world: World, name: str) -> tuple[Path, list[keys.Identity]]:
    """A sealed organ, as small as one can be, and the sites that try to open it."""
    site = world.sites[name]
    path = world.place / f"{name}.organ"
    if not path.exists():
        sealing.seal(world.organ, world.north, terms(site), path, now=NOW)
    return path, [site] if site is world.north else [site, world.west]


@strides
@pytest.mark.parametrize("to", ["north", "south"])
def test_a_sealed_file(world: World, to: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator, an addressee and a site that is none refuse it at any bit."""
    path, readers = sealed_to(world, to)
    monkeypatch.setattr(delivery, "verify_offer", remembering(delivery.verify_offer))
    body = path.stat().st_size - len(parts(path)[1])
    place = world.place / f"opened-{to}"
    place.mkdir(exist_ok=True)
    tried: Counter[type[NotError]] = Counter()
    for at in flips(path, stride):
        expected = NotError if at >= len(delivery.MAGIC) else FormatError
        with pytest.raises(BodyError if at >= body else expected) as refusal:
            sealing.verify_sealed(path, world.trust, now=NOW)
        for reader in readers:
            with pytest.raises(refusal.type):
                sealing.open_sealed(path, reader, place / "opened", now=NOW)
            assert not (reader.folder / keys.SEEN).exists()
        assert not any(place.iterdir())
        tried[refusal.type] += 1
    assert tried.total() == -(-8 * path.stat().st_size // stride)
    assert len(tried) >= 5  # every layer had its turn
    assert sealing.verify_sealed(path, world.trust, now=NOW)


@strides
def test_a_body_by_the_cipher_alone(world: World, stride: int) -> None:
    path, _ = sealed_to(world, "north")
    header, body = parts(path)
    offer = sealing.verify_sealed(path, world.trust, now=NOW).offer
    key = addressees.unwrapped(header.wraps, offer, "north", world.north.sealing_keys)
    changed = bytearray(body)
    for bit in range(0, 8 * len(body), stride):
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnsealError):
            list(sealing._decrypt(io.BytesIO(changed), key, offer))
        changed[bit // 8] ^= 1 << bit % 8
    assert b"".join(sealing._decrypt(io.BytesIO(changed), key, offer))


@strides
@pytest.mark.parametrize("name", sorted(signing.SIGNED_FILES))
def test_a_signed_folder(
    world: World, name: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "verify_chain", remembering(signing.verify_chain))
    for _ in flips(world.organ / name, stride):
        with pytest.raises(NotError):
            signing.verify_folder(world.organ, world.trust, now=NOW)
    assert signing.verify_folder(world.organ, world.trust, now=NOW).site == "north"


@strides
def test_a_revocation_list(world: World, stride: int) -> None:
    path = world.place / "list"
    path.write_bytes(world.trust.revoked.pem)
    for _ in flips(path, stride):
        with pytest.raises(CertificateError):
            revocation.load(path, world.trust.root)
    assert revocation.load(path, world.trust.root).number == 1
