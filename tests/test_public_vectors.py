"""Others' vectors, run against the very functions that sealing, opening and verifying call.

``cryptography_vectors`` brings HPKE, chunked encryption, ML-KEM, X25519 and ECDSA. Wycheproof's are
in no package: where a checkout is, name its ``testvectors_v1`` in ``WYCHEPROOF``.
"""

import base64
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cryptography_vectors
import pytest
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from second import primitives
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Signature, SSlibKey

from not_core.errors import CertificateError, UnsealError
from not_core.trust import addressees, sealing
from not_core.trust.holder import HeldOpener
from not_core.trust.profile import sealing_private_key, sealing_public_key

HERE = Path(cryptography_vectors.__file__).parent
INFO = bytes(range(32))
SCALAR = bytes(range(64, 96))
CURVE = x25519.X25519PrivateKey.from_private_bytes(SCALAR)
CONTENT = bytes(range(32, 64))


def wycheproof(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Groups and tests of a Wycheproof file."""
    place = os.environ.get("WYCHEPROOF")
    if not place:
        pytest.skip("Wycheproof is not in a package: set WYCHEPROOF to its testvectors_v1")
    whole = json.loads((Path(place) / f"{name}_test.json").read_text())
    assert whole["numberOfTests"] == sum(len(group["tests"]) for group in whole["testGroups"]) > 0
    for group in whole["testGroups"]:
        for test in group["tests"]:
            yield group, test


# --- HPKE: addressees.SUITE, through addressees._unwrap ------------------------------------------


def unwrap(wrapped: bytes, seed: bytes, scalar: bytes, info: bytes = INFO) -> bytes:
    """As opening does it."""
    opener = HeldOpener(sealing_private_key(seed, scalar)[0])
    offer: Any = SimpleNamespace(info=info)
    return addressees._unwrap(base64.b64encode(wrapped).decode(), opener, offer, "south")


def wrapped_under(secret: bytes, enc: bytes, content: bytes = CONTENT, info: bytes = INFO) -> bytes:
    """What a KEM's shared secret makes of a content key, by RFC 9180 as we wrote it ourselves."""
    key, nonce = primitives.key_schedule(secret, info)
    return enc + AESGCM(key).encrypt(nonce, content, b"")


def hybrid() -> dict[str, Any]:
    """The draft's vector of our KEM and KDF; of its AEADs there is ChaCha20-Poly1305 only."""
    cases = json.loads((HERE / "HPKE" / "hpke-pq-test-vectors.json").read_text())
    found = [one for one in cases if (one["kem_id"], one["kdf_id"], one["mode"]) == (0x647A, 1, 0)]
    assert len(found) == 1
    return dict(found[0])


def hybrid_key(case: dict[str, Any]) -> tuple[bytes, bytes]:
    """Seed and scalar: what draft-ietf-hpke-pq expands a private key of 32 bytes to."""
    whole = hashlib.shake_256(bytes.fromhex(case["skRm"])).digest(96)
    return whole[:64], whole[64:]


def test_hpke_vector_of_our_kem_and_kdf() -> None:
    case = hybrid()
    private, public, _ = sealing_private_key(*hybrid_key(case))
    assert base64.b64decode(public).hex() == case["pkRm"]
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    enc, info = bytes.fromhex(case["enc"]), bytes.fromhex(case["info"])
    # One-shot calls without associated data: no message of the vector is, so its key is compared.
    secret = bytes.fromhex(case["shared_secret"])
    chacha = b"HPKE" + bytes.fromhex("647a00010003")
    key, nonce = primitives.key_schedule(secret, info, chacha)
    assert (key.hex(), nonce.hex()) == (case["key"], case["base_nonce"])
    message = ChaCha20Poly1305(key).encrypt(nonce, b"message", b"")
    assert suite.decrypt(enc + message, private, info=info) == b"message"
    first = case["encryptions"][0]
    assert first["nonce"] == case["base_nonce"]
    opened = ChaCha20Poly1305(key).decrypt(
        nonce, bytes.fromhex(first["ct"]), bytes.fromhex(first["aad"])
    )
    assert opened.hex() == first["pt"]


def test_hpke_vector_under_our_suite() -> None:
    """The vector's encapsulation and shared secret with our AEAD, and what is not exactly so."""
    case = hybrid()
    seed, scalar = hybrid_key(case)
    enc, secret = bytes.fromhex(case["enc"]), bytes.fromhex(case["shared_secret"])
    good = wrapped_under(secret, enc)
    assert len(good) == 1168
    assert unwrap(good, seed, scalar) == CONTENT
    for at in (0, 1087, 1088, 1119, 1120, 1151, 1152, 1167):
        spoiled = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(UnsealError):
            unwrap(spoiled, seed, scalar)
    for other in (good[:-1], good + b"\0", good[:1120], b"", enc[:-1]):
        with pytest.raises(UnsealError):
            unwrap(other, seed, scalar)
    for changed in ((seed[::-1], scalar, INFO), (seed, SCALAR, INFO), (seed, scalar, INFO[::-1])):
        with pytest.raises(UnsealError):
            unwrap(good, *changed)
    with pytest.raises(UnsealError, match="wrong length"):
        unwrap(wrapped_under(secret, enc, CONTENT[:-1]), seed, scalar)


def test_hpke_vectors_of_rfc_9180_with_our_kdf_and_aead() -> None:
    """Base mode; X25519 is the half of our KEM that RFC 9180 has."""
    cases = json.loads((HERE / "HPKE" / "test-vectors.json").read_text())
    ours = [
        one
        for one in cases
        if (one["mode"], one["kem_id"], one["kdf_id"], one["aead_id"]) == (0, 0x20, 1, 2)
    ]
    assert len(ours) == 1
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    for case in ours:
        name = b"HPKE" + bytes.fromhex("002000010002")
        enc, info = bytes.fromhex(case["enc"]), bytes.fromhex(case["info"])
        secret = bytes.fromhex(case["shared_secret"])
        key, nonce = primitives.key_schedule(secret, info, name)
        assert (key.hex(), nonce.hex()) == (case["key"], case["base_nonce"])
        private = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(case["skRm"]))
        message = AESGCM(key).encrypt(nonce, b"message", b"")
        assert suite.decrypt(enc + message, private, info=info) == b"message"
        for wrong in (message[:-1], message[:-1] + bytes([message[-1] ^ 1])):
            with pytest.raises(InvalidTag):
                suite.decrypt(enc + wrong, private, info=info)
        checked = 0
        for number, one in enumerate(case["encryptions"]):
            counted = (int.from_bytes(nonce) ^ number).to_bytes(12)
            if counted.hex() == one["nonce"]:
                opened = AESGCM(key).decrypt(
                    counted, bytes.fromhex(one["ct"]), bytes.fromhex(one["aad"])
                )
                assert opened.hex() == one["pt"]
                checked += 1
        assert checked > 2


