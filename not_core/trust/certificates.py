"""What a site's certificate binds, and the rules by which one is believed; no file is read here.

A leaf's common name and SAN URI ``urn:organ-exchange:site:`` name the site; a second SAN URI,
``urn:organ-exchange:sealing-key:``, holds the SHA-256 of its public sealing key.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy
from pydantic import TypeAdapter, ValidationError

from not_core.canonical import Digest, Name
from not_core.errors import CertificateError, FormatError

SITE_URN = "urn:organ-exchange:site:"
SEALING_URN = "urn:organ-exchange:sealing-key:"

DAY = 86_400
"""Seconds."""

TOLERANCE = 300
"""How far two parties' clocks may differ, in seconds."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_DIGEST: TypeAdapter[str] = TypeAdapter(Digest)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a verified certificate binds."""

    site: str
    public_key: ec.EllipticCurvePublicKey
    sealing_fingerprint: str


def seconds(now: float | None) -> int:
    """Whole seconds since the epoch, UTC; the clock's when ``now`` is ``None``."""
    return int(time.time() if now is None else now)


def check_name(name: str, what: str) -> str:
    """Return ``name`` when it is a valid site or exchange name.

    Raises:
        FormatError: It is not.
    """
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        raise FormatError(
            f"{what} is not a valid name; use at most 63 lower-case letters, digits and inner "
            "hyphens"
        ) from None


def binding(site: str, sealing_fingerprint: str) -> x509.SubjectAlternativeName:
    """The SAN that binds a site's name and sealing key to its signing key."""
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(SITE_URN + site),
            x509.UniformResourceIdentifier(SEALING_URN + sealing_fingerprint),
        ]
    )


def common_name(subject: x509.Name) -> str:
    """The one common name of a subject.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(found) != 1:
        raise ValueError("expected one common name")
    return found[0]


def names(signed: x509.Certificate | x509.CertificateSigningRequest) -> tuple[str, str]:
    """Site name and sealing key fingerprint that a certificate or a request binds.

    Raises:
        ValueError: The SAN is not exactly the pair that ``binding`` makes, or the common name
            differs from it or is not a name: it may stand in messages, which strangers' text may
            not.
        x509.ExtensionNotFound: There is no SAN.
    """
    site = common_name(signed.subject)
    found = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = found.get_values_for_type(x509.UniformResourceIdentifier)
    if len(found) != 2 or len(uris) != 2 or uris[0] != SITE_URN + site:
        raise ValueError("expected a site and a sealing key")
    fingerprint = uris[1].removeprefix(SEALING_URN)
    if not uris[1].startswith(SEALING_URN):
        raise ValueError("expected a sealing key")
    return _NAME.validate_python(site), _DIGEST.validate_python(fingerprint)


@contextmanager
def certificate_errors(what: str) -> Iterator[None]:
    """Turn every way in which hostile X.509 bytes fail to parse into a CertificateError."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        OverflowError,
        InvalidSignature,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        CryptographyDeprecationWarning,  # where warnings are errors: a serial number below 1
    ):
        raise CertificateError(
            f"{what} is damaged or of another kind; expected X.509 in PEM as 'organ federation' "
            "and 'organ identity' write it; get an unedited copy"
        ) from None


def check_one_block(
    signed: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList,
    pem: bytes,
    what: str,
) -> None:
    """Check that ``pem`` is what was parsed from it and nothing else: readers skip text around it.

    Raises:
        CertificateError: It is not.
    """
    if signed.public_bytes(serialization.Encoding.PEM) != pem:
        raise CertificateError(f"{what} holds text beside its one PEM block; get the unedited file")


def check_validity(certificate: x509.Certificate, moment: datetime, what: str) -> None:
    """Check a certificate's dates.

    Raises:
        CertificateError: ``moment`` is outside them.
    """
    if moment < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, "
            f"it is {moment:%Y-%m-%d %H:%M} UTC; check this machine's clock"
        )
    if moment > certificate.not_valid_after_utc:
        raise CertificateError(
            f"{what} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, it is "
            f"{moment:%Y-%m-%d %H:%M} UTC; ask the federation for a new one"
        )


def key_usage(*, certify: bool) -> x509.KeyUsage:
    """Key usage of the root (``certify``), or of a site."""
    return x509.KeyUsage(
        digital_signature=not certify,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certify,
        crl_sign=certify,
        encipher_only=False,
        decipher_only=False,
    )


def ca_policy() -> ExtensionPolicy:
    """Extensions that a root must have."""

    def check_constraints(
        _policy: Policy, _certificate: x509.Certificate, value: x509.BasicConstraints
    ) -> None:
        if not value.ca:
            raise ValueError("not a CA")

    def check_usage(_policy: Policy, _certificate: x509.Certificate, value: x509.KeyUsage) -> None:
        if not value.key_cert_sign:
            raise ValueError("may not sign certificates")

    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, check_constraints)
        .require_present(x509.KeyUsage, Criticality.CRITICAL, check_usage)
    )


def leaf_policy() -> ExtensionPolicy:
    """Extensions that a site's certificate must have."""

    def check_constraints(
        _policy: Policy, _certificate: x509.Certificate, value: x509.BasicConstraints
    ) -> None:
        if value.ca:
            raise ValueError("a CA is not a site")

    def check_usage(_policy: Policy, _certificate: x509.Certificate, value: x509.KeyUsage) -> None:
        if not value.digital_signature:
            raise ValueError("may not sign")

    def check_purpose(
        _policy: Policy, _certificate: x509.Certificate, value: x509.ExtendedKeyUsage
    ) -> None:
        if ExtendedKeyUsageOID.CODE_SIGNING not in value:
            raise ValueError("may not sign organs")

    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, check_constraints)
        .require_present(x509.KeyUsage, Criticality.CRITICAL, check_usage)
        .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, check_purpose)
        .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    )


def is_p384(key: object) -> TypeGuard[ec.EllipticCurvePublicKey]:
    """Whether ``key`` is a public key on P-384, the one curve that this project signs with."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
