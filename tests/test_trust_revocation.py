"""Expulsion, rotation, renewal, and what a party still believes afterwards."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from trust_world import DAY, NOW, World, key_file, manifest, organ_folder, request_of

from not_core.errors import (
    CertificateError,
    KeyFileError,
    RevokedError,
    StaleListError,
    TooLargeError,
)
from not_core.trust import authority, federation, keys, revocation, sealing, signing
from not_core.trust.federation import Trust
from not_core.trust.private_keys import read_signing_key
from not_core.trust.profile import read_request
from not_core.trust.register import read_register
from not_core.trust.seen import Seen

ROUGH = ("key-compromise", "privilege-withdrawn")
MILD = ("superseded", "affiliation-changed", "cessation-of-operation")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def expel(world: World, reason: str, now: int = NOW) -> Trust:
    authority.revoke(world.place / "federation", "north", reason, now=now)
    return federation.load_trust(world.place / "federation")


def to_south(world: World, now: int = NOW) -> Path:
    out = world.place / "x.organ"
    terms = sealing.Audience(addressees=[world.south.profile], exchange="trial")
    sealing.seal(world.organ, world.north, terms, out, now=now)
    return out


@pytest.mark.parametrize("reason", [*ROUGH, "affiliation-changed", "cessation-of-operation"])
def test_nothing_of_a_revoked_site_is_believed(world: World, reason: str, tmp_path: Path) -> None:
    path = to_south(world)
    trust = expel(world, reason)
    with pytest.raises(RevokedError, match=rf"north was revoked .* \({reason}\)"):
        federation.verify_profile(world.north.profile, trust, now=NOW + 1)
    with pytest.raises(RevokedError):
        signing.verify_folder(world.organ, trust, now=NOW + 1)
    with pytest.raises(RevokedError):
        sealing.verify_sealed(path, trust, now=NOW + 1)
    south = replace(world.south, trust=trust)
    with pytest.raises(RevokedError):
        sealing.open_sealed(path, south, tmp_path / "opened", now=NOW + 1)
    assert not (tmp_path / "opened").exists()
    expelled = replace(world.north, trust=trust)
    for terms in (
        sealing.Audience(addressees=[world.south.profile], exchange="trial"),
        sealing.Audience(addressees=[world.north.profile], exchange="trial"),
    ):
        with pytest.raises(RevokedError):
            sealing.seal(world.organ, expelled, terms, tmp_path / "y.organ", now=NOW + 1)
    assert federation.verify_profile(world.south.profile, trust, now=NOW + 1)


@pytest.mark.parametrize("reason", [*ROUGH, *MILD])
def test_what_was_verified_before_outlives_a_mild_reason_only(world: World, reason: str) -> None:
    path, opened = to_south(world), world.place / "opened"
    sealing.open_sealed(path, world.south, opened, now=NOW)
    seen = Seen(world.south.folder / keys.SEEN).first
    assert seen(signing.verify_folder(opened, world.trust, now=NOW).statement) == NOW
    if reason == "superseded":  # by another certificate
        request = read_request(world.north.folder / "request.json")
        authority.admit(world.place / "federation", request, now=NOW + 5, again=True)
    trust = expel(world, reason, now=NOW + 10)
    with pytest.raises(RevokedError):
        signing.verify_folder(opened, trust, now=NOW + 20)
    with pytest.raises(RevokedError):
        signing.verify_folder(opened, trust, now=NOW + 20, seen=lambda _: NOW + 10)
    if reason in ROUGH:
        with pytest.raises(RevokedError):
            signing.verify_folder(opened, trust, now=NOW + 20, seen=seen)
    else:
        assert signing.verify_folder(opened, trust, now=NOW + 20, seen=seen).site == "north"
    # Who has the keys can sign another card, whenever it may be: it was not seen.
    (opened / "README.md").write_text("# Another\n")
    signing.sign_folder(opened, world.north)
    with pytest.raises(RevokedError):
        signing.verify_folder(opened, trust, now=NOW + 20, seen=seen)


def test_what_was_verified_before_outlives_its_certificate(world: World) -> None:
    late = NOW + 400 * DAY
    authority.publish(world.place / "federation", now=late)
    trust = federation.load_trust(world.place / "federation")
    with pytest.raises(CertificateError, match="expired"):
        signing.verify_folder(world.organ, trust, now=late)
    assert signing.verify_folder(world.organ, trust, now=late, seen=lambda _: NOW).site == "north"
    leaf = x509.load_pem_x509_certificate(world.north.profile.certificates[0].encode())
    start = int(leaf.not_valid_before_utc.timestamp())
    assert signing.verify_folder(world.organ, trust, now=late, seen=lambda _: start)
    for before in (start - 1, NOW - 100 * DAY):
        with pytest.raises(CertificateError, match="expired"):
            signing.verify_folder(world.organ, trust, now=late, seen=lambda _, at=before: at)


def test_what_was_seen_later_than_now_is_judged_as_of_now(world: World) -> None:
    """A clock that was set back: a certificate is not valid yet because it was once seen."""
    early = NOW - 11 * DAY
    with pytest.raises(CertificateError, match="valid only from"):
        signing.verify_folder(world.organ, world.trust, now=early, seen=lambda _: NOW)


def test_a_revocation_that_is_dated_ahead_holds_at_once(world: World) -> None:
    """A mild reason spares what was seen before, not what is seen for the first time."""
    trust = expel(world, "cessation-of-operation", now=NOW + 100)
    with pytest.raises(RevokedError):
        federation.verify_profile(world.north.profile, trust, now=NOW)
    assert signing.verify_folder(world.organ, trust, now=NOW, seen=lambda _: NOW).site == "north"


def test_an_organ_that_was_seen_opens_under_its_donors_new_keys(world: World) -> None:
    sealing.open_sealed(to_south(world), world.south, world.place / "one", now=NOW)
    fed, later = world.place / "federation", NOW + DAY
    profile = authority.admit(fed, keys.rotate(world.north.folder), now=later, again=True)
    fresh = keys.install(world.north.folder, profile, world.trust, now=later)
    signing.sign_folder(world.organ, fresh)
    terms = sealing.Audience(addressees=[world.south.profile], exchange="trial")
    sealing.seal(world.organ, fresh, terms, world.place / "y.organ", now=later)
    path, out = world.place / "y.organ", world.place / "two"
    assert sealing.open_sealed(path, world.south, out, now=later).path == out


def test_a_list_is_good_until_its_next_update_and_a_grace(world: World) -> None:
    due = world.trust.revoked.due
    assert due == NOW + 10 * DAY
    for grace, last in ((0, due), (3 * DAY, due + 3 * DAY)):
        trust = federation.load_trust(world.place / "federation", grace=grace)
        federation.verify_profile(world.north.profile, trust, now=last)
        with pytest.raises(StaleListError, match=f"replaced {grace / DAY:.1f} days ago"):
            federation.verify_profile(world.north.profile, trust, now=last + 1)


def test_a_list_of_the_future_is_refused(world: World) -> None:
    authority.publish(world.place / "federation", now=NOW + 301)
    trust = federation.load_trust(world.place / "federation")
    with pytest.raises(StaleListError, match="301 seconds from now"):
        federation.verify_profile(world.north.profile, trust, now=NOW)
    federation.verify_profile(world.north.profile, trust, now=NOW + 1)


def test_an_older_list_is_never_taken_in(world: World) -> None:
    old = world.trust.revoked
    new = expel(world, "key-compromise").revoked
    assert (old.number, new.number) == (1, 2)
    keys.install_list(world.south.folder, new)
    assert keys.load(world.south.folder).trust.revoked.number == 2
    keys.install_list(world.south.folder, new)  # again does no harm
    with pytest.raises(StaleListError, match="may hide a revocation"):
        keys.install_list(world.south.folder, old)
    with pytest.raises(StaleListError, match="may hide a revocation"):
        keys.install(world.south.folder, world.south.profile, world.trust, now=NOW)
    assert keys.load(world.south.folder).trust.revoked.number == 2


def test_of_two_lists_at_once_the_later_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is about to be written, having been compared, when a later one arrives."""
    fed, folder = world.place / "federation", world.south.folder
    second = authority.publish(fed, now=NOW)
    third = authority.publish(fed, now=NOW)
    write = keys.atomic.write
    later = threading.Thread(target=keys.install_list, args=(folder, third))

    def slow(path: Path, data: bytes) -> None:
        monkeypatch.setattr(keys.atomic, "write", write)
        later.start()
        later.join(0.02)
        write(path, data)

    monkeypatch.setattr(keys.atomic, "write", slow)
    keys.install_list(folder, second)
    later.join()
    assert keys.load(folder).trust.revoked.number == 3


