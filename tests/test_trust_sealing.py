import base64
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor
from hypothesis import given, settings
from hypothesis import strategies as st
from trust_world import (
    DAY,
    NOW,
    World,
    joined,
    manifest,
    organ_folder,
    parts,
    public_commands,
    terms,
)

from not_core import canonical
from not_core.errors import (
    ArchiveError,
    AudienceError,
    BodyError,
    CertificateError,
    ExpiredError,
    FormatError,
    NotAddressedError,
    NotError,
    NotYetValidError,
    OfferError,
    OrganError,
    OutputExistsError,
    RollbackError,
    SignatureError,
    StaleListError,
    TooLargeError,
    TruncatedError,
    UnsealError,
    WrapsError,
)
from not_core.manifest import Span
from not_core.trust import addressees, archive, authority, federation, keys, sealing, signing
from not_core.trust.delivery import (
    HEADER_LIMIT,
    MAGIC,
    DeliveryHeader,
    read_header,
    verify_header,
)
from not_core.trust.offer import UNWRAPPED, Offer, describe, sign_offer
from not_core.trust.seen import Seen
from not_core.trust.statement import STATEMENT_LIMIT


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sealing"))


@pytest.fixture(scope="module")
def to_both(world: World) -> Path:
    return sealed(world, world.place / "both.organ", [world.south, world.west])


@pytest.fixture(scope="module")
def to_south(world: World) -> Path:
    return sealed(world, world.place / "south.organ", [world.south])


def sealed(
    world: World, out: Path, to: list[keys.Identity], organ: Path | None = None, **more: Any
) -> Path:
    sealing.seal(organ or world.organ, world.north, terms(*to, **more), out, now=NOW)
    return out


def refused(
    world: World | SimpleNamespace,
    path: Path,
    error: type[Exception],
    words: str = "",
    now: int = NOW,
) -> None:
    """South cannot open ``path``, and nothing is left where it would have gone."""
    place = path.parent / "quarantine"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (world.south.folder / "seen.db").unlink(missing_ok=True)  # each refusal on its own
    with pytest.raises(error, match=words):
        sealing.open_sealed(path, world.south, place / "opened", now=now)
    assert list(place.iterdir()) == []


def forged(
    world: World,
    path: Path,
    donor: keys.Identity,
    plaintext: bytes,
    change: Callable[[Offer], Offer] = lambda offer: offer,
    **facts_changed: Any,
) -> Path:
    """What an admitted but dishonest donor can send to south."""
    facts = manifest(**facts_changed)
    descriptor = describe(facts.digest, donor.site)
    key = Cobblestone256Encryptor.generate_key()
    encryptor = Cobblestone256Encryptor(key, bytes.fromhex(descriptor))
    body = encryptor.update(plaintext) + encryptor.finalize()
    offer = Offer(
        federation=world.trust.fingerprint,
        exchange="trial",
        organ_id=f"{donor.site}/notes",
        organ_digest=facts.digest,
        version=facts.version,
        donor=donor.site,
        descriptor=descriptor,
        body_sha256=hashlib.sha256(body).hexdigest(),
        body_bytes=len(body),
        addressees=(world.south.profile.sealing_fingerprint,),
        wraps_sha256=UNWRAPPED,
        not_before=NOW,
        expires=NOW + DAY,
        domain=facts.domain,
        base_weights=facts.base.weights,
        family=facts.base.family,
        span=facts.span,
    )
    offer = change(offer)
    wraps = addressees.wrapped(key, offer, {offer.addressees[0]: world.south.profile})
    signed = sign_offer(replace(offer, wraps_sha256=canonical.digest(wraps)), donor)
    header = DeliveryHeader(offer=signed.envelope.decode(), profile=donor.profile, wraps=wraps)
    return joined(path, header, body)


def test_every_addressee_opens_the_same_organ(world: World, to_both: Path, tmp_path: Path) -> None:
    offer = sealing.verify_sealed(to_both, world.trust, now=NOW).offer
    assert offer.organ_digest == manifest().digest
    assert offer.body_bytes < to_both.stat().st_size
    for site in (world.south, world.west):
        opened = sealing.open_sealed(to_both, site, tmp_path / site.site, now=NOW)
        assert opened.manifest == manifest()
        assert opened.offer == offer
        assert opened.path.stat().st_mode & 0o777 == 0o700
        for name in signing.SIGNED_FILES:
            assert (opened.path / name).read_bytes() == (world.organ / name).read_bytes()


