import base64
import copy
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from trust_world import DAY, NOW, World, by_certificate, key_file, public_command, request_of

from not_core import canonical
from not_core.errors import CertificateError, FormatError, KeyFileError, NotError
from not_core.trust import authority, federation, keys, revocation
from not_core.trust.certificates import binding, key_usage
from not_core.trust.private_keys import read_signing_key
from not_core.trust.profile import Request, read_profile, read_request, unbase64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("federation"))


def test_a_profile_binds_name_signing_key_and_sealing_key(world: World) -> None:
    key = federation.verify_profile(world.north.profile, world.trust, now=NOW)
    assert key == world.north.signing_key.public_key()
    leaf = x509.load_pem_x509_certificate(world.north.profile.certificates[0].encode())
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CODE_SIGNING in purposes
    assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes
    uris = leaf.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [
        "urn:organ-exchange:site:north",
        f"urn:organ-exchange:sealing-key:{world.north.profile.sealing_fingerprint}",
    ]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (NOW - 11 * DAY, "valid only from"),
        (NOW + 360 * DAY, "certificate of north expired"),
        (NOW + 4000 * DAY, "federation root expired"),
    ],
)
def test_dates(world: World, now: int, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        federation.verify_profile(world.north.profile, world.trust, now=now)


def test_exchanged_parts_are_found(world: World) -> None:
    north, south = world.north.profile, world.south.profile
    with pytest.raises(CertificateError, match="sealing key of north is not the one"):
        federation.verify_profile(
            replace(north, sealing_key=south.sealing_key), world.trust, now=NOW
        )
    with pytest.raises(CertificateError, match="issued to south"):
        federation.verify_profile(
            replace(north, certificates=south.certificates), world.trust, now=NOW
        )
    with pytest.raises(CertificateError, match="issued to north"):
        federation.verify_profile(replace(north, site="south"), world.trust, now=NOW)
    with pytest.raises(CertificateError, match="holds 2 certificates, expected one"):
        federation.verify_profile(
            replace(north, certificates=north.certificates + south.certificates),
            world.trust,
            now=NOW,
        )


def test_another_root_of_the_same_name_is_refused(world: World, tmp_path: Path) -> None:
    authority.create_root(tmp_path / "fake", "regional", now=NOW - 20 * DAY)
    fake = federation.load_trust(tmp_path / "fake")
    with pytest.raises(CertificateError, match="does not chain"):
        federation.verify_profile(world.north.profile, fake, now=NOW)


def test_a_site_cannot_admit_sites(world: World, tmp_path: Path) -> None:
    """A leaf used as an authority: its owner signs a certificate for another name."""
    issuer = x509.load_pem_x509_certificate(world.west.profile.certificates[0].encode())
    victim = x509.load_pem_x509_certificate(world.north.profile.certificates[0].encode())
    builder = (
        x509.CertificateBuilder()
        .subject_name(victim.subject)
        .issuer_name(issuer.subject)
        .public_key(world.west.signing_key.public_key())
        .serial_number(7)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
    )
    for extension in victim.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    forged = builder.sign(world.west.signing_key.private, hashes.SHA384())
    pem = forged.public_bytes(serialization.Encoding.PEM).decode()
    for chain, words in (
        ((pem,), "does not chain"),
        ((pem, *world.west.profile.certificates), "expected one, which the root itself signed"),
    ):
        profile = replace(world.north.profile, certificates=chain)
        with pytest.raises(CertificateError, match=words):
            federation.verify_profile(profile, world.trust, now=NOW)


def test_requests_edited_on_the_way_are_refused(world: World, tmp_path: Path) -> None:
    request = keys.create(tmp_path / "a", "clinic")
    home = world.place / "federation"
    with pytest.raises(CertificateError, match="another site name or sealing key"):
        authority.admit(home, replace(request, site="other"), now=NOW)
    swapped = replace(request, sealing_key=world.south.profile.sealing_key)
    with pytest.raises(CertificateError, match="another site name or sealing key"):
        authority.admit(home, swapped, now=NOW)
    with pytest.raises(CertificateError, match="1216 bytes"):
        authority.admit(home, replace(request, sealing_key="AAAA"), now=NOW)


@pytest.mark.parametrize(
    "point",
    [
        0,
        1,
        2**255 - 20,
        2**255 - 19,
        2**255 - 18,
        0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    ],
)
def test_a_site_whose_sealing_key_makes_no_secret_is_nobody(world: World, point: int) -> None:
    """Every donor would fail on it, after training: it is neither admitted nor addressed."""
    raw = unbase64(world.west.profile.sealing_key, "x")[:1184] + point.to_bytes(32, "little")
    sealing_key = base64.b64encode(raw).decode()
    request = request_of("evil", world.west.signing_key.private, sealing_key)
    with pytest.raises(CertificateError, match="evil is degenerate"):
        authority.admit(world.place / "federation", request, now=NOW)
    fingerprint = canonical.sha256(raw)
    pem = reissued(world, {x509.SubjectAlternativeName: binding("north", fingerprint)})
    careless = replace(world.north.profile, certificates=(pem,), sealing_key=sealing_key)
    with pytest.raises(CertificateError, match="north is degenerate"):
        federation.verify_profile(careless, world.trust, now=NOW)


def test_no_message_repeats_a_name_that_a_stranger_made_up(world: World) -> None:
    text = "x\n2027-01-01 approved by the operator"
    key, name = (
        world.west.signing_key.private,
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]),
    )
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), 5)
        .not_valid_before(world.trust.root.not_valid_before_utc)
        .not_valid_after(world.trust.root.not_valid_after_utc)
        .add_extension(binding(text, "0" * 64), critical=False)
        .sign(key, hashes.SHA384())
    )
    pem = own.public_bytes(serialization.Encoding.PEM).decode()
    for now in (NOW, NOW + 9999 * DAY):
        with pytest.raises(CertificateError, match="another kind") as caught:
            federation.verify_chain([pem], world.trust, now=now)
        assert "approved" not in str(caught.value)


