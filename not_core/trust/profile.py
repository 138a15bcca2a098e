"""What a site shows to others: its request for admission, and its profile once admitted.

Both are public, canonical JSON. A profile is believed only as far as its certificate chains to
the federation root (``federation.verify_profile``); nothing here checks that.

The public sealing key is 1,216 bytes: the ML-KEM-768 encapsulation key (1,184) followed by the
X25519 public key (32), in base64 in JSON. Its fingerprint is the SHA-256 of those bytes.
"""

import base64
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey
from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT, Many, Name
from not_core.errors import CertificateError, FormatError
from not_core.trust.keyfile import read_public

REQUEST_FORMAT: Literal["organ-exchange/request/v1"] = "organ-exchange/request/v1"
PROFILE_FORMAT: Literal["organ-exchange/profile/v1"] = "organ-exchange/profile/v1"

PROFILE_LIMIT = 64 * 1024
"""Largest profile or request read, in bytes."""

MLKEM_PUBLIC_BYTES = 1184
X25519_BYTES = 32

Pem = Annotated[str, Field(max_length=16 * 1024, pattern=r"^-----BEGIN [A-Z ]+-----\n")]
Base64 = Annotated[str, Field(max_length=16 * 1024, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Request:
    """A site's request for admission: ``csr`` is signed by the site's signing key.

    The CSR names the site and the fingerprint of the sealing key, so that nobody on the way can
    exchange either of them.
    """

    format: Literal["organ-exchange/request/v1"] = REQUEST_FORMAT
    site: Name
    csr: Pem
    sealing_key: Base64

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it in canonical JSON: compare it by telephone before admitting.

        That of the sealing key alone would let a stranger's signing key through.
        """
        return canonical.digest(self)

    @property
    def sealing_fingerprint(self) -> str:
        """SHA-256 of the raw public sealing key, in lower-case hexadecimal.

        Raises:
            FormatError: ``sealing_key`` is not canonical base64.
        """
        return canonical.sha256(unbase64(self.sealing_key, "sealing key"))


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Profile:
    """A site as others see it: ``certificates`` in PEM, leaf first, without the root."""

    format: Literal["organ-exchange/profile/v1"] = PROFILE_FORMAT
    site: Name
    certificates: Annotated[Many[Pem], Field(min_length=1, max_length=4)]
    sealing_key: Base64

    @property
    def sealing_fingerprint(self) -> str:
        """SHA-256 of the raw public sealing key, in lower-case hexadecimal.

        Raises:
            FormatError: ``sealing_key`` is not canonical base64.
        """
        return canonical.sha256(unbase64(self.sealing_key, "sealing key"))


def read_profile(path: Path) -> Profile:
    """Read a profile; it is not yet verified.

    Raises:
        KeyFileError: Missing or unreadable.
        FormatError: Not a canonical profile.
    """
    data = read_public(path, "profile", PROFILE_LIMIT)
    return canonical.decode(Profile, data, "profile")


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile as canonical JSON, mode 0644."""
    atomic.write(path, canonical.encode(profile))


def read_request(path: Path) -> Request:
    """Read a request for admission; it is not yet verified.

    Raises:
        KeyFileError: Missing or unreadable.
        FormatError: Not a canonical request.
    """
    data = read_public(path, "request", PROFILE_LIMIT)
    return canonical.decode(Request, data, "request")


def write_request(request: Request, path: Path) -> None:
    """Write a request as canonical JSON, mode 0644."""
    atomic.write(path, canonical.encode(request))


def unbase64(text: str, what: str) -> bytes:
    """Decode base64 that has exactly one encoding (RFC 4648, padded, no stray bits).

    Raises:
        FormatError: Not base64, or not the canonical encoding of its bytes.
    """
    try:
        data = base64.b64decode(text)
    except ValueError:
        data = b""
    if base64.b64encode(data).decode() != text:
        raise FormatError(f"{what} is not canonical base64; get an undamaged copy")
    return data


def sealing_public_key(text: str, site: str) -> MLKEM768X25519PublicKey:
    """Parse a public sealing key.

    Args:
        text: Base64 of the 1,216 raw bytes.
        site: Whose it is, for messages.

    Raises:
        CertificateError: Not a key of that length and kind, or one that nothing can be sealed to.
        FormatError: Not canonical base64.
    """
    raw = unbase64(text, "sealing key")
    try:
        lattice = mlkem.MLKEM768PublicKey.from_public_bytes(raw[:MLKEM_PUBLIC_BYTES])
        curve = x25519.X25519PublicKey.from_public_bytes(raw[MLKEM_PUBLIC_BYTES:])
    except ValueError:
        raise CertificateError(
            f"sealing key of {site} is not an ML-KEM-768+X25519 public key of "
            f"{MLKEM_PUBLIC_BYTES + X25519_BYTES} bytes; ask {site} for its profile again"
        ) from None
    try:
        x25519.X25519PrivateKey.generate().exchange(curve)
    except ValueError:  # a point of low order: nobody could seal to it
        raise CertificateError(
            f"sealing key of {site} is degenerate, its X25519 half makes no secret; ask {site} to "
            "make new keys"
        ) from None
    return MLKEM768X25519PublicKey(lattice, curve)


def sealing_private_key(seed: bytes, scalar: bytes) -> tuple[MLKEM768X25519PrivateKey, str, str]:
    """Build a private sealing key from its parts.

    Args:
        seed: ML-KEM-768 seed (FIPS 203 ``d || z``), 64 bytes.
        scalar: X25519 private key, 32 bytes.

    Returns:
        The key for HPKE, the base64 of its public half, and the fingerprint of that.

    Raises:
        ValueError: Wrong lengths.

    Source: draft-ietf-hpke-pq, MLKEM768-X25519.
    """
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    curve = x25519.X25519PrivateKey.from_private_bytes(scalar)
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    key = MLKEM768X25519PrivateKey(lattice, curve)
    return key, base64.b64encode(public).decode(), canonical.sha256(public)
