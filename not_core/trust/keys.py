"""A site's identity folder: its two private keys, its request, its profile and its trust root.

``signing.key`` is ECDSA P-384 (PKCS8 PEM); ``sealing.key`` is ML-KEM-768+X25519 (canonical JSON
of the ML-KEM seed and the X25519 private key); both are mode 0600 in a folder of mode 0700.
``request.json`` goes to the federation; what comes back is installed as ``site.profile`` beside
``root.pem``.
"""

import base64
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from cryptography.x509.oid import NameOID
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT
from not_core.errors import CertificateError, FormatError, KeyFileError
from not_core.trust.certificates import binding, certificate_errors, check_name
from not_core.trust.federation import Root, load_root, verify_profile
from not_core.trust.keyfile import read_secret, read_signing_key, signing_key_pem, write_secret
from not_core.trust.profile import (
    Base64,
    Profile,
    Request,
    read_profile,
    read_request,
    sealing_private_key,
    unbase64,
    write_profile,
    write_request,
)

__all__ = [
    "Identity",
    "Profile",
    "Request",
    "create",
    "install",
    "load",
    "read_profile",
    "write_profile",
]

SIGNING_KEY = "signing.key"
SEALING_KEY = "sealing.key"
REQUEST = "request.json"
PROFILE = "site.profile"
ROOT = "root.pem"

SEED_BYTES = 64
SCALAR_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identity:
    """An admitted site with its private keys, which ``repr`` does not show."""

    site: str
    folder: Path
    signing_key_path: Path
    profile: Profile = field(repr=False)
    root: Root = field(repr=False)
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    sealing_key: MLKEM768X25519PrivateKey = field(repr=False)


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class _SealingKeyFile:
    """``sealing.key``: FIPS 203 seed ``d || z`` (64 bytes) and X25519 private key (32 bytes)."""

    format: Literal["organ-exchange/sealing-key/v1"] = "organ-exchange/sealing-key/v1"
    mlkem768_seed: Annotated[Base64, Field(repr=False)]
    x25519: Annotated[Base64, Field(repr=False)]


def create(folder: Path, site: str) -> Request:
    """Make a site's keys and its request for admission.

    Args:
        folder: New folder, made with mode 0700.
        site: The site's name.

    Returns:
        The request, which is also in ``request.json``.

    Raises:
        OutputExistsError: ``folder`` is taken; keys are never overwritten.
        FormatError: ``site`` is not a valid name.
    """
    check_name(site, "site name")
    signing_key = ec.generate_private_key(ec.SECP384R1())
    # Seed and scalar are uniformly random in both schemes, so the operating system makes them.
    seed, scalar = os.urandom(SEED_BYTES), os.urandom(SCALAR_BYTES)
    _, public = sealing_private_key(seed, scalar)
    fingerprint = canonical.sha256(base64.b64decode(public))
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
    secret = _SealingKeyFile(
        mlkem768_seed=base64.b64encode(seed).decode(), x25519=base64.b64encode(scalar).decode()
    )
    with atomic.folder(folder, mode=0o700) as work:
        write_secret(work / SIGNING_KEY, signing_key_pem(signing_key))
        write_secret(work / SEALING_KEY, canonical.encode(secret))
        write_request(request, work / REQUEST)
    return request


def install(folder: Path, profile: Profile, root: Root, *, now: float | None = None) -> Identity:
    """Accept the federation's answer: write ``site.profile`` and ``root.pem``.

    A renewed profile for the same keys replaces the old one.

    Args:
        folder: Made by ``create``.
        profile: What ``federation.admit`` returned.
        root: The federation's root, received by another way than the profile.
        now: Seconds since the epoch.

    Raises:
        KeyFileError: The folder's keys cannot be used.
        CertificateError: The profile does not chain to ``root``, or is for other keys or another
            site than this folder's.
    """
    request = read_request(folder / REQUEST)
    verify_profile(profile, root, now=now)
    if profile.site != request.site:
        raise CertificateError(
            f"profile is for site {profile.site}, this identity is {request.site}; install the "
            "profile that answers this folder's request.json"
        )
    identity = _load(folder, profile, root)
    atomic.write(folder / ROOT, root.pem)
    write_profile(profile, folder / PROFILE)
    return identity


def load(folder: Path) -> Identity:
    """Load an admitted site's identity.

    Nothing is verified against the root here: an expired certificate is found where it matters,
    when something is signed, sealed or opened.

    Raises:
        KeyFileError: A file is missing, open to others, or of the wrong kind.
        CertificateError: The profile is for other keys.
        FormatError: The profile is damaged.
    """
    if not folder.is_dir():
        raise KeyFileError(f"no identity folder at {folder}; make one with 'organ identity init'")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"identity folder {folder} has mode {mode:04o}, expected 0700; run 'chmod 700' on it"
        )
    if (folder / REQUEST).exists() and not (folder / PROFILE).exists():
        raise KeyFileError(
            f"identity in {folder} is not admitted yet; send its {REQUEST} to the federation and "
            "run 'organ identity install' with the answer"
        )
    return _load(folder, read_profile(folder / PROFILE), load_root(folder / ROOT))


def _load(folder: Path, profile: Profile, root: Root) -> Identity:
    signing_key = read_signing_key(folder / SIGNING_KEY, "signing key")
    sealing_key, public = _read_sealing_key(folder / SEALING_KEY)
    with certificate_errors("certificate in the profile"):
        certified = x509.load_pem_x509_certificate(profile.certificates[0].encode()).public_key()
    if certified != signing_key.public_key():
        raise CertificateError(
            f"profile of {profile.site} certifies another signing key than {folder / SIGNING_KEY}; "
            "install the profile that answers this folder's request.json"
        )
    if profile.sealing_key != public:
        raise CertificateError(
            f"profile of {profile.site} names another sealing key than {folder / SEALING_KEY}; "
            "install the profile that answers this folder's request.json"
        )
    return Identity(
        site=profile.site,
        folder=folder,
        signing_key_path=folder / SIGNING_KEY,
        profile=profile,
        root=root,
        signing_key=signing_key,
        sealing_key=sealing_key,
    )


def _read_sealing_key(path: Path) -> tuple[MLKEM768X25519PrivateKey, str]:
    data = read_secret(path, "sealing key")
    try:
        stored = canonical.decode(_SealingKeyFile, data, "sealing key")
        return sealing_private_key(
            unbase64(stored.mlkem768_seed, "seed"), unbase64(stored.x25519, "scalar")
        )
    except (FormatError, ValueError):
        raise KeyFileError(
            f"sealing key at {path} cannot be read; expected the file that 'organ identity init' "
            "made; restore it from a backup"
        ) from None