def test_passphrase_protects_the_root_key(tmp_path: Path) -> None:
    request = keys.create(tmp_path / "a", "clinic")
    authority.create_root(tmp_path / "f", "regional", passphrase=b"correct", now=NOW)
    assert b"ENCRYPTED" in (tmp_path / "f" / "root.key").read_bytes()
    with pytest.raises(KeyFileError, match="name the file of its passphrase"):
        authority.admit(tmp_path / "f", request, now=NOW)
    with pytest.raises(KeyFileError, match="check the passphrase") as caught:
        authority.admit(tmp_path / "f", request, passphrase=b"wrong-one", now=NOW)
    assert "wrong-one" not in str(caught.value)
    assert authority.admit(tmp_path / "f", request, passphrase=b"correct", now=NOW)


def odd_roots(folder: Path) -> Iterator[x509.Certificate]:
    """Roots, each with one thing that a root must have and this has not."""
    root = federation.load_root(folder / "root.pem")
    good = read_signing_key(folder / "root.key", "root key")
    other = ec.generate_private_key(ec.SECP384R1())
    short = ec.generate_private_key(ec.SECP256R1())
    not_a_ca = x509.BasicConstraints(ca=False, path_length=None)
    two_names = x509.Name([*root.subject, *root.subject])
    odd_kind = x25519.X25519PrivateKey.generate()
    kinds: tuple[tuple[Any, Any, x509.Name, tuple[x509.ExtensionType, ...]], ...] = (
        (odd_kind, good, root.subject, ()),
        (good, other, root.subject, ()),
        (short, short, root.subject, ()),
        (good, good, two_names, ()),
        (good, good, root.subject, (not_a_ca,)),
        (good, good, root.subject, (key_usage(certify=False),)),
    )
    for key, signer, subject, changed in kinds:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(root.not_valid_before_utc)
            .not_valid_after(root.not_valid_after_utc)
        )
        values = {type(one): one for one in changed}
        for extension in root.extensions:
            value = values.get(type(extension.value), extension.value)
            builder = builder.add_extension(value, extension.critical)
        yield builder.sign(signer, hashes.SHA384())


def test_a_root_that_may_not_sign_certificates_vouches_for_nobody(world: World) -> None:
    """Even where a party got it otherwise than by ``load_root``."""
    *_, unfit = odd_roots(world.place / "federation")
    assert unfit.public_key() == world.trust.root.public_key()
    trust = replace(world.trust, root=unfit)
    with pytest.raises(CertificateError, match="does not chain"):
        federation.verify_profile(world.north.profile, trust, now=NOW)