def test_openssf_accepts_an_opened_folder_until_a_byte_changes(
    world: World, to_both: Path, tmp_path: Path
) -> None:
    opened = sealing.open_sealed(to_both, world.west, tmp_path / "opened", now=NOW)
    assert public_commands(opened.path, world, tmp_path) == (0, 0)
    tensors = bytearray((opened.path / "organ.safetensors").read_bytes())
    tensors[-1] ^= 1
    (opened.path / "organ.safetensors").write_bytes(tensors)
    assert public_commands(opened.path, world, tmp_path) == (1, 1)


def test_the_plaintext_is_not_in_the_file(world: World, to_both: Path) -> None:
    data = to_both.read_bytes()
    assert b"tensor bytes" not in data
    assert b"An organ" not in data


def test_the_tar_is_plain_and_the_same_every_time(world: World) -> None:
    whole = b"".join(archive.pack(world.organ))
    assert whole == b"".join(archive.pack(world.organ))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:  # a reader that we did not write
        members = tar.getmembers()
        assert [member.name for member in members] == sorted(signing.SIGNED_FILES)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
        stored = tar.extractfile("organ.safetensors")
        assert stored is not None
        assert stored.read() == (world.organ / "organ.safetensors").read_bytes()


@settings(max_examples=30, deadline=None)
@given(tensors=st.binary(max_size=70_000), cut=st.integers(1, 4000))
def test_archives_round_trip_however_they_arrive(world: World, tensors: bytes, cut: int) -> None:
    source, target = world.place / "source", world.place / "target"
    for place in (source, target):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world.organ, source)
    (source / "organ.safetensors").write_bytes(tensors)
    whole = b"".join(archive.pack(source))
    target.mkdir()
    archive.unpack((whole[i : i + cut] for i in range(0, len(whole), cut)), target, len(whole))
    for name in signing.SIGNED_FILES:
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_not_addressed(world: World, tmp_path: Path) -> None:
    path = sealed(world, tmp_path / "west.organ", [world.west])
    refused(world, path, NotAddressedError, "not to south")


def test_an_existing_place_is_not_touched(world: World, to_south: Path, tmp_path: Path) -> None:
    (tmp_path / "opened").mkdir()
    (tmp_path / "opened" / "mine").write_text("keep")
    with pytest.raises(OutputExistsError):
        sealing.open_sealed(to_south, world.south, tmp_path / "opened", now=NOW)
    before = to_south.read_bytes()
    with pytest.raises(OutputExistsError):
        sealed(world, to_south, [world.west])
    assert to_south.read_bytes() == before


def test_any_flipped_bit_of_a_body_is_refused_by_the_cipher_alone(
    world: World, tmp_path: Path
) -> None:
    """Several chunks, no digest to help; cut at a chunk's border too."""
    organ = Path(shutil.copytree(world.organ, tmp_path / "organ"))
    (organ / "organ.safetensors").write_bytes(bytes(60_000))
    plaintext = b"".join(archive.pack(organ))
    whole = forged(world, tmp_path / "whole.organ", world.north, plaintext)
    header, body = parts(whole)
    offer = sealing.verify_sealed(whole, world.trust, now=NOW).offer
    key = addressees.unwrapped(header.wraps, offer, "south", world.south.sealing_keys)
    assert b"".join(sealing._decrypt(io.BytesIO(body), key, offer)) == plaintext
    for position in range(0, len(body), 101):
        changed = bytearray(body)
        changed[position] ^= 1 << position % 8
        with pytest.raises(UnsealError):
            list(sealing._decrypt(io.BytesIO(changed), key, offer))
    first = len(body) % (16384 + 16)
    for length in (0, 1, 31, first, first + 16400, 16384, len(body) - 1):
        with pytest.raises(UnsealError):
            list(sealing._decrypt(io.BytesIO(body[:length]), key, offer))
    with pytest.raises(UnsealError):
        list(sealing._decrypt(io.BytesIO(body), key, replace_descriptor(offer)))


def replace_descriptor(offer: Offer) -> Offer:
    other = "9" * 64
    return replace(offer, organ_digest=other, descriptor=describe(other, offer.donor))