def test_an_installation_that_was_cut_off_is_repeated(world: World, tmp_path: Path) -> None:
    """Into another federation: its root is there, the list is still the first one's."""
    other, folder = tmp_path / "other", world.south.folder
    authority.create_root(other, "other", now=NOW - DAY)
    profile = authority.admit(other, read_request(folder / "request.json"), now=NOW)
    trust = federation.load_trust(other)
    (folder / "root.pem").write_bytes(trust.pem)
    assert keys.install(folder, profile, trust, now=NOW).trust.name == "other"
    assert keys.load(folder).profile == profile


def test_only_the_root_signs_lists(world: World, tmp_path: Path) -> None:
    authority.create_root(tmp_path / "fake", "regional", now=NOW)
    fake = federation.load_trust(tmp_path / "fake")
    with pytest.raises(CertificateError, match="not signed by this federation's root"):
        revocation.parse(fake.revoked.pem, world.trust.root)
    with pytest.raises(CertificateError, match="not signed by this federation's root"):
        revocation.build(world.trust.root, world.north.signing_key.private, 9, {}, NOW)
    pem = world.trust.revoked.pem
    for damaged in (b"", pem[:-30], pem + b"x", b"note\n" + pem, pem.replace(b"M", b"N", 1)):
        with pytest.raises(CertificateError):
            revocation.parse(damaged, world.trust.root)


