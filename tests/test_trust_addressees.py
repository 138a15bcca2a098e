"""Hidden addressees, new offers of an old body, audiences and versions."""

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trust_world import DAY, NOW, World, joined, manifest, organ_folder, parts, terms

from not_core import canonical
from not_core.errors import (
    AudienceError,
    BodyError,
    CertificateError,
    ExpiredError,
    HomeError,
    NotAddressedError,
    OfferError,
    RollbackError,
    SignatureError,
    TruncatedError,
    UnsealError,
)
from not_core.trust import addressees, authority, federation, keys, sealing, signing
from not_core.trust.offer import sign_offer
from not_core.trust.profile import read_request


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def seal(
    world: World, name: str, *to: keys.Identity, organ: Path | None = None, **more: Any
) -> Path:
    out = world.place / name
    sealing.seal(organ or world.organ, world.north, terms(*to, **more), out, now=NOW)
    return out


def opens(world: World, path: Path, site: keys.Identity, now: int = NOW, **more: Any) -> bool:
    out = world.place / f"{path.name}-{site.site}-{os.urandom(4).hex()}"
    try:
        sealing.open_sealed(path, site, out, now=now, **more)
    except NotAddressedError:
        return False
    return True


def version(world: World, number: int, tensors: bytes = b"x") -> Path:
    folder = world.place / f"v{number}-{tensors.hex()}"
    organ_folder(folder, manifest(version=number, domain=f"notes {tensors.hex()}"), tensors)
    signing.sign_folder(folder, world.north)
    return folder


def test_hidden_addressees_open_and_nobody_else(world: World) -> None:
    path = seal(world, "hidden.organ", world.south, hide=True)
    assert opens(world, path, world.south)
    assert opens(world, path, world.north)  # the donor always may
    assert not opens(world, path, world.west)
    with pytest.raises(NotAddressedError, match="not to west") as refusal:
        sealing.open_sealed(path, world.west, world.place / "opened", now=NOW)
    assert "16" not in str(refusal.value)  # slots: how many sites they stand for is hidden


def test_a_hidden_offer_looks_the_same_whoever_it_is_for(world: World) -> None:
    sizes = set()
    for number, to in enumerate(([world.south], [world.west], [world.south, world.west])):
        path = seal(world, f"{number}.organ", *to, hide=True)
        header, _ = parts(path)
        offer = sealing.verify_sealed(path, world.trust, now=NOW).offer
        assert len(offer.addressees) == len(header.wraps) == 16
        assert {len(wrap) for wrap in header.wraps.values()} == {
            len(next(iter(header.wraps.values())))
        }
        text = path.read_bytes()[: -offer.body_bytes].decode("latin-1")
        for site in world.sites.values():
            assert site.profile.sealing_fingerprint not in text.replace(
                header.profile.sealing_fingerprint, ""
            )
        sizes.add(len(canonical.encode(header)))
    assert max(sizes) - min(sizes) < 16  # an ECDSA signature's length varies by a few bytes


def test_tags_differ_from_offer_to_offer_of_one_body(world: World) -> None:
    first = seal(world, "first.organ", world.south, hide=True)
    second = world.place / "second.organ"
    sealing.rewrap(first, world.north, terms(world.south, hide=True), second, now=NOW)
    one, two = (set(parts(path)[0].wraps) for path in (first, second))
    assert not one & two
    assert parts(first)[1] == parts(second)[1]


@pytest.mark.parametrize(("count", "slots"), [(1, 16), (16, 16), (17, 64), (257, 512), (512, 512)])
def test_slots_are_few_sizes(count: int, slots: int) -> None:
    names = [os.urandom(32).hex() for _ in range(count)]
    found = addressees.padded(names, "0" * 64)
    assert (len(found), list(found)) == (slots, sorted(set(found)))
    assert set(names) <= set(found)
    assert addressees.padded(names, None) == tuple(sorted(names))


def test_an_offer_has_room_for_so_many_and_the_donor(world: World) -> None:
    donor, most = world.north.profile, addressees.MAX_ADDRESSEES
    others = [
        replace(donor, sealing_key=base64.b64encode(number.to_bytes(3)).decode())
        for number in range(most)
    ]
    addressees.check_number(others[:-1], donor)
    addressees.check_number([*others[:-1], donor], donor)  # named or not, it is one of them
    for profiles in ([], others, [*others, donor]):
        with pytest.raises(OfferError, match=f"{len(profiles)} addressees given, expected 1 to"):
            addressees.check_number(profiles, donor)