def test_truncation_is_refused_at_any_length(world: World, to_south: Path, tmp_path: Path) -> None:
    data = to_south.read_bytes()
    path = tmp_path / "short.organ"
    body = len(data) - len(parts(to_south)[1])
    lengths = {0, 1, 24, 25, 28, 29, 30, body - 1, body, body + 1, len(data) - 1}
    for length in sorted(lengths | set(range(0, len(data), 97))):
        path.write_bytes(data[:length])
        with pytest.raises(NotError):
            sealing.open_sealed(path, world.south, tmp_path / "opened", now=NOW)
    path.unlink()
    assert not list(tmp_path.iterdir())


def test_a_longer_body_is_refused_before_it_is_read(
    world: World, to_south: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.organ"
    path.write_bytes(to_south.read_bytes() + b"\0")
    refused(world, path, BodyError, "body has")


def test_a_huge_header_is_refused_before_it_is_read(world: World, tmp_path: Path) -> None:
    path = tmp_path / "huge.organ"
    path.write_bytes(MAGIC + b"\xff\xff\xff\xff")
    refused(world, path, TooLargeError, "claims 4294967295 bytes")
    path.write_bytes(MAGIC.replace(b"v1", b"v2") + bytes(4))
    refused(world, path, FormatError, "not a sealed organ of format v1")


def test_swapped_wraps_do_not_open(world: World, to_both: Path, tmp_path: Path) -> None:
    header, body = parts(to_both)
    one, two = (site.profile.sealing_fingerprint for site in (world.south, world.west))
    swapped = {**header.wraps, one: header.wraps[two], two: header.wraps[one]}
    swapped = replace(header, wraps=swapped)
    refused(world, joined(tmp_path / "x", swapped, body), WrapsError, "than its donor signed")


def test_a_wrap_of_another_offer_does_not_open(
    world: World, to_south: Path, tmp_path: Path
) -> None:
    """Same organ, same addressee, same donor: each wrap belongs to one offer."""
    other = parts(sealed(world, tmp_path / "again.organ", [world.south]))[0]
    header, body = parts(to_south)
    mixed = replace(header, wraps=other.wraps)
    refused(world, joined(tmp_path / "x", mixed, body), WrapsError, "than its donor signed")


def test_wraps_are_exactly_the_addressees(
    world: World, to_both: Path, to_south: Path, tmp_path: Path
) -> None:
    header, body = parts(to_both)
    south = world.south.profile.sealing_fingerprint
    fewer = replace(header, wraps={south: header.wraps[south]})
    refused(world, joined(tmp_path / "fewer", fewer, body), WrapsError, "wraps for other sites")
    header, body = parts(to_south)
    more = replace(header, wraps={**header.wraps, "0" * 64: header.wraps[south]})
    refused(world, joined(tmp_path / "more", more, body), WrapsError, "wraps for other sites")
    short = replace(header, wraps={**header.wraps, south: "AAAA"})
    refused(world, joined(tmp_path / "short", short, body), WrapsError, "donor signed")


def test_a_body_of_another_organ_is_refused(world: World, to_south: Path, tmp_path: Path) -> None:
    organ = organ_folder(tmp_path / "organ", manifest(version=4))
    signing.sign_folder(organ, world.north)
    other = sealed(world, tmp_path / "other.organ", [world.south], organ)
    spliced = joined(tmp_path / "spliced", parts(to_south)[0], parts(other)[1])
    refused(world, spliced, BodyError, "body|bytes")


def test_another_donors_organ_cannot_be_resealed(
    world: World, to_south: Path, tmp_path: Path
) -> None:
    opened = sealing.open_sealed(to_south, world.south, tmp_path / "o", now=NOW)
    out = tmp_path / "re.organ"
    with pytest.raises(CertificateError, match="another key"):
        sealing.seal(opened.path, world.south, terms(world.west), out, now=NOW)
    assert not (tmp_path / "re.organ").exists()
    # A dishonest site skips its own checks: it offers north's folder as its own to south.
    plaintext = b"".join(archive.pack(opened.path))
    theft = forged(world, tmp_path / "theft.organ", world.west, plaintext)
    assert sealing.verify_sealed(theft, world.trust, now=NOW).offer.donor == "west"
    refused(world, theft, OfferError, "another donor, id")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("version", 4, "version"),
        ("domain", "other", "domain"),
        ("organ_id", "north/other", "id"),
        ("base_weights", "0" * 64, "base weights"),
        ("family", "llama", "family"),
        ("span", Span(start=1, stop=2), "span"),
    ],
)
def test_the_organ_inside_is_the_one_offered(
    world: World, tmp_path: Path, field: str, value: Any, words: str
) -> None:
    plaintext = b"".join(archive.pack(world.organ))
    honest = forged(world, tmp_path / "honest", world.north, plaintext)
    assert sealing.open_sealed(honest, world.south, tmp_path / "ok", now=NOW)
    lie = forged(
        world, tmp_path / "lie", world.north, plaintext, lambda o: replace(o, **{field: value})
    )
    refused(world, lie, OfferError, f"another {words} than was offered")
    alike = forged(world, tmp_path / "alike", world.north, plaintext, licence="MIT")
    refused(world, alike, OfferError, "another digest than was offered")
    other = forged(world, tmp_path / "digest", world.north, plaintext, replace_descriptor)
    refused(world, other, UnsealError, "does not decrypt")