def odd_list(world: World, *, delta: bool = False, critical_entry: bool = False) -> bytes:
    """A list by the true root with a critical extension that changes what it means."""
    root = world.trust.root
    key = read_signing_key(world.place / "federation" / "root.key", "root key")
    whole = world.trust.revoked.crl
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(whole.last_update_utc)
        .next_update(whole.next_update_utc)
        .add_extension(x509.CRLNumber(9), critical=False)
    )
    if delta:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    if critical_entry:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(5)
            .revocation_date(whole.last_update_utc)
            .add_extension(x509.CertificateIssuer([x509.DirectoryName(root.subject)]), True)
            .add_extension(x509.CRLReason(x509.ReasonFlags.superseded), False)
            .build()
        )
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("odd", ["delta", "critical_entry"])
def test_a_list_with_a_critical_extension_is_refused(world: World, odd: str) -> None:
    assert revocation.parse(odd_list(world), world.trust.root).number == 9
    with pytest.raises(CertificateError, match="damaged or of another kind"):
        revocation.parse(odd_list(world, **{odd: True}), world.trust.root)


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([tag, *([size] if size < 128 else [0x81, size])]) + content


def test_a_list_says_when_the_next_one_comes_and_whose_it_is(world: World) -> None:
    key = read_signing_key(world.place / "federation" / "root.key", "root key")
    root, algorithm = world.trust.root, bytes.fromhex("300a06082a8648ce3d040303")
    next_one = der(0x17, b"270125080000Z")
    other = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])
    for issuer, when, words in (
        (root.subject, next_one, ""),
        (root.subject, b"", "damaged or of another kind"),
        (other, next_one, "not signed by this federation's root"),
    ):
        number = bytes.fromhex("a00e300c300a0603551d1404030201") + b"\x09"
        dates = der(0x17, b"261226080000Z") + when
        whole = der(2, b"\1") + algorithm + issuer.public_bytes() + dates + number
        body = der(0x30, whole)
        signature = der(3, b"\0" + key.sign(body, ec.ECDSA(hashes.SHA384())))
        crl = x509.load_der_x509_crl(der(0x30, body + algorithm + signature))
        pem = crl.public_bytes(serialization.Encoding.PEM)
        if not words:
            assert revocation.parse(pem, root).number == 9
        else:
            with pytest.raises(CertificateError, match=words):
                revocation.parse(pem, root)


def test_a_list_that_comes_by_message_is_bounded_before_it_is_parsed(world: World) -> None:
    pem = world.trust.revoked.pem
    with pytest.raises(CertificateError):
        revocation.parse(pem.ljust(revocation.LIST_LIMIT, b"\n"), world.trust.root)
    with pytest.raises(TooLargeError, match=r"8388609 bytes, at most 8388608 .* get the"):
        revocation.parse(pem.ljust(revocation.LIST_LIMIT + 1, b"\n"), world.trust.root)


def test_without_a_list_nothing_is_loaded(world: World) -> None:
    (world.south.folder / "federation.crl").unlink()
    with pytest.raises(StaleListError, match="no revocation list at"):
        keys.load(world.south.folder)


