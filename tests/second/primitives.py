"""Digests, signatures and ciphers, each from its own specification, with no randomness left."""

import base64
import hashlib
import hmac
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from kyber_py.ml_kem import ML_KEM_768

P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
    "581a0db248b0a77aecec196accc52973",
    16,
)
SHA384 = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)  # RFC 6979


class RefusedError(Exception):
    """A refusal; ``code`` is the one that docs/format.md names."""

    def __init__(self, code: str, why: str = "") -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


def seeded(label: str, count: int = 32) -> bytes:
    """Bytes that a label stands for: where others take random ones."""
    return hashlib.shake_256(b"organ-exchange test vectors v1: " + label.encode()).digest(count)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """RFC 8785."""
    return rfc8785.dumps(value)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """RFC 4648, padded, with no stray bits."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise RefusedError("format", "base64") from None
    if base64_of(data) != text:
        raise RefusedError("format", "base64 with stray bits")
    return data


def signing_key(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(seeded(f"signing key of {label}", 56)) % (P384_ORDER - 1) + 1
    if curve is not None:
        scalar = int.from_bytes(seeded(f"signing key of {label}", 24))
    return ec.derive_private_key(scalar, curve or ec.SECP384R1())


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# --- DSSE v1.0.2 ---------------------------------------------------------------------------------


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Not RFC 8785: in this JSON the line feeds of the PEM stand as they are."""
    return sha256(
        b'{"keytype":"ecdsa","keyval":{"public":"'
        + public_pem(key)
        + b'"},"scheme":"ecdsa-sha2-nistp384"}'
    )


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(payload: bytes, kind: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    signature = key.sign(pre_authentication(kind, payload), SHA384)
    return {
        "payload": base64_of(payload),
        "payloadType": kind,
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64_of(signature)}],
    }


