"""What a party believes: a federation's root, and whom it has expelled since.

Everyone checks profiles and chains against these two. A leaf certificate binds three things: the
site's name, its signing key, and, as a SAN URI, the SHA-256 of its public sealing key.

Every ``now`` in this package is in seconds since the epoch, UTC; ``None`` means the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from not_core import canonical
from not_core.errors import CertificateError, RevokedError
from not_core.trust import revocation
from not_core.trust.certificates import (
    Admission,
    ca_policy,
    certificate_errors,
    check_one_block,
    check_validity,
    common_name,
    is_p384,
    leaf_policy,
    names,
    seconds,
)
from not_core.trust.keyfile import read_public
from not_core.trust.profile import Profile, sealing_public_key
from not_core.trust.revocation import GRACE, LIST, MILD, RevocationList

ROOT = "root.pem"
PEM_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Trust:
    """A federation as one party knows it, loaded by ``load_trust``.

    Attributes:
        root: The trust anchor.
        revoked: The latest revocation list.
        grace: How long after its next-update that list still serves, in seconds.
    """

    root: x509.Certificate
    revoked: RevocationList
    grace: int = GRACE

    @property
    def pem(self) -> bytes:
        """The root in PEM."""
        return self.root.public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """The federation's name."""
        return common_name(self.root.subject)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root in DER; compare it by telephone before installing."""
        return self.root.fingerprint(hashes.SHA256()).hex()


def load_trust(path: Path, *, grace: int = GRACE) -> Trust:
    """Load a root and the revocation list beside it.

    Args:
        path: A folder with ``root.pem`` and ``federation.crl``, or the ``root.pem`` in it.
        grace: As in ``Trust``.

    Raises:
        KeyFileError: No root.
        CertificateError: Not a root of a federation, or not a list that it signed.
        StaleListError: No list.
    """
    path = path / ROOT if path.is_dir() else path
    root = load_root(path)
    return Trust(root, revocation.load(path.parent / LIST, root), grace)


def load_root(path: Path) -> x509.Certificate:
    """Load a trust anchor.

    Args:
        path: A PEM file.

    Raises:
        KeyFileError: Missing or unreadable.
        CertificateError: Not one self-signed P-384 CA certificate.
    """
    data = read_public(path, "federation root", PEM_LIMIT)
    with certificate_errors("federation root"):
        certificate = x509.load_pem_x509_certificate(data)
        check_one_block(certificate, data, "federation root")
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        key = certificate.public_key()
        common_name(certificate.subject)
        certificate.verify_directly_issued_by(certificate)
    if not (constraints.ca and usage.key_cert_sign and is_p384(key)):
        raise CertificateError(
            f"{path} is not a federation root; expected one self-signed ECDSA P-384 CA "
            "certificate; ask the federation for root.pem"
        )
    return certificate


def verify_profile(
    profile: Profile, trust: Trust, *, now: float | None = None
) -> ec.EllipticCurvePublicKey:
    """Check that the federation vouches for everything that a profile says.

    Args:
        profile: From anywhere.
        trust: What this party believes.
        now: Seconds since the epoch.

    Returns:
        The site's signing key.

    Raises:
        CertificateError: The chain, its dates, the name, or the sealing key is wrong.
        FormatError: A field is not in canonical base64.
    """
    admission = verify_chain(profile.certificates, trust, now=now)
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


def verify_chain(
    certificates: Sequence[str],
    trust: Trust,
    *,
    now: float | None = None,
    seen: float | None = None,
) -> Admission:
    """Check a chain up to the root, that it was not revoked, and read what its leaf binds.

    Args:
        certificates: PEM, leaf first, without the root: the leaf alone, signed by the root itself.
        trust: What is believed.
        now: Seconds since the epoch.
        seen: When this party verified the same statement before, if it did. What it saw then stays
            good after the certificate expires, or is replaced; not after a key was compromised. If
            the leaf is younger, it was another's signature that was seen, and counts for nothing.

    Raises:
        RevokedError: The federation has revoked a certificate.
        StaleListError: Nobody can tell: the revocation list is too old, or of the future.
        CertificateError: Any other outcome.

    Source: RFC 5280, section 6.
    """
    present = seconds(now)
    with certificate_errors("certificate"):
        chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in certificates]
        leaf = chain[0]
        for certificate, pem in zip(chain, certificates, strict=True):
            check_one_block(certificate, pem.encode(), "certificate")
        site, sealing_fingerprint = names(leaf)
        key = leaf.public_key()
    if len(chain) != 1:
        raise CertificateError(
            f"chain of {site} holds {len(chain)} certificates, expected one, which the root itself "
            "signed; get the unedited profile"
        )
    if seen is not None and seen < leaf.not_valid_before_utc.timestamp():
        seen = None
    then = present if seen is None else min(int(seen), present)
    moment = datetime.fromtimestamp(then, UTC)
    check_validity(trust.root, moment, "federation root")
    check_validity(leaf, moment, f"certificate of {site}")
    verifier = (
        PolicyBuilder()
        .store(Store([trust.root]))
        .time(moment)
        .max_chain_depth(0)
        .extension_policies(ca_policy=ca_policy(), ee_policy=leaf_policy())
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, [])
    except VerificationError:
        raise CertificateError(
            f"certificate of {site} does not chain to the root of federation {trust.name}; get a "
            "profile that this federation issued, or check which root.pem is installed"
        ) from None
    if not is_p384(key):
        raise CertificateError(f"certificate of {site} is not for an ECDSA P-384 key")
    trust.revoked.check_fresh(present, trust.grace)
    _check_revoked(leaf, trust.revoked, site, None if seen is None else then)
    return Admission(
        site=site,
        public_key=key,
        sealing_fingerprint=sealing_fingerprint,
    )


def _check_revoked(
    certificate: x509.Certificate, revoked: RevocationList, site: str, seen: int | None
) -> None:
    found = revoked.revoked.get(certificate.serial_number)
    if found is None or (seen is not None and found.reason in MILD and seen < found.moment):
        return
    raise RevokedError(
        f"certificate of {site} was revoked at "
        f"{datetime.fromtimestamp(found.moment, UTC):%Y-%m-%d %H:%M} UTC ({found.words}); refuse "
        "what it signed, and ask the federation"
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