def test_rotation_keeps_old_organs_and_old_addresses(world: World, tmp_path: Path) -> None:
    fed, south = world.place / "federation", world.south.folder
    path, old = to_south(world), world.south.profile
    request = keys.rotate(south)
    assert keys.load(south).profile == old  # until the federation answers
    with pytest.raises(CertificateError, match="say --again"):
        authority.admit(fed, request, now=NOW)
    new = authority.admit(fed, request, now=NOW, again=True)
    fresh = keys.install(south, new, world.trust, now=NOW)
    assert fresh.profile == new != old
    assert len(fresh.sealing_keys) == 2
    sealing.open_sealed(path, fresh, tmp_path / "old", now=NOW)

    organ = organ_folder(tmp_path / "mine", manifest(donor="south", name="mine"))
    signing.sign_folder(organ, world.south)  # with the old key, whose certificate still holds
    assert signing.verify_folder(organ, world.trust, now=NOW).site == "south"
    terms = sealing.Audience(addressees=[world.north.profile], exchange="trial")
    with pytest.raises(CertificateError, match="sign the folder again"):
        sealing.seal(organ, fresh, terms, tmp_path / "mine.organ", now=NOW)
    signing.sign_folder(organ, fresh)
    sealing.seal(organ, fresh, terms, tmp_path / "mine.organ", now=NOW)

    gone, _ = authority.revoke(fed, "south", "superseded", now=NOW + 1)
    assert [one.profile for one in gone] == [old]
    trust = federation.load_trust(fed)
    with pytest.raises(RevokedError):
        federation.verify_profile(old, trust, now=NOW + 1)
    assert federation.verify_profile(new, trust, now=NOW + 1)


def test_a_site_is_admitted_once(world: World) -> None:
    fed = world.place / "federation"
    request = read_request(world.south.folder / "request.json")
    assert authority.admit(fed, request, now=NOW) == world.south.profile
    renewed = authority.admit(fed, request, now=NOW, again=True)
    assert renewed != world.south.profile
    assert authority.admit(fed, request, now=NOW) == renewed
    keys.install(world.south.folder, renewed, world.trust, now=NOW)
    stranger = keys.create(world.place / "impostor", "south")
    with pytest.raises(CertificateError, match="admitted with other keys"):
        authority.admit(fed, stranger, now=NOW)
    issued = [one.site for one in read_register(fed).issued]
    assert issued == ["north", "south", "west", "south"]


def test_an_impostor_waits_neither_for_expiry_nor_for_revocation(world: World) -> None:
    fed = world.place / "federation"
    stranger = keys.create(world.place / "impostor", "south")
    for now in (NOW, NOW + 366 * DAY):
        with pytest.raises(CertificateError, match="admitted with other keys"):
            authority.admit(fed, stranger, now=now)
    own = read_request(world.south.folder / "request.json")
    with pytest.raises(CertificateError, match="its certificate ended; if it asks anew"):
        authority.admit(fed, own, now=NOW + 366 * DAY)
    authority.revoke(fed, "south", "cessation-of-operation", now=NOW)
    for request in (stranger, own):
        with pytest.raises(CertificateError, match="say --again"):
            authority.admit(fed, request, now=NOW + 1)
    assert authority.admit(fed, own, now=NOW + 1, again=True).site == "south"


def test_a_compromised_key_is_never_admitted_again(world: World) -> None:
    fed = world.place / "federation"
    authority.revoke(fed, "south", "key-compromise", now=NOW)
    old = read_request(world.south.folder / "request.json")
    fresh = keys.rotate(world.south.folder)
    new_key = ec.generate_private_key(ec.SECP384R1())
    for request in (
        old,
        request_of("east", new_key, old.sealing_key),
        request_of("east", world.south.signing_key.private, fresh.sealing_key),
    ):
        with pytest.raises(CertificateError, match="revoked for key-compromise; ask the site"):
            authority.admit(fed, request, now=NOW + 1, again=True)
    assert authority.admit(fed, fresh, now=NOW + 1, again=True).site == "south"


@pytest.mark.parametrize("reason", ROUGH)
def test_a_rough_reason_reaches_all_that_a_site_ever_had(world: World, reason: str) -> None:
    """What was signed under a certificate that ended before may have been seen, and stays bad."""
    fed = world.place / "federation"
    request = keys.rotate(world.north.folder)
    authority.admit(fed, request, now=NOW + 300 * DAY, again=True)
    authority.revoke(fed, "north", "superseded", now=NOW + 301 * DAY)
    late = NOW + 400 * DAY
    authority.admit(fed, request, now=late, again=True)
    gone, made = authority.revoke(fed, "north", reason, now=late + 2)
    assert [one.revoked for one in gone] == [NOW + 301 * DAY, late + 2, late + 2]
    assert {one.words for one in made.revoked.values()} == {reason}
    trust = federation.load_trust(fed)
    with pytest.raises(RevokedError):
        signing.verify_folder(world.organ, trust, now=late + 3, seen=lambda _: NOW)
    with pytest.raises(CertificateError, match="no certificate to revoke"):
        authority.revoke(fed, "north", reason, now=late + 4)


