"""A site's identity folder: its private keys, its request, its profile and what it trusts.

    keys/FINGERPRINT/   signing.key   ECDSA P-384, PKCS8 in PEM; or signing.uri, of one on a token
                        sealing.key   ML-KEM-768 and X25519, each PKCS8 in PEM
                        request.json  what was sent to the federation
    request.json        the latest request        site.profile  what came back
    root.pem, federation.crl  the federation      seen.db       organs verified here

Keys are mode 0600 in folders of mode 0700, encrypted when there is a passphrase. ``site.profile``
decides which of the keys, named by the first characters of their sealing fingerprint, are the
present ones; older ones are kept, because they open what was addressed to them.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from cryptography.x509.oid import NameOID

from not_core import atomic
from not_core.errors import CertificateError, KeyFileError
from not_core.trust.certificates import binding, certificate_errors, check_name
from not_core.trust.federation import ROOT, Trust, load_trust, verify_profile
from not_core.trust.keyfile import read_secret, write_secret
from not_core.trust.private_keys import (
    read_sealing_key,
    read_signing_key,
    sealing_key_pem,
    signing_key_pem,
)
from not_core.trust.profile import (
    Profile,
    Request,
    read_profile,
    read_request,
    sealing_private_key,
    write_profile,
    write_request,
)
from not_core.trust.revocation import LIST, RevocationList
from not_core.trust.token import TokenKey

__all__ = [
    "Identity",
    "Profile",
    "Request",
    "create",
    "install",
    "install_list",
    "load",
    "read_profile",
    "rotate",
    "write_profile",
]

KEYS = "keys"
SIGNING_KEY = "signing.key"
SIGNING_URI = "signing.uri"
SEALING_KEY = "sealing.key"
REQUEST = "request.json"
PROFILE = "site.profile"
SEEN = "seen.db"

NAMED = 16
"""Characters of a sealing fingerprint that name the folder of its keys."""

SEED_BYTES = 64
SCALAR_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identity:
    """An admitted site with its private keys, which ``repr`` does not show.

    Attributes:
        site: Its name.
        folder: Where all this lies.
        profile: What the federation vouches for.
        trust: What the site believes.
        signing_key: Of the profile.
        sealing_keys: By fingerprint: the profile's, and those that it has retired.
    """

    site: str
    folder: Path
    profile: Profile = field(repr=False)
    trust: Trust = field(repr=False)
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    sealing_keys: Mapping[str, MLKEM768X25519PrivateKey] = field(repr=False)


def create(
    folder: Path, site: str, *, passphrase: bytes | None = None, token: str | None = None
) -> Request:
    """Make a site's keys and its request for admission.

    Args:
        folder: New folder, made with mode 0700.
        site: The site's name.
        passphrase: Encrypts the keys when given.
        token: URI of a signing key that is on a token already; see ``token``.

    Returns:
        The request, which is also in ``request.json``.

    Raises:
        OutputExistsError: ``folder`` is taken; keys are never overwritten.
        FormatError: ``site`` is not a valid name.
    """
    check_name(site, "site name")
    with atomic.folder(folder, mode=0o700) as work:
        return _generate(work, site, passphrase, token)


def rotate(folder: Path, *, passphrase: bytes | None = None, token: str | None = None) -> Request:
    """Make new keys and a request for them; the present ones serve until ``install``.

    What was signed with the present keys stays valid as long as their certificate, and what is
    addressed to them can still be opened afterwards.

    Args:
        folder: Made by ``create``.
        passphrase: Encrypts the new keys when given.
        token: As in ``create``.

    Raises:
        KeyFileError: No identity folder.
        FormatError: Its request is damaged.
    """
    _check_folder(folder)
    return _generate(folder, read_request(folder / REQUEST).site, passphrase, token)


def install(
    folder: Path,
    profile: Profile,
    trust: Trust,
    *,
    now: float | None = None,
    passphrase: bytes | None = None,
) -> Identity:
    """Accept the federation's answer: write ``root.pem``, ``federation.crl``, ``site.profile``.

    A renewed profile for the same keys, or one for new keys of ``rotate``, replaces the old one.

    Args:
        folder: Made by ``create``.
        profile: What ``authority.admit`` returned.
        trust: The federation, received by another way than the profile.
        now: Seconds since the epoch.
        passphrase: Of the keys.

    Raises:
        KeyFileError: The folder's keys cannot be used.
        CertificateError: The profile does not chain to the root, or is for other keys or another
            site than this folder's.
        StaleListError: A later revocation list is known here.
    """
    request = read_request(folder / REQUEST)
    verify_profile(profile, trust, now=now)
    if profile.site != request.site:
        raise CertificateError(
            f"profile is for site {profile.site}, this identity is {request.site}; install the "
            "profile that answers this folder's request.json"
        )
    identity = _load(folder, profile, trust, passphrase)
    if (folder / ROOT).exists() and (folder / LIST).exists():
        known = load_trust(folder)
        if known.root == trust.root:
            trust.revoked.check_not_older(known.revoked)
    atomic.write(folder / ROOT, trust.pem)
    atomic.write(folder / LIST, trust.revoked.pem)
    write_profile(profile, folder / PROFILE)
    return identity


def install_list(folder: Path, revoked: RevocationList) -> None:
    """Replace ``federation.crl`` by a later one of the same root.

    Args:
        folder: An identity folder, or any other with ``root.pem`` and ``federation.crl``.
        revoked: Read with ``revocation.parse``, which has verified it.

    Raises:
        StaleListError: A later one is known here.
    """
    known = load_trust(folder).revoked
    revoked.check_not_older(known)
    if revoked.number > known.number:
        atomic.write(folder / LIST, revoked.pem)


def load(folder: Path, *, passphrase: bytes | None = None) -> Identity:
    """Load an admitted site's identity.

    Nothing is verified against the root here: an expired certificate is found where it matters,
    when something is signed, sealed or opened.

    Args:
        folder: Made by ``create``, filled by ``install``.
        passphrase: Of the keys, when they are encrypted.

    Raises:
        KeyFileError: A file is missing, open to others, or of the wrong kind.
        CertificateError: The profile is for other keys.
        FormatError: The profile is damaged.
        StaleListError: There is no revocation list.
    """
    _check_folder(folder)
    if (folder / REQUEST).exists() and not (folder / PROFILE).exists():
        raise KeyFileError(
            f"identity in {folder} is not admitted yet; send its {REQUEST} to the federation and "
            "run 'organ identity install' with the answer"
        )
    return _load(folder, read_profile(folder / PROFILE), load_trust(folder), passphrase)


def sealing_key_of(folder: Path, profile: Profile) -> Path:
    """Where the sealing key of a profile lies in an identity folder, if it does."""
    return _place(folder, profile.sealing_fingerprint) / SEALING_KEY


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise KeyFileError(f"no identity folder at {folder}; make one with 'organ identity init'")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"identity folder {folder} has mode {mode:04o}, expected 0700; run 'chmod 700' on it"
        )


def _generate(folder: Path, site: str, passphrase: bytes | None, token: str | None) -> Request:
    signing_key = ec.generate_private_key(ec.SECP384R1()) if token is None else TokenKey(token)
    # Seed and scalar are uniformly random in both schemes, so the operating system makes them.
    seed, scalar = os.urandom(SEED_BYTES), os.urandom(SCALAR_BYTES)
    _, public, fingerprint = sealing_private_key(seed, scalar)
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)]))
        .add_extension(binding(site, fingerprint), critical=False)
        .sign(signing_key, hashes.SHA384())
    )
    request = Request(
        site=site,
        csr=csr.public_bytes(serialization.Encoding.PEM).decode(),
        sealing_key=public,
    )
    with atomic.folder(_place(folder, fingerprint), mode=0o700) as work:
        if token is None:
            write_secret(work / SIGNING_KEY, signing_key_pem(signing_key, passphrase))
        else:
            write_secret(work / SIGNING_URI, token.encode())
        write_secret(work / SEALING_KEY, sealing_key_pem(seed, scalar, passphrase))
        write_request(request, work / REQUEST)
    (folder / KEYS).chmod(0o700)
    write_request(request, folder / REQUEST)
    return request


def _place(folder: Path, fingerprint: str) -> Path:
    return folder / KEYS / fingerprint[:NAMED]


def _signing_key(place: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    if (place / SIGNING_URI).exists():
        return TokenKey(read_secret(place / SIGNING_URI, "URI of a signing key").decode())
    return read_signing_key(place / SIGNING_KEY, "signing key", passphrase)


def _load(folder: Path, profile: Profile, trust: Trust, passphrase: bytes | None) -> Identity:
    place = sealing_key_of(folder, profile).parent
    if not place.is_dir():
        raise CertificateError(
            f"profile of {profile.site} is for other keys than those in {folder / KEYS}; install "
            "the profile that answers this folder's request.json"
        )
    signing_key = _signing_key(place, passphrase)
    with certificate_errors("certificate in the profile"):
        certified = x509.load_pem_x509_certificate(profile.certificates[0].encode()).public_key()
    if certified != signing_key.public_key():
        raise CertificateError(
            f"profile of {profile.site} certifies another signing key than {place / SIGNING_KEY}; "
            "install the profile that answers this folder's request.json"
        )
    sealing_keys: dict[str, MLKEM768X25519PrivateKey] = {}
    for path in sorted((folder / KEYS).glob(f"*/{SEALING_KEY}")):
        key, _, fingerprint = read_sealing_key(path, passphrase)
        sealing_keys[fingerprint] = key
    if profile.sealing_fingerprint not in sealing_keys:
        raise CertificateError(
            f"profile of {profile.site} names another sealing key than {place / SEALING_KEY}; "
            "install the profile that answers this folder's request.json"
        )
    return Identity(
        site=profile.site,
        folder=folder,
        profile=profile,
        trust=trust,
        signing_key=signing_key,
        sealing_keys=sealing_keys,
    )
