"""Roots, certificates, revocation lists and profiles of a made-up federation, and their checks."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.oid import NameOID

from second import primitives
from second.primitives import RefusedError, SealingKey, base64_of, sha256

DAY = 86_400
NOW = 1_800_000_000
SITE_URN = "urn:organ-exchange:site:"
SEALING_URN = "urn:organ-exchange:sealing-key:"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MILD = ("affiliation_changed", "superseded", "cessation_of_operation")


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return signed.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def twin(certificate: x509.Certificate) -> x509.Certificate:
    """A certificate that says the same and differs in its signature, which holds, too."""

    def part(tag: int, data: bytes) -> bytes:
        size = len(data)
        length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)
        return bytes([tag]) + length + data

    algorithm = bytes.fromhex("300a06082a8648ce3d040303")  # ecdsa-with-SHA384
    signature = part(3, b"\0" + primitives.twin(certificate.signature))
    return x509.load_der_x509_certificate(
        part(0x30, certificate.tbs_certificate_bytes + algorithm + signature)
    )


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not certify, False, False, False, False, certify, certify, False, False)


def serial(label: str) -> int:
    return int.from_bytes(primitives.seeded(f"serial number of {label}", 19)) + 1


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """What a site's certificate says; by default what the federation writes."""

    start: int = NOW - 10 * DAY
    end: int = NOW + 355 * DAY
    ca: bool = False
    purposes: tuple[x509.ObjectIdentifier, ...] = (Purpose.CODE_SIGNING, Purpose.CLIENT_AUTH)
    also: tuple[str, ...] = ()
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()


@dataclass(frozen=True)
class Root:
    """A federation's root, from its label."""

    label: str
    name: str = "Vectors"
    key: ec.EllipticCurvePrivateKey = field(init=False)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        key = primitives.signing_key(f"root {self.label}")
        certificate = (
            x509.CertificateBuilder(named(self.name), named(self.name), key.public_key())
            .serial_number(serial(f"root {self.label}"))
            .not_valid_before(moment(NOW - 20 * DAY))
            .not_valid_after(moment(NOW + 3630 * DAY))
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(usage(True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA384(), ecdsa_deterministic=True)
        )
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "certificate", certificate)

    @property
    def fingerprint(self) -> str:
        return sha256(der(self.certificate))

    def issue(
        self,
        label: str,
        site: str,
        key: ec.EllipticCurvePublicKey,
        sealing: str,
        leaf: Leaf | None = None,
    ) -> x509.Certificate:
        leaf = leaf or Leaf()
        uris = (SITE_URN + site, SEALING_URN + sealing, *leaf.also)
        builder = (
            x509.CertificateBuilder(self.certificate.subject, named(site), key)
            .serial_number(serial(label))
            .not_valid_before(moment(leaf.start))
            .not_valid_after(moment(leaf.end))
            .add_extension(x509.BasicConstraints(leaf.ca, None), True)
            .add_extension(usage(leaf.ca), True)
            .add_extension(x509.ExtendedKeyUsage(leaf.purposes), False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]),
                False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
        )
        for extension, critical in leaf.extra:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA384(), ecdsa_deterministic=True)

    def list(
        self,
        number: int = 1,
        revoked: dict[int, tuple[int, str]] | None = None,
        issued: int = NOW - DAY,
        days: int = 30,
        critical: bool = False,
    ) -> x509.CertificateRevocationList:
        """A revocation list; ``revoked`` has moment and reason by serial number."""
        builder = x509.CertificateRevocationListBuilder(
            self.certificate.subject, moment(issued), moment(issued + days * DAY)
        )
        builder = builder.add_extension(x509.CRLNumber(number), critical).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
        )
        for one, (when, reason) in sorted((revoked or {}).items()):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(one, moment(when))
                .add_extension(x509.CRLReason(x509.ReasonFlags[reason]), False)
                .build()
            )
        return builder.sign(self.key, hashes.SHA384(), ecdsa_deterministic=True)


@dataclass(frozen=True)
class Site:
    """An admitted site: its keys and one certificate for them."""

    name: str
    signing: ec.EllipticCurvePrivateKey
    sealing: SealingKey
    certificates: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def profile(self) -> dict[str, Any]:
        return {
            "format": "organ-exchange/profile/v1",
            "site": self.name,
            "certificates": [pem(one).decode() for one in self.certificates],
            "sealing_key": base64_of(self.sealing.public),
        }


def site(root: Root, name: str, leaf: Leaf | None = None, label: str = "") -> Site:
    """A site; ``label`` tells its second keys from its first, and both from others'."""
    label = label or name
    signing, sealing = primitives.signing_key(label), primitives.sealing_key(label)
    leaf = leaf or Leaf()
    serial_label = f"{label} of {root.label} from {leaf.start}"
    issued = root.issue(serial_label, name, signing.public_key(), sealing.fingerprint, leaf)
    return Site(name, signing, sealing, (issued,))


