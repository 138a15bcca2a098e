"""A site's identity folder: its private keys, its request, its profile and what it trusts.

    keys/FINGERPRINT/   signing.key   ECDSA P-384, PKCS8 in PEM; or signing.uri, of one on a token
                        sealing.key   ML-KEM-768 and X25519, each PKCS8 in PEM
                        request.json  what was sent to the federation
    request.json        the latest request        site.profile  what came back
    root.pem, federation.crl  the federation      seen.db       organs verified here

While a passphrase is changed there is ``keys.new``, and ``keys.old`` for a moment.

Keys are mode 0600 in folders of mode 0700, encrypted when there is a passphrase. ``site.profile``
decides which of the keys, named by the first characters of their sealing fingerprint, are the
present ones; older ones are kept, because they open what was addressed to them.
"""

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from not_core import atomic
from not_core.errors import CertificateError, KeyFileError
from not_core.trust import revocation
from not_core.trust.certificates import binding, certificate_errors, check_name, is_p384
from not_core.trust.federation import ROOT, Trust, load_root, load_trust, verify_profile
from not_core.trust.holder import HeldOpener, HeldSigner, Opener, Signer
from not_core.trust.keyfile import MISSING_KEY, read_secret, write_secret
from not_core.trust.private_keys import (
    read_sealing_key,
    read_sealing_parts,
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
    "change_passphrase",
    "create",
    "install",
    "install_list",
    "load",
    "load_represented",
    "read_profile",
    "rotate",
    "write_profile",
]

KEYS, NEW_KEYS, OLD_KEYS = "keys", "keys.new", "keys.old"
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
    """An admitted site and who uses its private keys for it, which ``repr`` does not show.

    Attributes:
        site: Its name.
        folder: Where all this lies.
        profile: What the federation vouches for.
        trust: What the site believes.
        signing_key: Signs with the profile's key.
        sealing_keys: What opens, by fingerprint: the profile's key, and those that it has retired.
    """

    site: str
    folder: Path
    profile: Profile = field(repr=False)
    trust: Trust = field(repr=False)
    signing_key: Signer = field(repr=False)
    sealing_keys: Mapping[str, Opener] = field(repr=False)


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
        KeyFileError: The key on the token cannot be used.
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
        passphrase: Of the present keys, and so of the new ones: all are read with one.
        token: As in ``create``.

    Raises:
        KeyFileError: No identity folder, or the present keys have another passphrase, or the key on
            the token cannot be used.
        FormatError: Its request is damaged.
    """
    _check_folder(folder)
    _settle(folder)
    with atomic.locked(folder):
        try:
            for place in _generations(folder):
                _read_all(place, passphrase)
        except KeyFileError as error:
            raise KeyFileError(
                f"{error}; new keys get the passphrase of the present ones, which 'organ identity "
                "passphrase' changes for all"
            ) from None
        return _generate(folder, read_request(folder / REQUEST).site, passphrase, token)


def change_passphrase(folder: Path, old: bytes | None, new: bytes | None) -> int:
    """Encrypt all keys anew, present and retired; a process that dies leaves the old or the new.

    Args:
        folder: Made by ``create``.
        old: Of the keys as they are; None where they are not encrypted.
        new: None for no encryption.

    Returns:
        How many generations of keys there are.

    Raises:
        KeyFileError: No identity folder, or a key does not open with ``old``.
    """
    _check_folder(folder)
    _settle(folder)
    with atomic.locked(folder):
        for left in (NEW_KEYS, OLD_KEYS):
            shutil.rmtree(folder / left, ignore_errors=True)
        places = _generations(folder)
        with atomic.folder(folder / NEW_KEYS, mode=0o700) as work:
            for place in places:
                _encrypt_anew(place, work / place.name, old, new)
        (folder / KEYS).rename(folder / OLD_KEYS)
        (folder / NEW_KEYS).rename(folder / KEYS)
        shutil.rmtree(folder / OLD_KEYS)
    return len(places)


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
    with atomic.locked(folder):
        known = _known(folder)
        if known and known.root == trust.root:
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
    with atomic.locked(folder):
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
    return _load(folder, _admitted(folder), load_trust(folder), passphrase)


def load_represented(
    folder: Path,
    signer: Callable[[ec.EllipticCurvePublicKey], Signer],
    opener: Callable[[str], Opener],
) -> Identity:
    """Load an admitted site's identity without reading a private key: others use them for it.

    Args:
        folder: As ``load``.
        signer: Made for the public key that the profile certifies.
        opener: Made for the fingerprint of each sealing key, present and retired.

    Raises:
        KeyFileError: No identity folder, or it is not admitted yet.
        CertificateError: The profile's certificate is damaged.
        FormatError: The profile, or a request that was made here, is damaged.
        StaleListError: There is no revocation list.
    """
    profile = _admitted(folder)
    requests = (read_request(place / REQUEST) for place in _generations(folder))
    return Identity(
        site=profile.site,
        folder=folder,
        profile=profile,
        trust=load_trust(folder),
        signing_key=signer(_certified(profile)),
        sealing_keys={one.sealing_fingerprint: opener(one.sealing_fingerprint) for one in requests},
    )


def sealing_key_of(folder: Path, profile: Profile | Request) -> Path:
    """Where the sealing key of a profile or a request lies in an identity folder, if it does."""
    _settle(folder)
    return _place(folder, profile.sealing_fingerprint) / SEALING_KEY


def _admitted(folder: Path) -> Profile:
    """The profile in an identity folder."""
    _check_folder(folder)
    if (folder / REQUEST).exists() and not (folder / PROFILE).exists():
        raise KeyFileError(
            f"identity in {folder} is not admitted yet; send its {REQUEST} to the federation and "
            "run 'organ identity install' with the answer"
        )
    return read_profile(folder / PROFILE)


def valid_until(profile: Profile) -> datetime:
    """The last moment of a profile's certificate, UTC.

    Raises:
        CertificateError: It is damaged.
    """
    with certificate_errors("certificate in the profile"):
        leaf = x509.load_pem_x509_certificate(profile.certificates[0].encode())
        return leaf.not_valid_after_utc


def _certified(profile: Profile) -> ec.EllipticCurvePublicKey:
    """The signing key that a profile's certificate is for; verified by nobody yet."""
    with certificate_errors("certificate in the profile"):
        key = x509.load_pem_x509_certificate(profile.certificates[0].encode()).public_key()
        if not is_p384(key):
            raise ValueError("expected an ECDSA P-384 key")
        return key