def test_what_we_wrap_the_second_implementation_unwraps() -> None:
    own = primitives.sealing_key("x")
    private, public, _ = sealing_private_key(own.seed, own.scalar)
    assert base64.b64decode(public) == own.public
    wrapped = addressees.SUITE.encrypt(CONTENT, private.public_key(), info=INFO)
    assert primitives.unwrap(wrapped, own, INFO) == CONTENT


# --- ML-KEM-768 and X25519: the two halves of a wrap ---------------------------------------------


def through_lattice(seed: bytes, ciphertext: bytes, secret: bytes) -> bytes:
    """Open a wrap of which ML-KEM's half is given and X25519's is ours."""
    ephemeral = x25519.X25519PrivateKey.from_private_bytes(bytes(range(7, 39)))
    shared = ephemeral.exchange(CURVE.public_key())
    sent = ephemeral.public_key().public_bytes_raw()
    whole = primitives.combined(secret, shared, sent, CURVE.public_key().public_bytes_raw())
    return unwrap(wrapped_under(whole, ciphertext + sent), seed, SCALAR)


@cache
def ours_of_lattice() -> tuple[primitives.SealingKey, bytes, bytes]:
    own = primitives.sealing_key("lattice")
    return own, *primitives.ML_KEM_768._encaps_internal(own.public[:1184], bytes(32))


def through_curve(scalar: bytes, sent: bytes, shared: bytes) -> bytes:
    """Open a wrap of which X25519's half is given and ML-KEM's is ours."""
    own, lattice, enc = ours_of_lattice()
    static = x25519.X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()
    whole = primitives.combined(lattice, shared, sent, static)
    return unwrap(wrapped_under(whole, enc + sent), own.seed, scalar)