def test_load_root_refuses_what_is_no_root(world: World, tmp_path: Path) -> None:
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(world.north.profile.certificates[0])
    with pytest.raises(CertificateError):
        federation.load_root(leaf)
    leaf.write_text("not a certificate")
    with pytest.raises(CertificateError):
        federation.load_root(leaf)
    with pytest.raises(KeyFileError):
        federation.load_root(tmp_path / "none.pem")
    folder = tmp_path / "p256"
    authority.create_root(folder, "regional", now=NOW)
    for certificate in odd_roots(folder):
        (folder / "root.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        with pytest.raises(CertificateError):
            federation.load_root(folder / "root.pem")
    two = tmp_path / "two.pem"
    two.write_bytes(world.trust.pem * 2)
    with pytest.raises(CertificateError, match="one PEM block"):
        federation.load_root(two)


@pytest.mark.parametrize("where", ["before", "after", "twice", "carriage returns"])
def test_pem_is_one_block_and_nothing_else(world: World, where: str, tmp_path: Path) -> None:
    """Certificate, request, root and list; text around them would be shown, and signed, with it."""

    def odd(pem: str) -> str:
        return {
            "before": f"approved\n{pem}",
            "after": f"{pem}approved\n",
            "twice": pem + pem,
            "carriage returns": pem.replace("\n", "\r\n"),
        }[where]

    north = world.north.profile
    request = read_request(world.north.folder / "request.json")
    root = tmp_path / "root.pem"
    root.write_bytes(odd(world.trust.pem.decode()).encode())
    revoked = odd(world.trust.revoked.pem.decode()).encode()
    checks: dict[str, Callable[[], object]] = {
        "certificate": lambda: federation.verify_chain(
            [odd(north.certificates[0])], world.trust, now=NOW
        ),
        "": lambda: authority.verify_request(replace_csr(request, odd(request.csr))),
        "federation root": lambda: federation.load_root(root),
        "revocation list": lambda: revocation.parse(revoked, world.trust.root),
    }
    words = "holds text beside its one PEM block; get the unedited"
    for what, check in checks.items():
        with pytest.raises(CertificateError, match=f"^{what}.*{words}"):
            check()


def replace_csr(request: Request, csr: str) -> Request:
    """With any CSR, also one that no request may have in its form."""
    changed = copy.copy(request)
    object.__setattr__(changed, "csr", csr)
    return changed


def test_a_requests_fingerprint_covers_both_keys(world: World) -> None:
    """An exchanged CSR for the same sealing key is well formed: only the telephone tells."""
    request = read_request(world.north.folder / "request.json")
    other = request_of("north", ec.generate_private_key(ec.SECP384R1()), request.sealing_key)
    assert authority.verify_request(other)
    assert other.sealing_fingerprint == request.sealing_fingerprint
    assert other.fingerprint != request.fingerprint
    assert request.fingerprint == canonical.sha256(
        (world.north.folder / "request.json").read_bytes()
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_profile_with_any_changed_byte_is_refused(world: World, data: st.DataObject) -> None:
    path = world.place / "changed.profile"
    whole = bytearray((world.north.folder / "site.profile").read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    with pytest.raises(NotError):
        federation.verify_profile(read_profile(path), world.trust, now=NOW)


def test_openssf_verifies_with_an_admitted_certificate(world: World, tmp_path: Path) -> None:
    from model_signing.signing import Config

    organ = tmp_path / "organ"
    organ.mkdir()
    (organ / "file").write_text("x")
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(world.north.profile.certificates[0])
    root = world.place / "federation" / "root.pem"
    Config().use_certificate_signer(
        private_key=key_file(world.north, "signing.key"),
        signing_certificate=leaf,
        certificate_chain=[root],
    ).sign(organ, tmp_path / "sig")
    arguments = by_certificate(organ, tmp_path / "sig", world)
    assert public_command(arguments) == 0
    (organ / "file").write_text("y")
    assert public_command(arguments) == 1


@pytest.mark.filterwarnings("ignore:'click:DeprecationWarning")  # typer 0.20 under click 8.3
def test_commands_found_admit_install_and_show(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from not_core.commands.identity import federation_app, identity_app

    run = CliRunner()
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    fed, home, out = tmp_path / "fed", tmp_path / "keys", tmp_path / "clinic.profile"
    opening = ["--passphrase-file", str(secret)]
    steps = [
        (federation_app, ["init", str(fed), "--name", "the north", *opening]),
        (identity_app, ["init", str(home), "--site", "clinic", "--unprotected"]),
        (
            federation_app,
            ["admit", str(fed), str(home / "request.json"), "--out", str(out), *opening],
        ),
        (identity_app, ["install", str(home), str(out), "--root", str(fed / "root.pem")]),
    ]
    request = {}
    for app, arguments in steps:
        result = run.invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        request[arguments[0]] = json.loads(result.output).get("request_fingerprint")
    fingerprint = read_request(home / "request.json").sealing_fingerprint
    shown = run.invoke(identity_app, ["show", str(home), "--json"], catch_exceptions=False)
    assert request["admit"] == json.loads(shown.output)["request_fingerprint"] is not None
    for place in (home, out):
        shown = run.invoke(identity_app, ["show", str(place), "--json"], catch_exceptions=False)
        facts = json.loads(shown.output)
        assert facts["site"] == "clinic"
        assert facts["sealing_fingerprint"] == fingerprint
        assert facts["federation"] == "the north"
    assert keys.load(home).site == "clinic"
    os.chmod(secret, 0o644)  # noqa: PTH101
    with pytest.raises(KeyFileError):
        run.invoke(
            federation_app,
            ["admit", str(fed), str(home / "request.json"), "--out", f"{out}2", *opening],
            catch_exceptions=False,
        )


def test_a_federation_name_is_one_line(tmp_path: Path) -> None:
    for name in ("", "a\nb", "x" * 65):
        with pytest.raises(FormatError):
            authority.create_root(tmp_path / "f", name)


def reissued(
    world: World,
    changed: dict[type[x509.ExtensionType], x509.ExtensionType],
    public_key: Any = None,
) -> str:
    """North's certificate, signed by the true root, with some extensions or its key exchanged."""
    leaf = x509.load_pem_x509_certificate(world.north.profile.certificates[0].encode())
    key = read_signing_key(world.place / "federation" / "root.key", "root key")
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(public_key or world.north.signing_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for extension in leaf.extensions:
        value = changed.get(type(extension.value), extension.value)
        builder = builder.add_extension(value, extension.critical)
    certificate = builder.sign(key, hashes.SHA384())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def test_a_certificate_must_be_made_for_signing_organs(world: World) -> None:
    def verify(changed: dict[type[x509.ExtensionType], x509.ExtensionType]) -> object:
        profile = replace(world.north.profile, certificates=(reissued(world, changed),))
        return federation.verify_profile(profile, world.trust, now=NOW)

    assert verify({}) == world.north.signing_key.public_key()
    only_client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = x509.BasicConstraints(ca=True, path_length=0)
    for value in (only_client, key_usage(certify=True), issuer):
        with pytest.raises(CertificateError, match="does not chain"):
            verify({type(value): value})
    other_kind = rsa.generate_private_key(65537, 2048).public_key()
    profile = replace(world.north.profile, certificates=(reissued(world, {}, other_kind),))
    with pytest.raises(CertificateError, match=r"is not for an ECDSA P-384 key"):
        federation.verify_profile(profile, world.trust, now=NOW)
    unbound = x509.SubjectAlternativeName([x509.DNSName("north.example")])
    with pytest.raises(CertificateError, match="another kind"):
        verify({type(unbound): unbound})


SITE, KEY, FP = "urn:organ-exchange:site:", "urn:organ-exchange:sealing-key:", "ab" * 32


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        ([SITE + "north", KEY + FP], ["north.example"]),
        ([SITE + "north", KEY + FP, KEY + FP], []),
        ([SITE + "north"], ["north.example"]),
        ([KEY + FP, SITE + "north"], []),
        ([SITE + "south", KEY + FP], []),
        ([SITE + "north", FP], []),
        ([SITE + "north", KEY + "ab"], []),
        ([SITE + "north", SITE + "north"], []),
    ],
)
def test_a_certificate_names_a_site_and_a_sealing_key_and_nothing_else(
    world: World, uris: list[str], names: list[str]
) -> None:
    value = x509.SubjectAlternativeName(
        [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, names)]
    )
    profile = replace(world.north.profile, certificates=(reissued(world, {type(value): value}),))
    with pytest.raises(CertificateError, match="damaged or of another kind"):
        federation.verify_profile(profile, world.trust, now=NOW)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a003020102", "a003020105"),  # version 6
        ("0603551d0f", "0603551d13"),  # an extension that stands twice
        ("0603551d11", "0603551d7f"),  # no subjectAltName
        ("06052b81040022", "06052b8104007f"),  # a curve that nobody knows
        ("861d75726e", "a31d75726e"),  # an X.400 address
        ("170d", "170c"),  # a date cut short
        ("0603550403", "060355040a"),  # no common name
    ],
)
def test_a_certificate_that_does_not_parse_is_a_typed_error(
    world: World, old: str, new: str
) -> None:
    (pem,) = world.north.profile.certificates
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
    assert bytes.fromhex(old) in der
    odd = base64.encodebytes(der.replace(bytes.fromhex(old), bytes.fromhex(new))).decode()
    odd = "\n".join(textwrap.wrap(odd.replace("\n", ""), 64))
    odd = f"-----BEGIN CERTIFICATE-----\n{odd}\n-----END CERTIFICATE-----\n"
    profile = replace(world.north.profile, certificates=(odd,))
    with pytest.raises(CertificateError, match="damaged or of another kind"):
        federation.verify_profile(profile, world.trust, now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"certificates": []},
        {"certificates": ["pem"] * 5},
        {"certificates": ["certificate"]},
        {"certificates": ["-----BEGIN CERTIFICATE-----\n" + "A" * 16_384]},
        {"format": "organ-exchange/profile/v2"},
        {"site": "North"},
        {"sealing_key": "A" * 16_388},
        {"sealing_key": "A B="},
        {"more": 1},
    ],
)
def test_a_profile_of_another_form_is_not_read(
    world: World, tmp_path: Path, changes: dict[str, object]
) -> None:
    (pem,) = world.north.profile.certificates
    plain = json.loads(canonical.encode(world.north.profile))
    text = json.dumps(changes).replace('"pem"', json.dumps(pem))
    path = tmp_path / "site.profile"
    path.write_bytes(canonical.encode(plain))
    assert read_profile(path) == world.north.profile
    path.write_bytes(canonical.encode(plain | json.loads(text)))
    with pytest.raises(FormatError, match="profile is not valid"):
        read_profile(path)