@pytest.fixture
def _nothing_is_decrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwrapped(*_: object) -> bytes:
        raise AssertionError("a key was unwrapped before all that can be checked without one was")

    monkeypatch.setattr(addressees, "unwrapped", unwrapped)


@pytest.mark.usefixtures("_nothing_is_decrypted")
def test_dates(world: World, to_south: Path) -> None:
    """Here the list of revocations ends first, then the offer, then the certificate."""
    refused(world, to_south, StaleListError, "to be replaced", now=NOW + 17 * DAY + 1)
    later = replace(world.south, trust=replace(world.trust, grace=1000 * DAY))
    world_later = SimpleNamespace(south=later)
    refused(world_later, to_south, ExpiredError, "expired", now=NOW + 31 * DAY)
    refused(world_later, to_south, NotYetValidError, "valid only in", now=NOW - DAY)
    refused(world_later, to_south, CertificateError, "expired", now=NOW + 400 * DAY)


def test_a_header_alone_is_held_to_its_dates(world: World, to_south: Path) -> None:
    later = replace(world.trust, grace=1000 * DAY)
    with to_south.open("rb") as file, pytest.raises(ExpiredError):
        verify_header(file, later, now=NOW + 31 * DAY)


def test_an_offer_holds_for_thirty_days(world: World, to_south: Path) -> None:
    offer = sealing.verify_sealed(to_south, world.trust, now=NOW).offer
    assert offer.expires - offer.not_before == 30 * DAY


def test_the_largest_header_is_read_and_no_larger_one() -> None:
    for size, error in ((1024 * 1024, FormatError), (1024 * 1024 + 1, TooLargeError)):
        start = MAGIC + size.to_bytes(4, "big")
        with pytest.raises(error) as caught:
            read_header(io.BytesIO(start + bytes(size)))
        assert type(caught.value) is error


def test_the_largest_file_is_packed_and_no_larger_one(world: World, tmp_path: Path) -> None:
    """Eight gigabytes less a byte, of which nothing is on disk."""
    organ = shutil.copytree(world.organ, tmp_path / "organ")
    os.truncate(organ / archive.NAMES[0], 8**11 - 1)
    header = next(archive.pack(organ))
    assert tarfile.TarInfo.frombuf(header, "ascii", "strict").size == 8**11 - 1
    os.truncate(organ / archive.NAMES[0], 8**11)
    with pytest.raises(OrganError, match="at most 8589934591 can be sealed"):
        next(archive.pack(organ))


@pytest.mark.usefixtures("_nothing_is_decrypted")
def test_another_root(world: World, to_south: Path, tmp_path: Path) -> None:
    authority.create_root(tmp_path / "f", "regional", now=NOW - 20 * DAY)
    fake = federation.load_trust(tmp_path / "f")
    stranger = replace(world.south, trust=fake)
    with pytest.raises(CertificateError, match="does not chain"):
        sealing.open_sealed(to_south, stranger, tmp_path / "opened", now=NOW)
    with pytest.raises(CertificateError, match="does not chain"):
        sealing.verify_sealed(to_south, fake, now=NOW)
    assert not (tmp_path / "opened").exists()