# --- checks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trust:
    """A root and a list, as a reader has them."""

    root: x509.Certificate
    listed: x509.CertificateRevocationList
    grace: int = 7 * DAY

    @property
    def fingerprint(self) -> str:
        return sha256(der(self.root))


def trust(root_pem: bytes, list_pem: bytes | None) -> Trust:
    root = x509.load_pem_x509_certificate(root_pem)
    if list_pem is None:
        raise RefusedError("stale-list", "none")
    listed = x509.load_pem_x509_crl(list_pem)
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    extensions = [*listed.extensions, *(one for row in listed for one in row.extensions)]
    if (
        listed.issuer != root.subject
        or not listed.is_signature_valid(key)
        or any(one.critical for one in extensions)
        or listed.next_update_utc is None
    ):
        raise RefusedError("certificate", "list")
    return Trust(root, listed)


def check_chain(
    chain: list[x509.Certificate], known: Trust, now: int, seen: int | None = None
) -> tuple[str, str, ec.EllipticCurvePublicKey]:
    """Site, fingerprint of its sealing key, and signing key, of a chain that holds."""
    if len(chain) != 1:  # a root's path length is 0, so nothing stands between
        raise RefusedError("certificate", "longer than it must be")
    (leaf,) = chain
    try:
        found = _leaf(leaf)
        leaf.verify_directly_issued_by(known.root)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise RefusedError("certificate", str(error)) from None
    if seen is not None and seen < leaf.not_valid_before_utc.timestamp():
        seen = None
    then = now if seen is None else min(seen, now)
    for one in (known.root, leaf):
        if not one.not_valid_before_utc <= moment(then) <= one.not_valid_after_utc:
            raise RefusedError("certificate", "dates")
    issued, due = known.listed.last_update_utc, known.listed.next_update_utc
    assert due is not None
    if not issued.timestamp() - 300 <= now <= due.timestamp() + known.grace:
        raise RefusedError("stale-list", "dates")
    row = known.listed.get_revoked_certificate_by_serial_number(leaf.serial_number)
    if row is not None:
        reason = reason_of(known, leaf.serial_number)
        before = seen is not None and then < row.revocation_date_utc.timestamp()
        if not (reason in MILD and before):
            raise RefusedError("revoked", reason)
    return found


def reason_of(known: Trust, serial: int) -> str | None:
    row = known.listed.get_revoked_certificate_by_serial_number(serial)
    return row and row.extensions.get_extension_for_class(x509.CRLReason).value.reason.name


def _leaf(leaf: x509.Certificate) -> tuple[str, str, ec.EllipticCurvePublicKey]:
    of = leaf.extensions.get_extension_for_class
    alternative = of(x509.SubjectAlternativeName).value
    uris = alternative.get_values_for_type(x509.UniformResourceIdentifier)
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    key = leaf.public_key()
    known = (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    )
    if (
        len(names) != 1
        or len(alternative) != 2
        or len(uris) != 2
        or uris[0] != SITE_URN + str(names[0].value)
        or not NAME.fullmatch(str(names[0].value))
        or not re.fullmatch(f"{SEALING_URN}[0-9a-f]{{64}}", uris[1])
        or not (of(x509.BasicConstraints).critical and of(x509.KeyUsage).critical)
        or of(x509.BasicConstraints).value.ca
        or not of(x509.KeyUsage).value.digital_signature
        or Purpose.CODE_SIGNING not in of(x509.ExtendedKeyUsage).value
        or any(one.critical and not isinstance(one.value, known) for one in leaf.extensions)
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or not isinstance(key.curve, ec.SECP384R1)
    ):
        raise ValueError("not a site's certificate")
    return str(names[0].value), uris[1].removeprefix(SEALING_URN), key


def check_profile(profile: dict[str, Any], known: Trust, now: int) -> ec.EllipticCurvePublicKey:
    chain = []
    for text in profile["certificates"]:
        try:
            chain.append(x509.load_pem_x509_certificate(text.encode()))
        except ValueError:
            raise RefusedError("certificate", "PEM") from None
        if pem(chain[-1]).decode() != text:
            raise RefusedError("certificate", "text beside PEM")
    name, fingerprint, key = check_chain(chain, known, now)
    public = primitives.from_base64(profile["sealing_key"])
    if (name, fingerprint) != (profile["site"], sha256(public)) or len(public) != 1216:
        raise RefusedError("certificate", "another site or sealing key")
    if primitives.is_low_order(public[1184:]):
        raise RefusedError("certificate", "degenerate sealing key")
    return key
