"""The federation itself, offline: it admits sites, revokes what it admitted, and says so in a list.

Its folder, 0700, lies apart from the coordinator: ``root.key`` (secret), ``root.pem`` and
``federation.crl`` (both for everyone), and ``register.json``, all that it ever issued.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import TypeAdapter, ValidationError

from not_core import atomic, canonical
from not_core.canonical import Line
from not_core.errors import CertificateError, FormatError
from not_core.trust import revocation
from not_core.trust.certificates import (
    binding,
    certificate_errors,
    check_one_block,
    check_validity,
    is_p384,
    key_usage,
    names,
    seconds,
)
from not_core.trust.federation import ROOT, load_root
from not_core.trust.keyfile import write_secret
from not_core.trust.private_keys import read_signing_key, signing_key_pem
from not_core.trust.profile import Profile, Request, sealing_public_key
from not_core.trust.register import REGISTER, Issued, Keep, Register, changing
from not_core.trust.revocation import (
    LIST,
    LIST_DAYS,
    REASONS,
    Revocation,
    RevocationList,
)

ROOT_KEY = "root.key"
ROOT_DAYS = 3650
SITE_DAYS = 365

BACKDATE = timedelta(minutes=5)
"""How far a certificate starts before its signing, so that a slightly slow clock accepts it."""

_LINE: TypeAdapter[str] = TypeAdapter(Line)


def create_root(
    folder: Path, name: str, *, passphrase: bytes | None = None, now: float | None = None
) -> None:
    """Found a federation, for ten years, with an empty revocation list.

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
    root = (
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
    register = Register(root=root.fingerprint(hashes.SHA256()).hex(), list_number=1)
    with atomic.folder(folder, mode=0o700) as work:
        write_secret(work / ROOT_KEY, signing_key_pem(key, passphrase))
        atomic.write(work / ROOT, root.public_bytes(serialization.Encoding.PEM))
        atomic.write(work / LIST, revocation.build(root, key, 1, {}, seconds(now)).pem)
        atomic.write(work / REGISTER, canonical.encode(register), mode=0o600)


def admit(
    folder: Path,
    request: Request,
    *,
    passphrase: bytes | None = None,
    now: float | None = None,
    days: int = SITE_DAYS,
    again: bool = False,
) -> Profile:
    """Issue a site's certificate. Whoever calls this has checked by other means who asks.

    To check the sealing key's fingerprint is not enough: with the same sealing key, whoever carries
    the request can put a signing key of his own into it. ``Request.fingerprint`` covers both.

    A site that asks again with the keys it is admitted with gets the profile that it has. To renew
    it, also after it has ended, or for new keys, ``again`` says to issue another certificate. None
    is ever issued for a key that was revoked for key-compromise, whoever asks.

    Args:
        folder: The federation's folder, with ``root.key``.
        request: The site's request.
        passphrase: Of ``root.key``, when it is encrypted.
        now: Seconds since the epoch.
        days: Validity; cut short where the root ends first.
        again: Issue a certificate although the site has, or had, one.

    Returns:
        The site's profile, which anyone may see.

    Raises:
        KeyFileError: The root key cannot be used.
        CertificateError: The request is not signed by its own key, or names another site or
            sealing key than it was signed for; or the site was admitted before, and not with
            these keys until now; or a key was compromised.
    """
    if days < 1:
        raise ValueError(f"expected days >= 1, got {days}")
    public_key = verify_request(request)
    moment = seconds(now)
    with _opened(folder, passphrase) as (register, root, key, keep):
        stolen = [one for one in register.issued if one.reason == "key-compromise"]
        if any(any(_shares(one, request, public_key)) for one in stolen):
            raise CertificateError(
                f"request of {request.site} is for a key that was revoked for key-compromise; ask "
                "the site to make new keys with 'organ identity rotate'"
            )
        if not again and any(one.site == request.site for one in register.issued):
            there = register.present(request.site, moment)
            same = [one for one in there if all(_shares(one, request, public_key))]
            if same:
                return same[-1].profile
            raise CertificateError(
                f"{request.site} {'is' if there else 'was'} admitted with other keys, or its "
                "certificate ended; if it asks anew, which you must have heard from the site "
                "itself, say --again, and revoke what it has no more"
            )
        certificate = _issue(root, key, request, public_key, moment, days)
        issued = Issued(
            serial=f"{certificate.serial_number:x}",
            site=request.site,
            certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            sealing_key=request.sealing_key,
            expires=int(certificate.not_valid_after_utc.timestamp()),
        )
        # In the register before anyone has it: nothing is at large that cannot be revoked.
        keep(replace(register, issued=(*register.issued, issued)))
    return issued.profile


def revoke(
    folder: Path,
    site: str,
    reason: str,
    *,
    passphrase: bytes | None = None,
    now: float | None = None,
    days: int = LIST_DAYS,
) -> tuple[list[Issued], RevocationList]:
    """Revoke a site's certificates, and issue the list that says so.

    Args:
        folder: The federation's folder.
        site: Whose: all that still hold, but its newest where the reason is ``superseded``. For
            ``key-compromise`` and ``privilege-withdrawn`` also those that have expired, or were
            revoked for less: what they signed may have been seen, and would still be believed.
        reason: One of ``revocation.REASONS``.
        passphrase: Of ``root.key``.
        now: Seconds since the epoch.
        days: Until the next list.

    Returns:
        What was revoked, and the new list, which also stands in ``federation.crl``.

    Raises:
        CertificateError: The site has no certificate to revoke.
        KeyFileError: The root key cannot be used.
    """
    if reason not in REASONS:
        raise ValueError(f"expected a reason of {', '.join(REASONS)}, got {reason}")
    moment = seconds(now)
    with _opened(folder, passphrase) as (register, root, key, keep):
        found = register.to_revoke(site, reason, moment)
        if not found:
            raise CertificateError(
                f"{site} has no certificate to revoke as {reason}; 'organ federation show' lists "
                "what was issued"
            )
        serials = {one.serial for one in found}
        changed = tuple(
            replace(one, revoked=_earlier(one.revoked, moment), reason=reason)
            if one.serial in serials
            else one
            for one in register.issued
        )
        issued = _publish(folder, root, key, replace(register, issued=changed), keep, moment, days)
    return [one for one in changed if one.serial in serials], issued


def publish(
    folder: Path,
    *,
    passphrase: bytes | None = None,
    now: float | None = None,
    days: int = LIST_DAYS,
) -> RevocationList:
    """Issue the revocation list anew, with a later next-update.

    Args:
        folder: The federation's folder.
        passphrase: Of ``root.key``.
        now: Seconds since the epoch.
        days: Until the next list.

    Raises:
        KeyFileError: The root key cannot be used.
    """
    with _opened(folder, passphrase) as (register, root, key, keep):
        return _publish(folder, root, key, register, keep, seconds(now), days)


def verify_request(request: Request) -> ec.EllipticCurvePublicKey:
    """Check that a request was signed by its own key for this name and sealing key.

    Raises:
        CertificateError: It was not.
    """
    sealing_public_key(request.sealing_key, request.site)
    with certificate_errors("request"):
        csr = x509.load_pem_x509_csr(request.csr.encode())
        check_one_block(csr, request.csr.encode(), "request")
        valid, key, named = csr.is_signature_valid, csr.public_key(), names(csr)
    if not valid or not is_p384(key):
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


@contextmanager
def _opened(
    folder: Path, passphrase: bytes | None
) -> Iterator[tuple[Register, x509.Certificate, ec.EllipticCurvePrivateKey, Keep]]:
    """Register, root and its key, and how to write the register; nobody else changes it now."""
    with changing(folder) as (register, keep):
        yield register, *_root(folder, passphrase), keep


def _root(
    folder: Path, passphrase: bytes | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    root = load_root(folder / ROOT)
    key = read_signing_key(folder / ROOT_KEY, "root key", passphrase)
    if key.public_key() != root.public_key():
        raise CertificateError(
            f"{folder / ROOT_KEY} does not belong to {folder / ROOT}; restore both from one backup"
        )
    return root, key


def _shares(
    issued: Issued, request: Request, public_key: ec.EllipticCurvePublicKey
) -> tuple[bool, bool]:
    """Whether a certificate is for the signing key, and for the sealing key, of a request."""
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
    return certificate.public_key() == public_key, issued.sealing_key == request.sealing_key


def _earlier(revoked: int | None, moment: int) -> int:
    return moment if revoked is None else min(revoked, moment)


def _issue(
    root: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    request: Request,
    public_key: ec.EllipticCurvePublicKey,
    moment: int,
    days: int,
) -> x509.Certificate:
    start = datetime.fromtimestamp(moment, UTC)
    check_validity(root, start, "federation root")
    issuer = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.site)]))
        .issuer_name(root.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start - BACKDATE, root.not_valid_before_utc))
        .not_valid_after(min(start + timedelta(days=days), root.not_valid_after_utc))
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
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.value),
            critical=False,
        )
        .sign(key, hashes.SHA384())
    )


def _publish(
    folder: Path,
    root: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    register: Register,
    keep: Keep,
    moment: int,
    days: int,
) -> RevocationList:
    """Number a list, keep the number, then write the list: a number is never used twice."""
    if days < 1:
        raise ValueError(f"expected days >= 1, got {days}")
    numbered = replace(register, list_number=register.list_number + 1)
    revoked = {
        int(one.serial, 16): Revocation(one.revoked, REASONS[one.reason])
        for one in register.issued
        if one.revoked is not None
    }
    made = revocation.build(root, key, numbered.list_number, revoked, moment, days)
    keep(numbered)
    atomic.write(folder / LIST, made.pem)
    return made