def _known(folder: Path) -> Trust | None:
    """What a folder believes; None if an installation was cut off between root and list."""
    if not ((folder / ROOT).exists() and (folder / LIST).exists()):
        return None
    root = load_root(folder / ROOT)
    try:
        return Trust(root, revocation.load(folder / LIST, root))
    except CertificateError:
        return None


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


def _settle(folder: Path) -> None:
    """Finish a change of passphrase that was cut off between its two renames."""
    if (folder / KEYS).exists() or not (folder / NEW_KEYS).exists():
        return
    with atomic.locked(folder):
        if not (folder / KEYS).exists():  # or whoever held the folder has just finished
            (folder / NEW_KEYS).rename(folder / KEYS)


def _generations(folder: Path) -> list[Path]:
    """Folders of keys; what a process that died left unfinished is none."""
    return sorted((folder / KEYS).glob("[0-9a-f]*"))


def _read_all(place: Path, passphrase: bytes | None) -> None:
    """Check that each key of a generation opens; one on a token needs no passphrase of ours."""
    if (place / SIGNING_KEY).exists():
        read_signing_key(place / SIGNING_KEY, "signing key", passphrase)
    read_sealing_key(place / SEALING_KEY, passphrase)


def _encrypt_anew(place: Path, out: Path, old: bytes | None, new: bytes | None) -> None:
    out.mkdir(mode=0o700)
    if (place / SIGNING_URI).exists():
        uri = read_secret(place / SIGNING_URI, "URI of a signing key", MISSING_KEY)
        write_secret(out / SIGNING_URI, uri)
    else:
        key = read_signing_key(place / SIGNING_KEY, "signing key", old)
        write_secret(out / SIGNING_KEY, signing_key_pem(key, new))
    seed, scalar = read_sealing_parts(place / SEALING_KEY, old)
    write_secret(out / SEALING_KEY, sealing_key_pem(seed, scalar, new))
    write_request(read_request(place / REQUEST), out / REQUEST)


def _place(folder: Path, fingerprint: str) -> Path:
    return folder / KEYS / fingerprint[:NAMED]


def _signing_key(place: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    if (place / SIGNING_URI).exists():
        uri = read_secret(place / SIGNING_URI, "URI of a signing key", MISSING_KEY)
        return TokenKey(uri.decode())
    return read_signing_key(place / SIGNING_KEY, "signing key", passphrase)


def _load(folder: Path, profile: Profile, trust: Trust, passphrase: bytes | None) -> Identity:
    place = sealing_key_of(folder, profile).parent
    if not place.is_dir():
        raise CertificateError(
            f"profile of {profile.site} is for other keys than those in {folder / KEYS}; install "
            "the profile that answers this folder's request.json"
        )
    signing_key = _signing_key(place, passphrase)
    if _certified(profile) != signing_key.public_key():
        raise CertificateError(
            f"profile of {profile.site} certifies another signing key than {place / SIGNING_KEY}; "
            "install the profile that answers this folder's request.json"
        )
    sealing_keys: dict[str, Opener] = {}
    for path in sorted((folder / KEYS).glob(f"[0-9a-f]*/{SEALING_KEY}")):
        key, _, fingerprint = read_sealing_key(path, passphrase)
        sealing_keys[fingerprint] = HeldOpener(key)
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
        signing_key=HeldSigner(signing_key),
        sealing_keys=sealing_keys,
    )