def test_sealing_refuses_an_exchanged_key_and_odd_rosters(world: World, tmp_path: Path) -> None:
    """A coordinator puts its own sealing key into a recipient's profile."""
    west = world.west
    exchanged = replace(world.south.profile, sealing_key=west.profile.sealing_key)
    for error, words, odd in (
        (CertificateError, "sealing key of south", replace(terms(), addressees=[exchanged])),
        (OfferError, "named twice", terms(west, west)),
        (OfferError, "0 addressees", terms()),
        (FormatError, "exchange name", terms(west, exchange="Not A Name")),
    ):
        with pytest.raises(error, match=words):
            sealing.seal(world.organ, world.north, odd, tmp_path / "x.organ", now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_sealing_refuses_a_folder_changed_since_signing(world: World, tmp_path: Path) -> None:
    organ = Path(shutil.copytree(world.organ, tmp_path / "organ"))
    (organ / "README.md").write_text("better than it is")
    with pytest.raises(SignatureError, match=r"README\.md"):
        sealed(world, tmp_path / "x.organ", [world.south], organ)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode = len(data), kind, link, 0o644
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


def hostile_tars(world: World) -> dict[str, bytes]:
    good = {name: (world.organ / name).read_bytes() for name in archive.NAMES}
    blocks = {name: member(name, data) for name, data in good.items()}
    whole, end = b"".join(blocks.values()), bytes(1024)
    rest = b"".join(list(blocks.values())[1:])
    return {
        "symlink": member("README.md", kind=tarfile.SYMTYPE, link="/etc/passwd") + rest + end,
        "hard link": member("README.md", kind=tarfile.LNKTYPE, link="../x") + rest + end,
        "device": member("README.md", kind=tarfile.CHRTYPE) + rest + end,
        "parent": member("../README.md", good["README.md"]) + rest + end,
        "absolute": member("/README.md", good["README.md"]) + rest + end,
        "subfolder": member("a/README.md", good["README.md"]) + rest + end,
        "folder": member("a", kind=tarfile.DIRTYPE) + whole + end,
        "pax": member("x" * 150, b"1") + whole + end,
        "extra": whole + member("z.py", b"print()") + end,
        "duplicate": blocks["README.md"] + whole + end,
        "missing": rest + end,
        "no end": whole,
        "half an end": whole + bytes(512),
        "trailing": whole + end + b"x",
        "trailing zeros": whole + end + bytes(512),
        "padding": whole.replace(b"# An organ\n\0", b"# An organ\n!") + end,
        "mode": whole.replace(b"0000644", b"0004755", 1) + end,
        "size": blocks["README.md"][:124] + b"77777777777" + whole[135:] + end,
        "letter in size": blocks["README.md"][:124] + b"0000000001X" + whole[135:] + end,
        "cut in a file": whole[:-450],
        "binary size": blocks["README.md"][:124] + b"\x80" + bytes(10) + whole[135:] + end,
        "empty": b"",
        "text": b"not a tar" * 200,
    }


def test_only_our_own_tar_is_unpacked(world: World, tmp_path: Path) -> None:
    honest = b"".join(archive.pack(world.organ))
    tars = hostile_tars(world)
    for name, data in tars.items():
        assert data != honest, name
        path = forged(world, tmp_path / "hostile.organ", world.north, data)
        assert sealing.verify_sealed(path, world.trust, now=NOW)
        refused(world, path, ArchiveError, "sealed organ")


def test_only_open_sealed_makes_an_opened_organ(world: World, to_south: Path) -> None:
    signed = sealing.verify_sealed(to_south, world.trust, now=NOW)
    with pytest.raises(TypeError, match="only opening"):
        sealing.OpenedOrgan(
            path=world.organ,
            manifest=manifest(),
            signed=signed,
            statement="0" * 64,
            moment=NOW,
            proof=object(),
        )


def test_memory_does_not_grow_with_the_organ(world: World, tmp_path: Path) -> None:
    organ = organ_folder(tmp_path / "organ", manifest(), bytes(48 * 1024 * 1024))
    signing.sign_folder(organ, world.north)
    tracemalloc.start()
    try:
        path = sealed(world, tmp_path / "big.organ", [world.south], organ)
        sealing.open_sealed(path, world.south, tmp_path / "opened", now=NOW)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 1024 * 1024


def test_the_coordinator_needs_no_model_signing(world: World, to_south: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules['model_signing'] = None; sys.modules['torch'] = None\n"
        "from not_core.trust import federation, sealing\n"
        "root = federation.load_trust(Path(sys.argv[2]))\n"
        f"print(sealing.verify_sealed(Path(sys.argv[1]), root, now={NOW}).offer.organ_id)\n"
    )
    root = world.place / "federation" / "root.pem"
    command = [sys.executable, "-c", code, str(to_south), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "north/notes\n"


def test_what_is_opened_is_its_sites_alone(world: World, to_south: Path, tmp_path: Path) -> None:
    told: list[int] = []
    opened = sealing.open_sealed(
        to_south, world.south, tmp_path / "o", now=NOW, advance=told.append
    )
    assert sum(told) == sum(map(len, archive.pack(opened.path)))
    assert repr(opened) == f"north/notes version 3, {manifest().digest[:12]}, in {opened.path}"
    assert stat.S_IMODE(opened.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in opened.path.iterdir()} == {0o600}
    assert opened.manifest == manifest()
    assert opened.path == tmp_path / "o"
    assert opened.offer == sealing.verify_sealed(to_south, world.trust, now=NOW).offer


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "organ-exchange/sealed/v2"},
        {"offer": "x" * (STATEMENT_LIMIT + 1)},
        {"wraps": {}},
        {"wraps": {f"{n:064x}": "" for n in range(513)}},
        {"wraps": {"AB" * 32: ""}},
        {"wraps": {"ab" * 32: "A B="}},
        {"more": 1},
    ],
)
def test_a_header_of_another_form_is_not_read(to_south: Path, changes: dict[str, Any]) -> None:
    header, _ = parts(to_south)
    data = canonical.encode(json.loads(canonical.encode(header)) | changes)
    with pytest.raises(FormatError, match="header is not valid"):
        read_header(io.BytesIO(MAGIC + len(data).to_bytes(4, "big") + data))