def test_a_wrap_for_whom_the_donor_did_not_name_is_not_taken(world: World) -> None:
    """A dishonest donor's slot for west holds the key under a tag that is not west's."""
    key, nonce = os.urandom(32), "7" * 64
    path = seal(world, "x.organ", world.south)
    offer = sealing.verify_sealed(path, world.trust, now=NOW).offer
    tag = addressees.tag(key, nonce, world.south.profile.sealing_fingerprint)
    offer = replace(offer, hidden=nonce, addressees=(tag,))
    wraps = addressees.wrapped(key, offer, {tag: world.west.profile})
    with pytest.raises(NotAddressedError):
        addressees.unwrapped(wraps, offer, "west", world.west.sealing_keys)
    wraps = addressees.wrapped(key, offer, {tag: world.south.profile})
    assert addressees.unwrapped(wraps, offer, "south", world.south.sealing_keys) == key


def test_rewrap_offers_the_same_body_to_others(world: World) -> None:
    path, again = seal(world, "x.organ", world.south), world.place / "again.organ"
    later = NOW + 8 * DAY
    signed = sealing.rewrap(
        path, world.north, terms(world.west, exchange="second"), again, now=later
    )
    assert signed == sealing.verify_sealed(again, world.trust, now=later)
    before = sealing.verify_sealed(path, world.trust, now=NOW).offer
    assert signed.offer.body_sha256 == before.body_sha256
    assert (signed.offer.exchange, signed.offer.not_before) == ("second", later)
    assert opens(world, again, world.west, later)
    assert not opens(world, again, world.south, later)
    assert opens(world, again, world.north, later)


def test_rewrap_renews_an_expired_offer(world: World) -> None:
    path, again = seal(world, "x.organ", world.south, lifetime_seconds=60), world.place / "y.organ"
    later = NOW + DAY
    with pytest.raises(ExpiredError):
        opens(world, path, world.south, later)
    sealing.rewrap(path, world.north, terms(world.south), again, now=later)
    assert opens(world, again, world.south, later)


def test_only_the_donor_rewraps(world: World) -> None:
    path, out = seal(world, "x.organ", world.south), world.place / "y.organ"
    with pytest.raises(OfferError, match="only its donor"):
        sealing.rewrap(path, world.south, terms(world.west), out, now=NOW)
    assert not out.exists()


def test_rewrap_believes_no_file_that_others_made(world: World) -> None:
    """Anyone can wrap a key of his own to north; north must not put its name to it."""
    path, out = seal(world, "x.organ", world.south), world.place / "y.organ"
    header, body = parts(path)
    offer = replace(sealing.verify_sealed(path, world.trust, now=NOW).offer, donor="north")
    wraps = addressees.wrapped(
        bytes(32),
        offer,
        {
            world.north.profile.sealing_fingerprint: world.north.profile,
            world.south.profile.sealing_fingerprint: world.south.profile,
        },
    )
    offer = replace(offer, wraps_sha256=canonical.digest(wraps))
    signed = sign_offer(offer, replace(world.west, site="north"))
    forged = replace(header, offer=signed.envelope.decode(), wraps=wraps)
    with pytest.raises(SignatureError, match="expected key"):
        sealing.rewrap(
            joined(world.place / "forged.organ", forged, body),
            world.north,
            terms(world.west),
            out,
            now=NOW,
        )
    assert not out.exists()


def test_an_offer_is_for_one_exchange_and_one_federation(world: World) -> None:
    path = seal(world, "x.organ", world.south)
    assert opens(world, path, world.south, exchange="trial")
    with pytest.raises(AudienceError, match="for exchange trial, expected other"):
        opens(world, path, world.south, exchange="other")
    # The same keys in a second federation, whose members must not take the first one's organs.
    second = world.place / "second"
    authority.create_root(second, "second", now=NOW - DAY)
    trust = federation.load_trust(second)
    admitted = authority.admit(
        second, read_request(world.north.folder / "request.json"), now=NOW - DAY
    )
    header, body = parts(path)
    moved = joined(world.place / "moved.organ", replace(header, profile=admitted), body)
    with pytest.raises(AudienceError, match="another federation than second"):
        sealing.verify_sealed(moved, trust, now=NOW)


def test_versions_only_rise(world: World) -> None:
    old = seal(world, "old.organ", world.south, world.west, organ=version(world, 4))
    new = seal(world, "new.organ", world.south, world.west, organ=version(world, 5))
    assert opens(world, new, world.south)
    with pytest.raises(RollbackError, match="version 4, version 5 was seen"):
        opens(world, old, world.south)
    assert opens(world, old, world.west)
    assert opens(world, new, world.west)
    # Nor what was taken before, by the same file or by a new offer.
    with pytest.raises(RollbackError, match="version 4, version 5 was seen"):
        opens(world, old, world.west)
    again = world.place / "again.organ"
    sealing.rewrap(old, world.north, terms(world.west), again, now=NOW)
    with pytest.raises(RollbackError, match="version 4, version 5 was seen"):
        opens(world, again, world.west)
    assert opens(world, new, world.south)
    newer = world.place / "newer.organ"
    sealing.rewrap(new, world.north, terms(world.south), newer, now=NOW)
    assert opens(world, newer, world.south)


