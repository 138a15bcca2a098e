"""Signed organ folders, in the format of OpenSSF model signing v1.

A signed folder holds five regular files and nothing else. Both signature files hold the same
statement and the same signature over the other three: ``model.sig`` brings the signer's
certificate chain, so that a folder is verified by itself, given the root, and the public
``model_signing verify certificate`` accepts it; ``model.key.sig`` names the public key, for
``model_signing verify key``. One bundle cannot bring both.

Reading is stricter than the public command, which lets a signer exclude files from the signature,
allow links, or use other hashes: only the bytes that ``sign_folder`` would write are accepted.
"""

import base64
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as pydantic_dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT, Digest, Many
from not_core.errors import FormatError, OrganError, SignatureError
from not_core.manifest import CARD, MANIFEST, TENSORS, Manifest
from not_core.trust.certificates import certificate_errors
from not_core.trust.federation import Trust, verify_chain
from not_core.trust.keys import Identity
from not_core.trust.profile import Base64, unbase64
from not_core.trust.statement import Envelope, sign_statement, verify_statement

__all__ = ["SignedOrgan", "sign_folder", "sign_statement", "verify_folder", "verify_statement"]

SIGNATURE = "model.sig"
KEY_SIGNATURE = "model.key.sig"
SIGNATURES = frozenset({SIGNATURE, KEY_SIGNATURE})

UNSIGNED_FILES = frozenset({TENSORS, MANIFEST, CARD})
SIGNED_FILES = UNSIGNED_FILES | SIGNATURES

SMALL_LIMIT = 1024 * 1024
"""Largest signature file, in bytes."""

MEDIA_TYPE: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = (
    "application/vnd.dev.sigstore.bundle.v0.3+json"
)
STATEMENT_TYPE = "application/vnd.in-toto+json"


B = TypeVar("B")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOrgan:
    """An organ folder whose signature and chain have been verified.

    Attributes:
        manifest: Of the organ.
        site: Who signed it.
        public_key: With which key.
        statement: SHA-256 of what was signed, which covers every file but the signatures.
    """

    manifest: Manifest
    site: str
    public_key: ec.EllipticCurvePublicKey
    statement: str


@pydantic_dataclass(frozen=True, config=STRICT)
class _Certificate:
    rawBytes: Base64  # noqa: N815 - names here and below are sigstore's


@pydantic_dataclass(frozen=True, config=STRICT)
class _Chain:
    certificates: Annotated[Many[_Certificate], Field(min_length=1, max_length=4)]


@pydantic_dataclass(frozen=True, config=STRICT)
class _ByCertificate:
    tlogEntries: Annotated[tuple[()], Field(max_length=0)]  # noqa: N815
    x509CertificateChain: _Chain  # noqa: N815


@pydantic_dataclass(frozen=True, config=STRICT)
class _Hint:
    hint: Digest


@pydantic_dataclass(frozen=True, config=STRICT)
class _ByKey:
    publicKey: _Hint  # noqa: N815
    tlogEntries: Annotated[tuple[()], Field(max_length=0)]  # noqa: N815


@pydantic_dataclass(frozen=True, config=STRICT)
class _CertificateBundle:
    dsseEnvelope: Envelope  # noqa: N815
    verificationMaterial: _ByCertificate  # noqa: N815
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = MEDIA_TYPE  # noqa: N815


@pydantic_dataclass(frozen=True, config=STRICT)
class _KeyBundle:
    dsseEnvelope: Envelope  # noqa: N815
    verificationMaterial: _ByKey  # noqa: N815
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = MEDIA_TYPE  # noqa: N815


def sign_folder(folder: Path, identity: Identity) -> None:
    """Sign an organ folder: write ``model.key.sig`` and ``model.sig``; replaces older ones.

    Args:
        folder: Holds ``organ.safetensors``, ``manifest.json`` and ``README.md``.
        identity: The donor.

    Raises:
        OrganError: A file is missing, extra or not regular, or the manifest names another donor.
        FormatError: The manifest is damaged, or a file too large to be what it is named.
    """
    found = _files(folder)
    missing, extra = UNSIGNED_FILES - found, found - SIGNED_FILES
    if missing or extra:
        raise OrganError(_wrong_files(folder, missing, extra))
    manifest = canonical.decode(Manifest, canonical.read_bounded(folder / MANIFEST), "manifest")
    if manifest.donor != identity.site:
        raise OrganError(
            f"manifest names donor {manifest.donor}, this identity is {identity.site}; a site "
            "signs only its own organs"
        )
    statement = canonical.encode(statement_of(folder, manifest))
    envelope = canonical.decode(
        Envelope, sign_statement(statement, STATEMENT_TYPE, identity), "signed statement"
    )
    chain = tuple(_Certificate(one) for one in _in_der(identity.profile.certificates))
    by_key = _ByKey(_Hint(_hint(identity.signing_key.public_key())), ())
    by_certificate = _ByCertificate((), _Chain(chain))
    for name, bundle in (
        (KEY_SIGNATURE, _KeyBundle(envelope, by_key)),
        (SIGNATURE, _CertificateBundle(envelope, by_certificate)),
    ):
        atomic.write(folder / name, canonical.encode(bundle))