def test_withdrawn_can_still_become_compromised_and_not_back(world: World) -> None:
    fed = world.place / "federation"
    for reason, words in ((ROUGH[1], ROUGH[1]), (ROUGH[0], ROUGH[0])):
        _, made = authority.revoke(fed, "north", reason, now=NOW)
        assert [one.words for one in made.revoked.values()] == [words]
    with pytest.raises(CertificateError, match="no certificate to revoke"):
        authority.revoke(fed, "north", ROUGH[1], now=NOW)


def test_revoking_nobody_says_so(world: World) -> None:
    fed = world.place / "federation"
    with pytest.raises(CertificateError, match="east has no certificate to revoke"):
        authority.revoke(fed, "east", "key-compromise", now=NOW)
    with pytest.raises(CertificateError, match="no certificate to revoke as superseded"):
        authority.revoke(fed, "north", "superseded", now=NOW)
    assert read_register(fed).list_number == 1


def test_a_register_of_another_federation_is_refused(world: World, tmp_path: Path) -> None:
    authority.create_root(tmp_path / "other", "other", now=NOW)
    fed = world.place / "federation"
    (fed / "register.json").write_bytes((tmp_path / "other" / "register.json").read_bytes())
    with pytest.raises(CertificateError, match="restore both from one backup"):
        authority.publish(fed, now=NOW)
    (fed / "register.json").unlink()
    with pytest.raises(CertificateError, match=r"no register\.json"):
        authority.publish(fed, now=NOW)


def test_passphrases_protect_a_sites_keys(tmp_path: Path) -> None:
    authority.create_root(tmp_path / "f", "regional", passphrase=b"root words", now=NOW)
    request = keys.create(tmp_path / "a", "clinic", passphrase=b"correct horse")
    profile = authority.admit(tmp_path / "f", request, passphrase=b"root words", now=NOW)
    trust = federation.load_trust(tmp_path / "f")
    with pytest.raises(KeyFileError, match="name the file of its passphrase"):
        keys.install(tmp_path / "a", profile, trust, now=NOW)
    keys.install(tmp_path / "a", profile, trust, now=NOW, passphrase=b"correct horse")
    with pytest.raises(KeyFileError, match="check the passphrase") as caught:
        keys.load(tmp_path / "a", passphrase=b"wrong horse")
    assert "wrong horse" not in str(caught.value)
    site = keys.load(tmp_path / "a", passphrase=b"correct horse")
    for name in ("signing.key", "sealing.key"):
        assert key_file(site, name).read_bytes().startswith(b"-----BEGIN ENCRYPTED")
        assert b"-----BEGIN PRIVATE" not in key_file(site, name).read_bytes()


def test_commands_revoke_rotate_and_take_in_lists(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    fed, home, profile = tmp_path / "fed", tmp_path / "keys", tmp_path / "clinic.profile"
    opening = ("--passphrase-file", secret)
    code, _, err = call("federation", "init", fed, "--name", "north")
    assert (code, "--unprotected" in " ".join(err.split())) == (2, True)
    assert call("federation", "init", fed, "--name", "north", *opening)[0] == 0
    assert call("identity", "init", home, "--site", "clinic", *opening)[0] == 0
    request = home / "request.json"
    code, _, err = call("federation", "admit", fed, request, "--out", profile)
    assert (code, "passphrase" in err) == (1, True)
    assert call("federation", "admit", fed, request, "--out", profile, *opening)[0] == 0
    root = fed / "root.pem"
    assert call("identity", "install", home, profile, "--root", root, *opening)[0] == 0
    assert call("identity", "rotate", home, *opening)[0] == 0
    again, new = ("--again", *opening), tmp_path / "new.profile"
    assert call("federation", "admit", fed, request, "--out", new, *again)[0] == 0
    assert call("identity", "install", home, new, "--root", root, *opening)[0] == 0
    words = ("federation", "revoke", fed, "clinic", "--reason", "superseded", *opening)
    code, out, _ = call(*words, "--json")
    assert (code, json.loads(out)["revocation_list"], len(json.loads(out)["revoked"])) == (0, 2, 1)
    code, out, _ = call("federation", "show", fed, "--json")
    states = [one["state"].split()[0] for one in json.loads(out)]
    assert states == ["revoked", "valid"]
    code, out, _ = call("identity", "crl", home, fed / "federation.crl", "--json")
    assert (code, json.loads(out)["revoked"]) == (0, 1)
    code, out, _ = call("federation", "crl", fed, "--days", 3, *opening, "--json")
    assert json.loads(out)["revocation_list"] == 3
