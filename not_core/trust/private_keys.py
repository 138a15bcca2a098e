"""Private keys in PEM: ECDSA P-384 to sign, ML-KEM-768 with X25519 to open what is sealed."""

import re
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from not_core.errors import KeyFileError
from not_core.trust.certificates import is_p384
from not_core.trust.keyfile import MISSING_KEY, read_secret
from not_core.trust.passphrase import VARIABLE
from not_core.trust.pkcs8 import encrypted_pem
from not_core.trust.profile import sealing_private_key

_BLOCK = re.compile(rb"-----BEGIN [A-Z ]+-----\n[A-Za-z0-9+/=\n]+-----END [A-Z ]+-----\n")


def signing_key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """Serialise a private signing key as PKCS8 PEM, encrypted when a passphrase is given."""
    return _pem(key, passphrase)


def sealing_key_pem(seed: bytes, scalar: bytes, passphrase: bytes | None = None) -> bytes:
    """Serialise a private sealing key: two PKCS8 PEM blocks, ML-KEM-768, then X25519.

    Args:
        seed: ML-KEM-768 seed (FIPS 203 ``d || z``), 64 bytes.
        scalar: X25519 private key, 32 bytes.
        passphrase: Encrypts both when given.
    """
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
    curve = x25519.X25519PrivateKey.from_private_bytes(scalar)
    return _pem(lattice, passphrase) + _pem(curve, passphrase)


def is_encrypted(path: Path) -> bool:
    """Whether a private key, or the first of them, is there and needs a passphrase.

    Raises:
        KeyFileError: As ``read_secret``.
    """
    return path.exists() and read_secret(path, "private key").startswith(b"-----BEGIN ENCRYPTED")


def read_signing_key(
    path: Path, what: str, passphrase: bytes | None = None
) -> ec.EllipticCurvePrivateKey:
    """Load an ECDSA P-384 private key from an owner-only PEM file.

    Raises:
        KeyFileError: As ``read_secret``; or not a PEM key, wrong passphrase, or not P-384.
    """
    key = _private(read_secret(path, what, MISSING_KEY), path, what, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p384(key.public_key()):
        raise KeyFileError(f"{what} at {path} is not an ECDSA P-384 key; make one with init")
    return key


def read_sealing_key(
    path: Path, passphrase: bytes | None = None
) -> tuple[MLKEM768X25519PrivateKey, str, str]:
    """Load a sealing key.

    Returns:
        As ``profile.sealing_private_key``.

    Raises:
        KeyFileError: As ``read_sealing_parts``.
    """
    return sealing_private_key(*read_sealing_parts(path, passphrase))


def read_sealing_parts(path: Path, passphrase: bytes | None = None) -> tuple[bytes, bytes]:
    """Read the seed and the scalar of a sealing key.

    Raises:
        KeyFileError: As ``read_secret``; or not these two keys, or a wrong passphrase.
    """
    what = "sealing key"
    blocks = _BLOCK.findall(read_secret(path, what, MISSING_KEY))
    found = [_private(block, path, what, passphrase) for block in blocks]
    match found:
        case [mlkem.MLKEM768PrivateKey() as lattice, x25519.X25519PrivateKey() as curve]:
            return lattice.private_bytes_raw(), curve.private_bytes_raw()
    raise KeyFileError(
        f"{what} at {path} is not an ML-KEM-768 and an X25519 key; expected the file that 'organ "
        "identity init' made; restore it from a backup"
    )


def _pem(
    key: ec.EllipticCurvePrivateKey | mlkem.MLKEM768PrivateKey | x25519.X25519PrivateKey,
    passphrase: bytes | None,
) -> bytes:
    encoding = serialization.Encoding.DER if passphrase else serialization.Encoding.PEM
    data = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encrypted_pem(data, passphrase) if passphrase else data


def _private(data: bytes, path: Path, what: str, passphrase: bytes | None) -> object:
    try:
        return serialization.load_pem_private_key(data, passphrase)
    except TypeError:
        need = (
            "is not encrypted; leave the passphrase out"
            if passphrase
            else f"is encrypted; name the file of its passphrase by --passphrase-file or {VARIABLE}"
        )
        raise KeyFileError(f"{what} at {path} {need}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(
            f"{what} at {path} cannot be read as a PEM private key; check the passphrase, or "
            "restore the file from a backup"
        ) from None