def verified(parsed: dict[str, Any], kind: str, key: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of a parsed envelope, if the key has signed it."""
    payload = from_base64(parsed["payload"])
    (one,) = parsed["signatures"]
    signature = from_base64(one["sig"])
    if parsed["payloadType"] != kind or one["keyid"] != key_id(key):
        raise RefusedError("signature", "of another type or key")
    try:
        key.verify(signature, pre_authentication(kind, payload), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise RefusedError("signature", "does not verify") from None
    return payload


def twin(signature: bytes) -> bytes:
    """The other ECDSA signature that holds where one does: (r, n - s) for (r, s)."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, P384_ORDER - s)


# --- HKDF, RFC 5869 ------------------------------------------------------------------------------


def extract(salt: bytes, material: bytes, hash_name: str = "sha256") -> bytes:
    size = hashlib.new(hash_name).digest_size
    return hmac.digest(salt or bytes(size), material, hash_name)


def expand(key: bytes, info: bytes, count: int, hash_name: str = "sha256") -> bytes:
    out, block, number = b"", b"", 1
    while len(out) < count:
        block = hmac.digest(key, block + info + bytes([number]), hash_name)
        out, number = out + block, number + 1
    return out[:count]


# --- MLKEM768-X25519, draft-ietf-hpke-pq --------------------------------------------------------

KEM_LABEL = rb"\.//^" + b"\\"
ENCAPSULATED = 1088 + 32


class SealingKey:
    """ML-KEM-768 seed (64 bytes) and X25519 scalar (32 bytes), and what follows from them."""

    def __init__(self, seed: bytes, scalar: bytes) -> None:
        self.seed, self.scalar = seed, scalar
        # FIPS 203, algorithm 16: what KeyGen does with these two halves for randomness.
        self._lattice_public, self._lattice = ML_KEM_768._keygen_internal(seed[:32], seed[32:])
        self._curve = x25519.X25519PrivateKey.from_private_bytes(scalar)
        self.public = self._lattice_public + self._curve.public_key().public_bytes_raw()
        self.fingerprint = sha256(self.public)

    def decapsulate(self, enc: bytes) -> bytes:
        ephemeral = enc[1088:]
        lattice = ML_KEM_768.decaps(self._lattice, enc[:1088])
        try:
            peer = x25519.X25519PublicKey.from_public_bytes(ephemeral)
            curve = self._curve.exchange(peer)
        except ValueError:  # a point of low order
            raise RefusedError("unseal", "low order") from None
        return combined(lattice, curve, ephemeral, self.public[1184:])


def sealing_key(label: str) -> SealingKey:
    return SealingKey(seeded(f"ML-KEM-768 of {label}", 64), seeded(f"X25519 of {label}"))


def is_low_order(curve_public: bytes) -> bool:
    """Whether every exchange with a point comes to nothing. RFC 7748, section 6.1."""
    peer = x25519.X25519PublicKey.from_public_bytes(curve_public)
    try:
        x25519.X25519PrivateKey.from_private_bytes(b"\1" * 32).exchange(peer)
    except ValueError:
        return True
    return False


def combined(lattice: bytes, curve: bytes, ephemeral: bytes, static: bytes) -> bytes:
    return hashlib.sha3_256(lattice + curve + ephemeral + static + KEM_LABEL).digest()


def encapsulate(public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    """Shared secret and encapsulation; 64 bytes of randomness, the lattice's first."""
    lattice, ciphertext = ML_KEM_768._encaps_internal(public[:1184], randomness[:32])
    secret = x25519.X25519PrivateKey.from_private_bytes(randomness[32:])
    ephemeral = secret.public_key().public_bytes_raw()
    curve = secret.exchange(x25519.X25519PublicKey.from_public_bytes(public[1184:]))
    return combined(lattice, curve, ephemeral, public[1184:]), ciphertext + ephemeral


# --- HPKE, RFC 9180, base mode, one message ------------------------------------------------------

SUITE = b"HPKE" + bytes.fromhex("647a00010002")
"""KEM 0x647a, HKDF-SHA256 0x0001, AES-256-GCM 0x0002."""


def key_schedule(
    secret: bytes, info: bytes, suite: bytes = SUITE, key_bytes: int = 32
) -> tuple[bytes, bytes]:
    """Key and nonce of the first message. Section 5.1."""

    def labelled(salt: bytes, label: bytes, material: bytes) -> bytes:
        return extract(salt, b"HPKE-v1" + suite + label + material)

    def derived(key: bytes, label: bytes, context: bytes, count: int) -> bytes:
        return expand(key, count.to_bytes(2) + b"HPKE-v1" + suite + label + context, count)

    context = b"\0" + labelled(b"", b"psk_id_hash", b"") + labelled(b"", b"info_hash", info)
    made = labelled(secret, b"secret", b"")
    return derived(made, b"key", context, key_bytes), derived(made, b"base_nonce", context, 12)


def wrap(content_key: bytes, public: bytes, info: bytes, randomness: bytes) -> bytes:
    secret, enc = encapsulate(public, randomness)
    key, nonce = key_schedule(secret, info)
    return enc + AESGCM(key).encrypt(nonce, content_key, b"")


def unwrap(wrapped: bytes, own: SealingKey, info: bytes) -> bytes:
    key, nonce = key_schedule(own.decapsulate(wrapped[:ENCAPSULATED]), info)
    try:
        return AESGCM(key).decrypt(nonce, wrapped[ENCAPSULATED:], b"")
    except InvalidTag:
        raise RefusedError("unseal", "wrap") from None


# --- Cobblestone-256, c2sp.org/chunked-encryption -----------------------------------------------

CHUNK = 16 * 1024
TAG = 16
PREFIX = 24 + 32


def chunk_keys(
    key: bytes, salt: bytes, context: bytes, hash_name: str = "sha512"
) -> tuple[AESGCM, bytes, bytes]:
    """Cipher, base nonce and commitment."""
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    out = expand(key, info, 32 + 12 + 32, hash_name)
    return AESGCM(out[:32]), out[32:44], out[44:]


def chunk_nonce(base: bytes, number: int) -> bytes:
    return (int.from_bytes(base) ^ number).to_bytes(12)


def encrypt(plaintext: bytes, key: bytes, context: bytes, salt: bytes) -> bytes:
    cipher, base, commitment = chunk_keys(key, salt, context)
    chunks = [
        cipher.encrypt(chunk_nonce(base, number), plaintext[start : start + CHUNK], b"")
        for number, start in enumerate(range(0, len(plaintext) + 1, CHUNK))
    ]
    return salt + commitment + b"".join(chunks)


def decrypt(ciphertext: bytes, key: bytes, context: bytes) -> bytes:
    salt, found = ciphertext[:24], ciphertext[24:PREFIX]
    cipher, base, commitment = chunk_keys(key, salt, context)
    if found != commitment:
        raise RefusedError("unseal", "commitment")
    rest, out, number = ciphertext[PREFIX:], b"", 0
    while True:
        chunk, rest = rest[: CHUNK + TAG], rest[CHUNK + TAG :]
        if len(chunk) < TAG:
            raise RefusedError("unseal", "no last chunk")
        try:
            out += cipher.decrypt(chunk_nonce(base, number), chunk, b"")
        except InvalidTag:
            raise RefusedError("unseal", "chunk") from None
        if len(chunk) < CHUNK + TAG:
            return out
        number += 1


def chunks_of(body: bytes) -> list[bytes]:
    """A body cut into its prefix and its chunks."""
    rest = body[PREFIX:]
    return [body[:PREFIX], *(rest[i : i + CHUNK + TAG] for i in range(0, len(rest), CHUNK + TAG))]


# --- POSIX.1-1988 ustar --------------------------------------------------------------------------


def tar_header(name: str, size: int, kind: bytes = b"0", link: str = "", /, **odd: bytes) -> bytes:
    """512 bytes. ``odd`` replaces a field's bytes: what only a hostile writer does."""
    fields = {
        "name": name.encode().ljust(100, b"\0"),
        "mode": b"0000644\0",
        "uid": b"0000000\0",
        "gid": b"0000000\0",
        "size": b"%011o\0" % size,
        "mtime": b"00000000000\0",
        "checksum": b" " * 8,
        "typeflag": kind,
        "linkname": link.encode().ljust(100, b"\0"),
        "magic": b"ustar\x0000",
        "uname": bytes(32),
        "gname": bytes(32),
        "devmajor": bytes(8),
        "devminor": bytes(8),
        "prefix": bytes(155),
        "rest": bytes(12),
    } | odd
    block = b"".join(fields.values())
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def tar_member(name: str, data: bytes, *more: Any, **odd: Any) -> bytes:
    return tar_header(name, len(data), *more, **odd) + data + bytes(-len(data) % 512)


TAR_END = bytes(1024)