def verify_folder(
    folder: Path,
    trust: Trust,
    *,
    now: float | None = None,
    seen: Callable[[str], float | None] = lambda statement: None,
) -> SignedOrgan:
    """Check that a folder is exactly what an admitted site signed as its own organ.

    Args:
        folder: A signed organ folder.
        trust: What is believed.
        now: Seconds since the epoch, at which the signer's certificate must be valid.
        seen: When this party first verified the signed statement of that digest, if it did, such
            as ``Seen.first``; see ``verify_chain``.

    Raises:
        OrganError: Missing, extra, linked or nested files, or the manifest names another donor.
        CertificateError: The chain does not lead to the root, or was revoked.
        SignatureError: The signatures do not cover these files under that certificate's key.
        FormatError: The manifest is damaged, or a file too large to be what it is named.
    """
    found = _files(folder)
    if found != SIGNED_FILES:
        raise OrganError(_wrong_files(folder, SIGNED_FILES - found, found - SIGNED_FILES))
    bundle = _bundle(_CertificateBundle, folder / SIGNATURE)
    by_key = _bundle(_KeyBundle, folder / KEY_SIGNATURE)
    chain = _in_pem(bundle.verificationMaterial.x509CertificateChain.certificates)
    claimed = canonical.sha256(unbase64(bundle.dsseEnvelope.payload, "signed statement"))
    admission = verify_chain(chain, trust, now=now, seen=seen(claimed))
    if by_key.dsseEnvelope != bundle.dsseEnvelope or (
        by_key.verificationMaterial.publicKey.hint != _hint(admission.public_key)
    ):
        raise SignatureError(
            f"{SIGNATURE} and {KEY_SIGNATURE} are not by the same key over the same statement; "
            "get the organ again from its donor"
        )
    signed = verify_statement(
        canonical.encode(bundle.dsseEnvelope), STATEMENT_TYPE, admission.public_key
    )
    manifest = canonical.decode(Manifest, canonical.read_bounded(folder / MANIFEST), "manifest")
    statement = statement_of(folder, manifest)
    if canonical.encode(statement) != signed:
        raise SignatureError(
            f"{SIGNATURE} {_difference(signed, statement)}; get the organ again from its donor"
        )
    if manifest.donor != admission.site:
        raise OrganError(
            f"manifest names donor {manifest.donor}, the signer is {admission.site}; a site signs "
            "only its own organs, refuse this one"
        )
    return SignedOrgan(
        manifest=manifest,
        site=admission.site,
        public_key=admission.public_key,
        statement=claimed,
    )


def _bundle(cls: type[B], path: Path) -> B:
    return canonical.decode(cls, canonical.read_bounded(path, SMALL_LIMIT), path.name)


def statement_of(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What is signed: an in-toto statement of the digest of each file but the signatures.

    Raises:
        OrganError: A file is missing, or the folder holds a link, a folder or a device.

    Source: OpenSSF model signing specification v1.0; in-toto attestation framework v1.
    """
    if missing := UNSIGNED_FILES - _files(folder):
        raise OrganError(_wrong_files(folder, missing, frozenset()))
    digests = {name: canonical.sha256_file(folder / name) for name in sorted(UNSIGNED_FILES)}
    whole = canonical.sha256(b"".join(bytes.fromhex(one) for one in digests.values()))
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": manifest.organ_id, "digest": {"sha256": whole}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(SIGNATURES),
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": one}
                for name, one in digests.items()
            ],
        },
    }


def claimed_organ(statement: bytes) -> str:
    """Digest of the manifest that a statement says it covers: the organ's; believed by nobody yet.

    Raises:
        FormatError: Not a statement as ``statement_of`` makes them.
    """
    found = canonical.plain(statement, "statement")
    try:
        digests = {one["name"]: one["digest"] for one in found["predicate"]["resources"]}
        return TypeAdapter(Digest).validate_python(digests[MANIFEST])
    except (KeyError, TypeError, ValueError):
        raise FormatError("statement is not of an organ's files; expected one of ours") from None


def _difference(signed: bytes, found: dict[str, Any]) -> str:
    """In words, how what was signed differs from what is there."""
    try:
        resources = canonical.plain(signed, "statement")["predicate"]["resources"]
        digests = {one["name"]: one["digest"] for one in resources}
    except Exception:  # validly signed, but by another program: any form is possible
        return "was made by another program"
    changed = [
        one["name"]
        for one in found["predicate"]["resources"]
        if digests.get(one["name"]) != one["digest"]
    ]
    return f"does not match {', '.join(changed)}" if changed else "was made by another program"


def _hint(public_key: ec.EllipticCurvePublicKey) -> str:
    pem = public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return canonical.sha256(pem)


def _in_der(certificates: tuple[str, ...]) -> list[str]:
    """Base64 of the DER of each PEM certificate."""
    loaded = (x509.load_pem_x509_certificate(pem.encode()) for pem in certificates)
    der = (one.public_bytes(serialization.Encoding.DER) for one in loaded)
    return [base64.b64encode(one).decode() for one in der]


def _in_pem(certificates: tuple[_Certificate, ...]) -> list[str]:
    with certificate_errors(f"certificate in {SIGNATURE}"):
        loaded = [
            x509.load_der_x509_certificate(unbase64(one.rawBytes, "certificate"))
            for one in certificates
        ]
        return [one.public_bytes(serialization.Encoding.PEM).decode() for one in loaded]


def _files(folder: Path) -> frozenset[str]:
    """Names in a folder, after checking that each is a regular file and the folder a folder."""
    if folder.is_symlink() or not folder.is_dir():
        raise OrganError(f"no organ folder at {folder}; expected a folder, not a link or a file")
    entries = list(folder.iterdir())
    for entry in entries:
        if not stat.S_ISREG(entry.lstat().st_mode):
            raise OrganError(
                f"{entry} is a link, a folder or a device; an organ holds regular files only"
            )
    return frozenset(entry.name for entry in entries)


def _wrong_files(folder: Path, missing: frozenset[str], extra: frozenset[str]) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {', '.join(sorted(missing))}")
    if extra:
        parts.append(f"has unexpected {', '.join(ascii(name) for name in sorted(extra))}")
    return f"organ folder {folder} {' and '.join(parts)}; add or remove exactly these"