def test_a_file_that_is_not_there_or_cannot_be_read(
    world: World, to_south: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FormatError, match="no sealed organ at"):
            sealing.verify_sealed(path, world.trust, now=NOW)

    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(FormatError, match=r"cannot be read \(Permission denied\)"):
        sealing.verify_sealed(to_south, world.trust, now=NOW)


def test_a_sealed_organ_is_checked_for_the_exchange_that_is_asked_for(
    world: World, to_south: Path
) -> None:
    assert sealing.verify_sealed(to_south, world.trust, now=NOW, exchange="trial")
    with pytest.raises(AudienceError, match="for exchange trial, expected other"):
        sealing.verify_sealed(to_south, world.trust, now=NOW, exchange="other")


def test_a_header_has_a_largest_size() -> None:
    for size, error in ((HEADER_LIMIT, TruncatedError), (HEADER_LIMIT + 1, TooLargeError)):
        with pytest.raises(error):
            read_header(io.BytesIO(MAGIC + size.to_bytes(4, "big")))


def test_a_content_key_has_32_bytes(world: World, to_south: Path) -> None:
    header, _ = parts(to_south)
    offer = sealing.verify_sealed(to_south, world.trust, now=NOW).offer
    keys_of_south = world.south.sealing_keys
    for size in (31, 33):
        wraps = addressees.wrapped(
            bytes(size), offer, {name: world.south.profile for name in header.wraps}
        )
        with pytest.raises(UnsealError, match="wrong length"):
            addressees.unwrapped(wraps, offer, "south", keys_of_south)


def test_two_openings_at_once_cannot_undo_each_other(
    world: World, to_south: Path, tmp_path: Path
) -> None:
    signed = sealing.verify_sealed(to_south, world.trust, now=NOW)
    older = replace(signed, offer=replace(signed.offer, version=2))
    memory, revoked = Seen(tmp_path / "seen.db"), world.trust.revoked
    assert memory.first("a" * 64) is None
    memory.check(older.offer, revoked)
    memory.commit(signed, "a" * 64, NOW, revoked)
    memory.commit(signed, "a" * 64, NOW - 9, revoked)  # known: the first time stays
    with pytest.raises(RollbackError, match="of version 2, version 3 was seen"):
        memory.commit(older, "b" * 64, NOW, revoked)
    assert (memory.first("a" * 64), memory.first("b" * 64)) == (NOW, None)


def test_a_wrapped_key_is_1168_bytes(to_south: Path) -> None:
    for wrap in parts(to_south)[0].wraps.values():
        assert len(base64.b64decode(wrap)) == 1168
