import base64
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from trust_world import DAY, NOW, World, by_key, manifest, organ_folder, public_commands

from not_core import canonical
from not_core.errors import (
    CertificateError,
    FormatError,
    OfferError,
    OrganError,
    SignatureError,
)
from not_core.manifest import Span
from not_core.trust import authority, federation, signing
from not_core.trust.offer import OFFER_TYPE, Offer, describe, sign_offer, verify_offer
from not_core.trust.statement import STATEMENT_LIMIT, signed_by

TYPE = "application/vnd.test+json"
LIMIT = 512 * 1024
"""Of an envelope, as docs/format.md promises."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("signing"))


@pytest.fixture
def organ(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.organ, tmp_path / "copy"))


def test_the_public_commands_agree(world: World, organ: Path, tmp_path: Path) -> None:
    assert public_commands(organ, world, tmp_path) == (0, 0)
    command = [sys.executable, "-m", "model_signing", *by_key(organ, world.north, tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    data = (organ / "README.md").read_bytes()
    (organ / "README.md").write_bytes(data + b"!")
    assert public_commands(organ, world, tmp_path) == (1, 1)
    (organ / "README.md").write_bytes(data)
    (organ / "extra").write_text("x")
    assert public_commands(organ, world, tmp_path) == (1, 1)


@pytest.mark.parametrize("name", sorted(signing.UNSIGNED_FILES))
def test_one_changed_byte_is_found_and_named(world: World, organ: Path, name: str) -> None:
    data = bytearray((organ / name).read_bytes())
    data[len(data) // 2] ^= 1
    (organ / name).write_bytes(data)
    error = FormatError if name == "manifest.json" else SignatureError
    with pytest.raises(error, match=f"{name.removesuffix('.json')}.*get"):
        signing.verify_folder(organ, world.trust, now=NOW)


def test_missing_extra_linked_and_nested_files(world: World, organ: Path) -> None:
    (organ / "extra.txt").write_text("x")
    with pytest.raises(OrganError, match=r"unexpected 'extra.txt'"):
        signing.verify_folder(organ, world.trust, now=NOW)
    (organ / "extra.txt").unlink()
    (organ / ".git").mkdir()
    with pytest.raises(OrganError, match="regular files only"):
        signing.verify_folder(organ, world.trust, now=NOW)
    (organ / ".git").rmdir()
    (organ.parent / "link").symlink_to(organ, target_is_directory=True)
    for other in (organ.parent / "link", organ.parent / "none", organ / "README.md"):
        with pytest.raises(OrganError, match="no organ folder at"):
            signing.verify_folder(other, world.trust, now=NOW)
    (organ / "README.md").rename(organ.parent / "README.md")
    with pytest.raises(OrganError, match=r"lacks README.md"):
        signing.verify_folder(organ, world.trust, now=NOW)
    (organ / "README.md").symlink_to(organ.parent / "README.md")
    with pytest.raises(OrganError, match="regular files only"):
        signing.verify_folder(organ, world.trust, now=NOW)


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("model.sig", lambda bundle: bundle | {"mediaType": "application/json"}),
        ("model.key.sig", lambda bundle: bundle | {"mediaType": "application/json"}),
        ("model.sig", lambda bundle: with_material(bundle, tlogEntries=[1])),
        ("model.key.sig", lambda bundle: with_material(bundle, tlogEntries=[1])),
        ("model.sig", lambda bundle: with_certificates(bundle, 0)),
        ("model.sig", lambda bundle: with_certificates(bundle, 5)),
        ("model.sig", lambda bundle: with_certificates(bundle, 1, "A B=")),
        ("model.key.sig", lambda bundle: with_material(bundle, publicKey={"hint": "AB" * 32})),
    ],
)
def test_a_bundle_has_one_form(world: World, organ: Path, file: str, edit: Any) -> None:
    bundle = json.loads((organ / file).read_bytes())
    (organ / file).write_bytes(canonical.encode(edit(bundle)))
    with pytest.raises(FormatError, match=f"{file} is not valid"):
        signing.verify_folder(organ, world.trust, now=NOW)


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("model.sig", []),
        ("model.sig", ["verificationMaterial"]),
        ("model.sig", ["verificationMaterial", "x509CertificateChain"]),
        ("model.sig", ["verificationMaterial", "x509CertificateChain", "certificates", 0]),
        ("model.key.sig", []),
        ("model.key.sig", ["verificationMaterial"]),
        ("model.key.sig", ["verificationMaterial", "publicKey"]),
    ],
)
def test_a_bundle_has_no_other_fields(
    world: World, organ: Path, file: str, place: list[Any]
) -> None:
    """Refused for themselves, not only because writing them again gives other bytes."""
    bundle = json.loads((organ / file).read_bytes())
    part = bundle
    for step in place:
        part = part[step]
    part["more"] = 1
    (organ / file).write_bytes(canonical.encode(bundle))
    with pytest.raises(FormatError, match=f"{file} is not valid at .*more: unexpected"):
        signing.verify_folder(organ, world.trust, now=NOW)


def with_material(bundle: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return bundle | {"verificationMaterial": bundle["verificationMaterial"] | changes}


def with_certificates(bundle: dict[str, Any], count: int, raw: str = "") -> dict[str, Any]:
    (one,) = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
    chain = {"certificates": [{"rawBytes": raw or one["rawBytes"]}] * count}
    return with_material(bundle, x509CertificateChain=chain)


def test_bundles_that_do_not_parse_or_are_too_large(world: World, organ: Path) -> None:
    bundle = json.loads((organ / "model.sig").read_bytes())
    (organ / "model.sig").write_bytes(canonical.encode(with_certificates(bundle, 4)))
    with pytest.raises(CertificateError, match="expected one"):
        signing.verify_folder(organ, world.trust, now=NOW)
    (organ / "model.sig").write_bytes(canonical.encode(with_certificates(bundle, 1, "AAAA")))
    with pytest.raises(CertificateError, match=r"certificate in model\.sig is damaged"):
        signing.verify_folder(organ, world.trust, now=NOW)
    for size, words in ((2**20, "is not valid"), (2**20 + 1, "more than 1048576 bytes")):
        (organ / "model.sig").write_bytes(bytes(size))
        with pytest.raises(FormatError, match=words):
            signing.verify_folder(organ, world.trust, now=NOW)


def test_a_site_signs_only_its_own_organs(world: World, tmp_path: Path) -> None:
    organ = organ_folder(tmp_path / "organ", manifest())
    with pytest.raises(OrganError, match="donor north"):
        signing.sign_folder(organ, world.south)
    assert not (organ / "model.sig").exists()
    signing.sign_folder(organ, replace(world.south, site="north"))  # a dishonest program
    with pytest.raises(OrganError, match="the signer is south"):
        signing.verify_folder(organ, world.trust, now=NOW)


def test_an_exchanged_signer_is_refused(world: World, organ: Path, tmp_path: Path) -> None:
    bundle = json.loads((organ / "model.sig").read_bytes())
    der = x509.load_pem_x509_certificate(world.south.profile.certificates[0].encode())
    raw = base64.b64encode(der.public_bytes(serialization.Encoding.DER)).decode()
    bundle["verificationMaterial"]["x509CertificateChain"]["certificates"] = [{"rawBytes": raw}]
    (organ / "model.sig").write_bytes(canonical.encode(bundle))
    with pytest.raises(SignatureError, match="by the same key"):
        signing.verify_folder(organ, world.trust, now=NOW)
    authority.create_root(tmp_path / "f", "regional", now=NOW - 20 * DAY)
    with pytest.raises(CertificateError, match="does not chain"):
        signing.verify_folder(world.organ, federation.load_trust(tmp_path / "f"), now=NOW)
    with pytest.raises(CertificateError, match="expired"):
        signing.verify_folder(world.organ, world.trust, now=NOW + 400 * DAY)


def test_a_signer_cannot_exempt_files(world: World, tmp_path: Path) -> None:
    """model_signing honours ignore_paths that the signer wrote; this project does not."""
    organ = organ_folder(tmp_path / "organ", manifest())
    statement = signing.statement_of(organ, manifest())
    statement["predicate"]["serialization"]["ignore_paths"].append("organ.safetensors")
    del statement["predicate"]["resources"][-1]
    digests = [one["digest"] for one in statement["predicate"]["resources"]]
    whole = hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()
    statement["subject"][0]["digest"]["sha256"] = whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "statement_of", lambda folder, manifest: statement)
        signing.sign_folder(organ, world.north)
    (organ / "organ.safetensors").write_bytes(b"exchanged")
    assert public_commands(organ, world, tmp_path) == (0, 0)  # the gap that we close
    with pytest.raises(SignatureError, match=r"organ\.safetensors"):
        signing.verify_folder(organ, world.trust, now=NOW)


def test_a_statement_names_the_organ_that_it_covers(world: World, tmp_path: Path) -> None:
    statement = signing.statement_of(world.organ, manifest())
    payload = canonical.encode(statement)
    assert signing.claimed_organ(payload) == manifest().digest
    resources = statement["predicate"]["resources"]
    for changes in (
        {"predicate": {}},
        {"predicate": {"resources": []}},
        {"predicate": {"resources": [{"name": "manifest.json"}]}},
        {"predicate": {"resources": [{"digest": "ab" * 32}]}},
        {"predicate": {"resources": [{**one, "digest": "short"} for one in resources]}},
        {"predicate": {"resources": [{**one, "name": "other"} for one in resources]}},
        {"predicate": {"resources": 5}},
        {"predicate": None},
    ):
        with pytest.raises(FormatError, match="not of an organ's files"):
            signing.claimed_organ(canonical.encode(statement | changes))
    with pytest.raises(FormatError, match="not of an organ's files"):
        signing.claimed_organ(b"[]")
    folder = organ_folder(tmp_path / "organ", manifest())
    (folder / "README.md").unlink()
    with pytest.raises(OrganError, match=r"README\.md"):
        signing.statement_of(folder, manifest())


def test_numbers_outside_canonical_json_are_a_format_error(world: World, tmp_path: Path) -> None:
    organ = organ_folder(tmp_path / "organ", manifest())
    text = (organ / "manifest.json").read_text()
    (organ / "manifest.json").write_text(text.replace('"n_embd":32', '"n_embd":' + "9" * 30))
    with pytest.raises(FormatError):
        signing.sign_folder(organ, world.north)


@settings(max_examples=50, deadline=None)
@given(payload=st.binary(max_size=300))
def test_statements_round_trip(world: World, payload: bytes) -> None:
    envelope = signing.sign_statement(payload, TYPE, world.north)
    key = world.north.signing_key.public_key()
    assert signing.verify_statement(envelope, TYPE, key) == payload
    with pytest.raises(SignatureError, match="of type"):
        signing.verify_statement(envelope, TYPE + "2", key)
    with pytest.raises(SignatureError, match="expected key"):
        signing.verify_statement(envelope, TYPE, world.south.signing_key.public_key())


def test_every_changed_byte_of_a_statement_is_refused(world: World) -> None:
    envelope = signing.sign_statement(b'{"a":1}', TYPE, world.north)
    key = world.north.signing_key.public_key()
    for position in range(len(envelope)):
        for bit in (1, 32):
            changed = bytearray(envelope)
            changed[position] ^= bit
            with pytest.raises((SignatureError, FormatError)):
                signing.verify_statement(bytes(changed), TYPE, key)


def test_an_envelope_has_no_more_bytes_than_it_may(world: World) -> None:
    key = world.north.signing_key.public_key()
    # Real ones differ in size by a byte or two.
    signer: Any = SimpleNamespace(public_key=lambda: key, sign=lambda *_: bytes(104))
    payload = bytes(LIMIT // 4 * 3 - 900)
    longest = TYPE + "x" * 160
    left = LIMIT - len(signed_by(signer, payload, longest))
    payload, longest = payload + bytes(left // 4 * 3), longest + "x" * (left % 4)
    envelope = signed_by(signer, payload, longest)
    assert len(envelope) == LIMIT
    with pytest.raises(SignatureError, match="expected key"):  # it was read
        signing.verify_statement(envelope, longest, key)
    with pytest.raises(FormatError, match=f"at most {LIMIT} are allowed"):
        signed_by(signer, payload, longest + "x")


def test_hostile_envelopes(world: World) -> None:
    key = world.north.signing_key.public_key()
    good = json.loads(signing.sign_statement(b"x", TYPE, world.north))
    one = good["signatures"][0]
    bad = [
        {},
        [],
        None,
        {**good, "signatures": []},
        {**good, "signatures": [one, one]},
        {**good, "signatures": [{"sig": one["sig"]}]},
        {**good, "signatures": [{**one, "sig": "AA"}]},
        {**good, "signatures": [{**one, "extra": 1}]},
        {**good, "signatures": [{**one, "sig": ""}]},
        {**good, "signatures": [{**one, "keyid": "0" * 64}]},
        {**good, "signatures": {"a": one}},
        {**good, "payload": "!!!!"},
        {**good, "payload": 5},
        {**good, "payloadType": None},
        {**good, "more": 1},
    ]
    for value in bad:
        with pytest.raises((FormatError, SignatureError)):
            signing.verify_statement(canonical.encode(value), TYPE, key)
    for wrong in (
        {"signatures": [{**one, "keyid": one["keyid"].upper()}]},
        {"signatures": [{**one, "sig": "A" * 260}]},
        {"signatures": [{**one, "sig": "A A="}]},
        {"payload": "A A="},
        {"payload": "A" * (STATEMENT_LIMIT - 200)},
        {"payloadType": "x" * 201},
        {"payloadType": "x\n"},
    ):
        if len(wrong.get("payload", "")) < 9:
            with pytest.raises(FormatError, match="statement is not valid"):
                signing.verify_statement(canonical.encode(good | wrong), TYPE, key)
        else:
            with pytest.raises(FormatError, match=f"at most {STATEMENT_LIMIT} are read"):
                signing.verify_statement(canonical.encode(good | wrong), TYPE, key)
    for text in ({"payload": "AB=="}, {"signatures": [{**one, "sig": "AB=="}]}):
        with pytest.raises(FormatError, match="is not canonical base64"):
            signing.verify_statement(canonical.encode(good | text), TYPE, key)
    longest = {"signatures": [{**one, "sig": "A" * 256}]}
    with pytest.raises(SignatureError, match="expected key"):  # it was read
        signing.verify_statement(canonical.encode(good | longest), TYPE, key)
    with pytest.raises(SignatureError, match="expected application/other"):
        signing.verify_statement(canonical.encode(good), "application/other", key)
    for data in (b"", b"\xff", b"[" * 10_000, b'"' + b"A" * STATEMENT_LIMIT + b'"'):
        with pytest.raises(FormatError):
            signing.verify_statement(data, TYPE, key)
    with pytest.raises(FormatError, match="canonical JSON"):
        signing.verify_statement(json.dumps(good).encode(), TYPE, key)
    with pytest.raises(FormatError, match="at most"):
        signing.sign_statement(bytes(STATEMENT_LIMIT), TYPE, world.north)


def an_offer(world: World) -> Offer:
    return Offer(
        federation=world.trust.fingerprint,
        exchange="trial",
        organ_id="north/notes",
        organ_digest="cd" * 32,
        version=1,
        donor="north",
        descriptor=describe("cd" * 32, "north"),
        body_sha256="ef" * 32,
        body_bytes=100,
        addressees=(world.south.profile.sealing_fingerprint,),
        wraps_sha256="12" * 32,
        not_before=NOW,
        expires=NOW + DAY,
        domain="notes",
        base_weights="ab" * 32,
        family="gpt2",
        span=Span(start=0, stop=1),
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-301, "valid only in 301"), (-300, None), (DAY + 300, None), (DAY + 301, "expired 301")],
)
def test_offer_dates_with_tolerance(world: World, seconds: int, words: str | None) -> None:
    signed = sign_offer(an_offer(world), world.north)
    arguments = (signed.envelope, signed.profile, world.trust)
    if words is None:
        assert verify_offer(*arguments, now=NOW + seconds) == signed
        return
    with pytest.raises(OfferError, match=words):
        verify_offer(*arguments, now=NOW + seconds)


def test_an_offer_is_only_its_donors(world: World) -> None:
    with pytest.raises(OfferError, match="donor north"):
        sign_offer(an_offer(world), world.south)
    forged = signing.sign_statement(canonical.encode(an_offer(world)), OFFER_TYPE, world.south)
    with pytest.raises(OfferError, match="signer is south"):
        verify_offer(forged, world.south.profile, world.trust, now=NOW)
    with pytest.raises(SignatureError):
        verify_offer(forged, world.north.profile, world.trust, now=NOW)


def describe_as_is(organ_digest: str, donor: str) -> str:
    """A descriptor of what can be none."""
    body = {"donor": donor, "format": "organ-exchange/body/v1", "organ_digest": organ_digest}
    return canonical.digest(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"addressees": ("b" * 64, "a" * 64)},
        {"addressees": ("a" * 64, "a" * 64)},
        {"addressees": ()},
        {"expires": NOW},
        {"organ_id": "south/notes"},
        {"descriptor": "0" * 64},
        {"body_bytes": 0},
        {"version": 0},
        {"addressees": [f"{n:064x}" for n in range(513)]},
        {"addressees": ["x"]},
        {"base_weights": "AB" * 32},
        {"body_sha256": "AB" * 32},
        {"domain": "two\nlines"},
        {"exchange": "Trial"},
        {"family": "GPT"},
        {"federation": "AB" * 32},
        {"format": "organ-exchange/offer/v2"},
        {"hidden": "AB" * 32},
        {"not_before": -1},
        {"organ_digest": "AB" * 32, "descriptor": describe_as_is("AB" * 32, "north")},
        {
            "donor": "north-",
            "organ_id": "north-/a",
            "descriptor": describe_as_is("cd" * 32, "north-"),
        },
        {"organ_id": "north/" + "a" * 64},
        {"organ_id": "north/Notes"},
        {"wraps_sha256": "AB" * 32},
        {"more": 1},
    ],
)
def test_offers_that_contradict_themselves_are_refused(
    world: World, changes: dict[str, object]
) -> None:
    plain = json.loads(canonical.encode(an_offer(world))) | changes
    payload = canonical.encode(json.loads(json.dumps(plain)))
    envelope = signing.sign_statement(payload, OFFER_TYPE, world.north)
    assert base64.b64encode(payload) in envelope
    with pytest.raises(FormatError, match="offer is not valid"):
        verify_offer(envelope, world.north.profile, world.trust, now=NOW)