@pytest.mark.parametrize(
    "stride", [10, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["some", "all"]
)
def test_mlkem_768_of_cryptography(stride: int) -> None:
    text = (HERE / "asymmetric" / "MLKEM" / "kat_MLKEM_768.rsp").read_text()
    cases = [dict(re.findall(r"^(\w+) = (\w+)$", part, re.M)) for part in text.split("count = ")]
    cases = [{name: bytes.fromhex(v) for name, v in one.items()} for one in cases if "pk" in one]
    assert len(cases) == 1000
    for case in cases[::stride]:
        seed = case["d"] + case["z"]
        _, public, _ = sealing_private_key(seed, SCALAR)
        assert base64.b64decode(public)[:1184] == case["pk"]
        assert through_lattice(seed, case["ct"], case["ss"]) == CONTENT
        assert through_lattice(seed, case["ct_n"], case["ss_n"]) == CONTENT  # implicit rejection
    for case in cases[:20]:
        with pytest.raises(UnsealError):
            through_lattice(case["d"] + case["z"], case["ct"], case["ss_n"])


def test_x25519_of_cryptography() -> None:
    text = (HERE / "asymmetric" / "X25519" / "rfc7748.txt").read_text()
    cases = [
        {
            name: bytes.fromhex(v)
            for name, v in re.findall(r"^(\w+_[US]\w*) = (\w{64})$", part, re.M)
        }
        for part in text.split("COUNT = ")
    ]
    cases = [one for one in cases if one]
    assert len(cases) == 3
    for case in cases:
        scalar, sent, shared = case["INPUT_SCALAR"], case["INPUT_U"], case["OUTPUT_U"]
        assert through_curve(scalar, sent, shared) == CONTENT
        with pytest.raises(UnsealError):
            through_curve(scalar, sent, shared[::-1])


def test_mlkem_768_of_wycheproof() -> None:
    found = {"valid": 0, "invalid": 0}
    for _, case in wycheproof("mlkem_768"):
        seed, ciphertext, secret = (bytes.fromhex(case[name]) for name in ("seed", "c", "K"))
        if case["result"] == "valid":
            assert through_lattice(seed, ciphertext, secret) == CONTENT, case["tcId"]
            if "ek" in case:
                public = base64.b64decode(sealing_private_key(seed, SCALAR)[1])
                assert public[:1184].hex() == case["ek"]
        else:
            with pytest.raises((UnsealError, ValueError)):
                through_lattice(seed, ciphertext, secret)
        found[case["result"]] += 1
    assert min(found.values()) > 30


def test_mlkem_768_keys_of_wycheproof() -> None:
    for _, case in wycheproof("mlkem_768_keygen_seed"):
        _, public, _ = sealing_private_key(bytes.fromhex(case["seed"]), SCALAR)
        assert base64.b64decode(public)[:1184].hex() == case["ek"]
    found = {"valid": 0, "invalid": 0}
    static = CURVE.public_key().public_bytes_raw()
    for _, case in wycheproof("mlkem_768_encaps"):
        text = base64.b64encode(bytes.fromhex(case["ek"]) + static).decode()
        if case["result"] == "valid":
            assert sealing_public_key(text, "south")
        else:
            with pytest.raises(CertificateError):
                sealing_public_key(text, "south")
        found[case["result"]] += 1
    assert min(found.values()) > 100


def test_x25519_of_wycheproof() -> None:
    """What others may accept, a shared secret of zeros, we refuse; else the value must be right."""
    opened = refused = 0
    for _, case in wycheproof("x25519"):
        scalar, sent, shared = (
            bytes.fromhex(case[name]) for name in ("private", "public", "shared")
        )
        if "ZeroSharedSecret" in case["flags"]:
            with pytest.raises(UnsealError):
                through_curve(scalar, sent, shared)
            refused += 1
        else:
            assert through_curve(scalar, sent, shared) == CONTENT, case["tcId"]
            opened += 1
    assert (opened > 400, refused > 20) == (True, True)


# --- chunked encryption: sealing._decrypt, and what Cobblestone256Encryptor makes -----------------


def decrypt(ciphertext: bytes, key: bytes, context: bytes) -> tuple[bytes, bool]:
    """What was handed out, and whether it ended well."""
    offer: Any = SimpleNamespace(descriptor=context.hex(), donor="north")
    out = b""
    try:
        for piece in sealing._decrypt(io.BytesIO(ciphertext), key, offer):
            out += piece
    except (UnsealError, ValueError):  # of a key of another length, which no wrap holds
        return out, False
    return out, True


def transposed(ciphertext: bytes, key: bytes, context: bytes) -> bytes:
    """A ciphertext made with SHA-256 as Cobblestone-256 would have it, faults and all.

    What opens with the one's keys is encrypted with the other's; what does not stays as it is.
    """
    prefix, *chunks = primitives.chunks_of(ciphertext)
    salt = prefix[:24]
    old, base, commitment = primitives.chunk_keys(key, salt, context, "sha256")
    new, new_base, new_commitment = primitives.chunk_keys(key, salt, context)
    out = salt + (new_commitment if prefix[24:] == commitment else prefix[24:])
    for number, chunk in enumerate(chunks):
        try:
            plain = old.decrypt(primitives.chunk_nonce(base, number), chunk, b"")
        except InvalidTag:
            out += chunk
        else:
            out += new.encrypt(primitives.chunk_nonce(new_base, number), plain, b"")
    assert len(out) == len(ciphertext)
    return out


def test_chunked_encryption_of_cryptography() -> None:
    """The package's vectors are older than the name Cobblestone-256, and derive with SHA-256."""
    cases = json.loads((HERE / "chunked-encryption" / "vectors.json").read_text())["vectors"]
    ours = [one for one in cases if one["aead"] == "AEAD_AES_256_GCM"]
    assert [one["expect"] for one in ours].count("failure") == 25
    assert len(ours) == 34
    for case in ours:
        ciphertext = base64.b64decode(case["ciphertext"] or "")
        if case.get("compressed"):
            ciphertext = zlib.decompress(ciphertext)
        key, context = bytes.fromhex(case["key"]), case["context"].encode()
        if len(key) == 32:
            ciphertext = transposed(ciphertext, key, context)
        out, ended = decrypt(ciphertext, key, context)
        assert ended == (case["expect"] == "success"), case["name"]
        if ended:
            assert len(out) == case["payload_length"]
            assert hashlib.sha256(out).hexdigest() == case["payload_sha256"]
        else:  # of a later chunk at fault, those before it
            assert len(out) <= case.get("payload_length", 0)


def test_chunked_encryption_of_wycheproof() -> None:
    found = {"valid": 0, "invalid": 0}
    for _, case in wycheproof("c2sp_chunked_encryption_aes_256_gcm"):
        ciphertext = zlib.decompress(bytes.fromhex(case["ct"]))
        out, ended = decrypt(ciphertext, bytes.fromhex(case["key"]), bytes.fromhex(case["ctx"]))
        assert ended == (case["result"] == "valid"), case["tcId"]
        if ended:
            assert len(out) == case["msgLength"]
            assert hashlib.sha512(out).hexdigest() == case["msgSha512"]
        else:
            assert len(out) <= case.get("msgLength", 0)
        found[case["result"]] += 1
    assert min(found.values()) > 5


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 40_000])
def test_what_we_encrypt_the_second_implementation_decrypts(size: int) -> None:
    message, key, context = os.urandom(size), Cobblestone256Encryptor.generate_key(), bytes(32)
    encryptor = Cobblestone256Encryptor(key, context)
    ciphertext = encryptor.update(message) + encryptor.finalize()
    assert primitives.decrypt(ciphertext, key, context) == message
    assert decrypt(primitives.encrypt(message, key, context, bytes(24)), key, context) == (
        message,
        True,
    )