def test_texts_in_a_profile_have_a_largest_size(world: World, tmp_path: Path) -> None:
    path, start = tmp_path / "site.profile", "-----BEGIN CERTIFICATE-----\n"
    plain = json.loads(canonical.encode(world.north.profile))
    for field, most in (
        ("certificates", [start.ljust(16_384, "A")]),
        ("sealing_key", "A" * 16_384),
    ):
        path.write_bytes(canonical.encode(plain | {field: most}))
        assert canonical.encode(read_profile(path)) == path.read_bytes()
        more = [f"{most[0]}A"] if isinstance(most, list) else f"{most}A"
        path.write_bytes(canonical.encode(plain | {field: more}))
        with pytest.raises(FormatError, match=f"not valid at {field}.*string too long"):
            read_profile(path)


def test_documents_have_a_largest_size(world: World, tmp_path: Path) -> None:
    for read, words in (
        (read_profile, "65536"),
        (federation.load_root, "65536"),
        (lambda path: revocation.load(path, world.trust.root), "8388608"),
    ):
        for more, error in ((0, NotError), (1, FormatError)):
            (tmp_path / "big").write_bytes(bytes(int(words) + more))
            with pytest.raises(error) as caught:
                read(tmp_path / "big")
            assert (words in str(caught.value)) == bool(more)


def test_a_profile_has_one_form(world: World) -> None:
    (pem,) = world.north.profile.certificates
    four = replace(world.north.profile, certificates=(pem,) * 4)
    with pytest.raises(CertificateError, match="expected one"):
        federation.verify_profile(four, world.trust, now=NOW)
    for other in (pem + "# note\n", pem.replace("-----\nM", "-----\n\nM"), pem.rstrip()):
        with pytest.raises(CertificateError, match="PEM block"):
            federation.verify_profile(
                replace(world.north.profile, certificates=(other,)), world.trust, now=NOW
            )
    assert unbase64("AA==", "x") == b"\0"
    for text in ("AB==", "AA=", "AA", "A===", "AA==AA==", "====", "A A="):
        with pytest.raises(FormatError, match="canonical base64"):
            unbase64(text, "x")
