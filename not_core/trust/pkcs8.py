"""Private keys under a passphrase: PKCS #8 by PBES2, with scrypt and AES-256-CBC.

The library that reads them writes PBKDF2 with 2,048 rounds only, which costs who guesses nothing.

Source: RFC 5958 (PKCS #8), RFC 8018 (PBES2), RFC 7914 (scrypt), RFC 7468 (PEM).
"""

import base64
import os

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.x509 import ObjectIdentifier

SCRYPT_N = 2**17
"""Cost of one guess: 128 MiB of memory and some 0.3 s."""

SCRYPT_R, SCRYPT_P = 8, 1
SALT_BYTES, KEY_BYTES, BLOCK_BYTES = 16, 32, 16
LINE = 64

PBES2 = ObjectIdentifier("1.2.840.113549.1.5.13")
SCRYPT = ObjectIdentifier("1.3.6.1.4.1.11591.4.11")
AES_256_CBC = ObjectIdentifier("2.16.840.1.101.3.4.1.42")


@asn1.sequence
class ScryptParameters:
    """What scrypt is called with."""

    salt: bytes
    n: int
    r: int
    p: int


@asn1.sequence
class Derivation:
    """How a passphrase becomes a key."""

    algorithm: ObjectIdentifier
    parameters: ScryptParameters


@asn1.sequence
class Encryption:
    """The cipher; its parameter is the initialisation vector."""

    algorithm: ObjectIdentifier
    parameters: bytes


@asn1.sequence
class Parameters:
    """Those of PBES2."""

    derivation: Derivation
    encryption: Encryption


@asn1.sequence
class Scheme:
    """PBES2, with its parameters."""

    algorithm: ObjectIdentifier
    parameters: Parameters


@asn1.sequence
class EncryptedKey:
    """EncryptedPrivateKeyInfo."""

    scheme: Scheme
    data: bytes


def encrypted_pem(der: bytes, passphrase: bytes) -> bytes:
    """Encrypt a private key.

    Args:
        der: PrivateKeyInfo.
        passphrase: What opens it.
    """
    salt, vector = os.urandom(SALT_BYTES), os.urandom(BLOCK_BYTES)
    key = Scrypt(salt, KEY_BYTES, SCRYPT_N, SCRYPT_R, SCRYPT_P).derive(passphrase)
    padder = padding.PKCS7(8 * BLOCK_BYTES).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    data = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    derivation = Derivation(
        algorithm=SCRYPT,
        parameters=ScryptParameters(salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P),
    )
    parameters = Parameters(
        derivation=derivation,
        encryption=Encryption(algorithm=AES_256_CBC, parameters=vector),
    )
    scheme = Scheme(algorithm=PBES2, parameters=parameters)
    text = base64.b64encode(asn1.encode_der(EncryptedKey(scheme=scheme, data=data)))
    lines = [text[start : start + LINE] for start in range(0, len(text), LINE)]
    label = b"ENCRYPTED PRIVATE KEY-----"
    return b"\n".join([b"-----BEGIN " + label, *lines, b"-----END " + label, b""])