# --- ECDSA P-384 with SHA-384: what verify_statement verifies with --------------------------------


def verifies(public: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    key = SSlibKey.from_crypto(public)
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), message)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True


def test_ecdsa_of_cryptography() -> None:
    text = (HERE / "asymmetric" / "ECDSA" / "FIPS_186-3" / "SigVer.rsp").read_text()
    (part,) = re.findall(r"^\[P-384,SHA-384\]\n(.*?)(?=^\[)", text, re.M | re.S)
    cases = [dict(re.findall(r"^(\w+) = (\w+)", one, re.M)) for one in part.split("\n\n")]
    cases = [one for one in cases if one]
    assert [one["Result"] for one in cases].count("P") >= 2
    assert len(cases) == 15
    for case in cases:
        x, y, r, s = (int(case[name], 16) for name in ("Qx", "Qy", "R", "S"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
        signature = utils.encode_dss_signature(r, s)
        found = verifies(public, signature, bytes.fromhex(case["Msg"]))
        assert found == (case["Result"] == "P")


def test_deterministic_ecdsa_of_cryptography() -> None:
    """RFC 6979, which makes the fixed signatures of our own vectors."""
    text = (HERE / "asymmetric" / "ECDSA" / "RFC6979" / "evppkey_ecdsa_rfc6979.txt").read_text()
    pem = re.search(r"PrivateKey=P-384_PRIV\n(-----BEGIN.*?-----END[^\n]*\n)", text, re.S)
    assert pem
    key = serialization.load_pem_private_key(pem[1].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    made = re.findall(
        r"DigestSign = SHA384\nKey = P-384_PRIV\n.*?\nInput = \"(\w+)\"\nOutput = (\w+)", text
    )
    assert len(made) == 2
    for message, signature in made:
        assert key.sign(message.encode(), primitives.SHA384) == bytes.fromhex(signature)
        assert verifies(key.public_key(), bytes.fromhex(signature), message.encode())


def test_ecdsa_of_wycheproof() -> None:
    found = {"valid": 0, "invalid": 0}
    for group, case in wycheproof("ecdsa_secp384r1_sha384"):
        public = serialization.load_pem_public_key(group["publicKeyPem"].encode())
        assert isinstance(public, ec.EllipticCurvePublicKey)
        right = verifies(public, bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
        assert right == (case["result"] == "valid"), case["tcId"]
        found[case["result"]] += 1
    assert min(found.values()) > 100
