"""The federation's root: it admits sites, and everyone checks profiles and chains against it.

A leaf certificate binds three things: the site's name, its signing key, and, as a SAN URI, the
SHA-256 of its public sealing key. The root key stays offline, apart from the coordinator.

Every ``now`` in this package is in seconds since the epoch, UTC; ``None`` means the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from pydantic import TypeAdapter, ValidationError

from not_core import atomic, canonical
from not_core.canonical import Line
from not_core.errors import CertificateError, FormatError
from not_core.trust.certificates import (
    Admission,
    binding,
    ca_policy,
    certificate_errors,
    check_name,
    check_validity,
    common_name,
    key_usage,
    leaf_policy,
    names,
    seconds,
)
from not_core.trust.keyfile import (
    is_p384,
    read_public,
    read_signing_key,
    signing_key_pem,
    write_secret,
)
from not_core.trust.profile import Profile, Request, sealing_public_key

ROOT_KEY = "root.key"
ROOT_CERTIFICATE = "root.pem"
ROOT_DAYS = 3650

BACKDATE = timedelta(minutes=5)
"""How far a certificate starts before its signing, so that a slightly slow clock accepts it."""

PEM_LIMIT = 64 * 1024

_LINE: TypeAdapter[str] = TypeAdapter(Line)


@dataclass(frozen=True, slots=True)
class Root:
    """A federation's trust anchor, as loaded by ``load_root``."""

    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """The federation's name."""
        return common_name(self.certificate.subject)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in DER; compare it by telephone before installing."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def create_root(
    folder: Path, name: str, *, passphrase: bytes | None = None, now: float | None = None
) -> None:
    """Make a federation: ``root.key`` (0600) and ``root.pem``, valid for ten years.

    Args:
        folder: New folder, made with mode 0700.
        name: The federation's name, one line.
        passphrase: Encrypts ``root.key`` when given.
        now: Seconds since the epoch.

    Raises:
        OutputExistsError: ``folder`` is taken.
        FormatError: ``name`` is empty, too long or holds control characters.
    """
    try:
        _LINE.validate_python(name)
    except ValidationError:
        name = ""
    if not 1 <= len(name) <= 64:
        raise FormatError("federation name must be one line of 1 to 64 characters")
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.fromtimestamp(seconds(now), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + timedelta(days=ROOT_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(certify=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    with atomic.folder(folder, mode=0o700) as work:
        write_secret(work / ROOT_KEY, signing_key_pem(key, passphrase))
        atomic.write(work / ROOT_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))


def admit(
    folder: Path,
    request: Request,
    *,
    passphrase: bytes | None = None,
    now: float | None = None,
    days: int = 365,
) -> Profile:
    """Issue a site's certificate. Whoever calls this has checked by other means who asks.

    Args:
        folder: The federation's folder, with ``root.key``.
        request: The site's request.
        passphrase: Of ``root.key``, when it is encrypted.
        now: Seconds since the epoch.
        days: Validity; cut short where the root ends first.

    Returns:
        The site's profile, which anyone may see.

    Raises:
        KeyFileError: The root key cannot be used.
        CertificateError: The request is not signed by its own key, or names another site or
            sealing key than it was signed for.
    """
    if days < 1:
        raise ValueError(f"expected days >= 1, got {days}")
    public_key = verify_request(request)
    root = load_root(folder)
    key = read_signing_key(folder / ROOT_KEY, "root key", passphrase)
    if key.public_key() != root.certificate.public_key():
        raise CertificateError(
            f"{folder / ROOT_KEY} does not belong to {folder / ROOT_CERTIFICATE}; restore both "
            "from one backup"
        )
    start = datetime.fromtimestamp(seconds(now), UTC)
    check_validity(root.certificate, start, "federation root")
    issuer_id = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.site)]))
        .issuer_name(root.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start - BACKDATE, root.certificate.not_valid_before_utc))
        .not_valid_after(min(start + timedelta(days=days), root.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(certify=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(binding(request.site, request.sealing_fingerprint), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id.value),
            critical=False,
        )
        .sign(key, hashes.SHA384())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return Profile(site=request.site, certificates=(pem,), sealing_key=request.sealing_key)


def verify_request(request: Request) -> ec.EllipticCurvePublicKey:
    """Check that a request was signed by its own key for this name and sealing key.

    Raises:
        CertificateError: It was not.
    """
    sealing_public_key(request.sealing_key, request.site)
    with certificate_errors("request"):
        csr = x509.load_pem_x509_csr(request.csr.encode())
        valid, key, named = csr.is_signature_valid, csr.public_key(), names(csr)
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not is_p384(key):
        raise CertificateError(
            f"request of {request.site} is not signed by its own ECDSA P-384 key; ask the site "
            "for an unedited request.json"
        )
    if named != (request.site, request.sealing_fingerprint):
        raise CertificateError(
            f"request of {request.site} was signed for another site name or sealing key; ask the "
            "site for an unedited request.json and compare fingerprints by telephone"
        )
    return key


def load_root(path: Path) -> Root:
    """Load a trust anchor.

    Args:
        path: A PEM file, or a folder that holds ``root.pem``.

    Raises:
        KeyFileError: Missing or unreadable.
        CertificateError: Not one self-signed P-384 CA certificate.
    """
    if path.is_dir():
        path = path / ROOT_CERTIFICATE
    data = read_public(path, "federation root", PEM_LIMIT)
    with certificate_errors("federation root"):
        certificates = x509.load_pem_x509_certificates(data)
        certificate = certificates[0]
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        key = certificate.public_key()
        common_name(certificate.subject)
        certificate.verify_directly_issued_by(certificate)
    if len(certificates) != 1 or not (constraints.ca and usage.key_cert_sign and is_p384(key)):
        raise CertificateError(
            f"{path} is not a federation root; expected one self-signed ECDSA P-384 CA "
            "certificate; ask the federation for root.pem"
        )
    return Root(certificate)


def verify_profile(
    profile: Profile, root: Root, *, now: float | None = None
) -> ec.EllipticCurvePublicKey:
    """Check that the federation vouches for everything that a profile says.

    Args:
        profile: From anywhere.
        root: The federation root that this site was installed with.
        now: Seconds since the epoch.

    Returns:
        The site's signing key.

    Raises:
        CertificateError: The chain, its dates, the name, or the sealing key is wrong.
        FormatError: A field is not in canonical base64.
    """
    admission = verify_chain(profile.certificates, root, now=now)
    if admission.site != profile.site:
        raise CertificateError(
            f"profile says site {profile.site}, its certificate was issued to {admission.site}; "
            "get the profile from the site itself"
        )
    if admission.sealing_fingerprint != profile.sealing_fingerprint:
        raise CertificateError(
            f"sealing key of {profile.site} is not the one in its certificate; somebody has "
            "exchanged it: get the profile from the site itself"
        )
    sealing_public_key(profile.sealing_key, profile.site)
    return admission.public_key


def verify_chain(certificates: Sequence[str], root: Root, *, now: float | None = None) -> Admission:
    """Check a chain up to the root and read what its leaf binds.

    Args:
        certificates: PEM, leaf first, without the root; exactly those that the chain needs.
        root: The trust anchor.
        now: Seconds since the epoch.

    Raises:
        CertificateError: Any other outcome.

    Source: RFC 5280, section 6.
    """
    moment = datetime.fromtimestamp(seconds(now), UTC)
    with certificate_errors("certificate"):
        chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in certificates]
        leaf = chain[0]
        exact = [c.public_bytes(serialization.Encoding.PEM).decode() for c in chain]
        site, sealing_fingerprint = names(leaf)
        key = leaf.public_key()
    if exact != list(certificates):
        raise CertificateError("certificate holds text beside its PEM block; get the unedited file")
    check_validity(root.certificate, moment, "federation root")
    for certificate in chain:
        check_validity(certificate, moment, f"certificate of {site}")
    verifier = (
        PolicyBuilder()
        .store(Store([root.certificate]))
        .time(moment)
        .max_chain_depth(len(chain) - 1)
        .extension_policies(ca_policy=ca_policy(), ee_policy=leaf_policy())
        .build_client_verifier()
    )
    try:
        verified = verifier.verify(leaf, chain[1:])
    except VerificationError:
        raise CertificateError(
            f"certificate of {site} does not chain to the root of federation {root.name}; get a "
            "profile that this federation issued, or check which root.pem is installed"
        ) from None
    if verified.chain != [*chain, root.certificate]:
        raise CertificateError(
            f"chain of {site} holds certificates that it does not need; get the unedited profile"
        )
    if not isinstance(key, ec.EllipticCurvePublicKey) or not is_p384(key):
        raise CertificateError(f"certificate of {site} is not for an ECDSA P-384 key")
    return Admission(
        site=check_name(site, "site name in the certificate"),
        public_key=key,
        sealing_fingerprint=sealing_fingerprint,
        expires=int(leaf.not_valid_after_utc.timestamp()),
    )


def describe_profile(profile: Profile) -> dict[str, str]:
    """What a profile says, for a person to read; nothing of it is verified.

    Raises:
        CertificateError: Its certificate cannot be parsed.
        FormatError: Its sealing key is not in canonical base64.
    """
    with certificate_errors("certificate in the profile"):
        leaf = x509.load_pem_x509_certificate(profile.certificates[0].encode())
        key = leaf.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "site": profile.site,
            "sealing_fingerprint": profile.sealing_fingerprint,
            "signing_fingerprint": canonical.sha256(key),
            "federation": common_name(leaf.issuer),
            "valid_from": leaf.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "valid_to": leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "status": "issued; not verified here",
        }