def test_versions_begin_at_one(world: World) -> None:
    assert opens(world, seal(world, "x.organ", world.south, organ=version(world, 1)), world.south)


def test_a_version_names_one_organ(world: World) -> None:
    one = seal(world, "one.organ", world.south, organ=version(world, 4, b"a"))
    two = seal(world, "two.organ", world.south, organ=version(world, 4, b"b"))
    assert opens(world, one, world.south)
    with pytest.raises(RollbackError, match="another organ as version 4"):
        opens(world, two, world.south)


def test_a_thief_who_offered_the_last_version_is_forgotten(world: World) -> None:
    """With its true donor's keys, before anybody knew; afterwards the donor has others."""
    fed, south = world.place / "federation", world.south
    assert opens(world, seal(world, "x.organ", south, organ=version(world, 2**53 - 1)), south)
    authority.revoke(fed, "north", "key-compromise", now=NOW)
    profile = authority.admit(fed, keys.rotate(world.north.folder), now=NOW, again=True)
    trust = federation.load_trust(fed)
    world.north = keys.install(world.north.folder, profile, trust, now=NOW)
    south = replace(south, trust=trust)
    assert opens(world, seal(world, "y.organ", south, organ=version(world, 4)), south)
    with pytest.raises(RollbackError, match="version 3, version 4 was seen"):
        opens(world, seal(world, "z.organ", south, organ=version(world, 3)), south)


def test_a_site_remembers_after_its_own_checks(world: World) -> None:
    old = seal(world, "old.organ", world.south, organ=version(world, 4))
    new = seal(world, "new.organ", world.south, organ=version(world, 5))
    place = world.place / "place"
    newer = sealing.open_unremembered(new, world.south, place / "new", now=NOW)
    older = sealing.open_unremembered(old, world.south, place / "old", now=NOW)
    assert opens(world, old, world.south)
    sealing.remember(newer, world.south)
    sealing.remember(newer, world.south)
    with pytest.raises(RollbackError, match="version 4, version 5 was seen"):
        sealing.remember(older, world.south)
    with pytest.raises(RollbackError):
        sealing.open_unremembered(old, world.south, place / "again", now=NOW)
    with pytest.raises(TypeError, match="only opening"):
        replace(older, proof=object())


def test_what_fails_a_check_leaves_no_mark(world: World) -> None:
    """A high version in an offer whose body is spoiled must not lock out the true ones."""
    high = seal(world, "high.organ", world.south, organ=version(world, 9))
    low = seal(world, "low.organ", world.south, organ=version(world, 5))
    data = bytearray(high.read_bytes())
    header, _ = parts(high)
    offer = sealing.verify_sealed(high, world.trust, now=NOW).offer
    fake = sign_offer(replace(offer, domain="lie"), world.north)  # donor's own lie
    for spoiled, error in (
        (data[:-1], TruncatedError),
        (data[:-1] + bytes([data[-1] ^ 1]), BodyError),
    ):
        high.write_bytes(spoiled)
        with pytest.raises(error):
            opens(world, high, world.south)
    lie = replace(header, offer=fake.envelope.decode())
    with pytest.raises(UnsealError, match="wrapped for south does not open"):
        opens(
            world, joined(world.place / "lie", lie, bytes(data[-offer.body_bytes :])), world.south
        )
    assert opens(world, low, world.south)


def test_a_retired_certificate_cannot_be_offered_anew(world: World) -> None:
    path = seal(world, "x.organ", world.south)
    fed = world.place / "federation"
    request = keys.rotate(world.north.folder)
    profile = authority.admit(fed, request, now=NOW, again=True)
    authority.revoke(fed, "north", "superseded", now=NOW)
    fresh = keys.install(world.north.folder, profile, federation.load_trust(fed), now=NOW)
    with pytest.raises(CertificateError, match="revoked"):
        sealing.rewrap(path, fresh, terms(world.south), world.place / "y.organ", now=NOW)


def test_a_damaged_memory_is_a_typed_error(world: World) -> None:
    path = seal(world, "x.organ", world.south)
    (world.south.folder / keys.SEEN).write_bytes(b"not a database" * 100)
    with pytest.raises(HomeError, match="put back its newest copy"):
        opens(world, path, world.south)
    assert [one for one in world.place.iterdir() if "south-" in one.name] == []


@pytest.mark.parametrize(
    ("names", "slots"), [(1, 16), (16, 16), (17, 64), (65, 256), (256, 256), (257, 512)]
)
def test_hidden_addressees_are_among_as_few_as_hold_them(names: int, slots: int) -> None:
    tags = [f"{number:064x}" for number in range(names)]
    found = addressees.padded(tags, "ab" * 32)
    assert len(found) == slots
    assert set(tags) <= set(found)
