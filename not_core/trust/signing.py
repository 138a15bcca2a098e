"""Signed organ folders, in the format of OpenSSF model-signing v1 (``model.sig``).

A signed folder holds five regular files and nothing else. ``signer.pem`` is the signer's
certificate chain and is itself signed, so a folder is verified by itself, given the root; the
public ``model_signing verify key`` accepts it with the key of that certificate.

model_signing is imported inside functions: the coordinator does not install it.
"""

import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from not_core import atomic, canonical
from not_core.canonical import Digest
from not_core.errors import FormatError, OrganError, SignatureError
from not_core.manifest import CARD, MANIFEST, TENSORS, Manifest
from not_core.trust.federation import Root, verify_chain
from not_core.trust.keys import Identity
from not_core.trust.profile import unbase64
from not_core.trust.statement import sign_statement, verify_statement

__all__ = ["SignedOrgan", "sign_folder", "sign_statement", "verify_folder", "verify_statement"]

SIGNER = "signer.pem"
SIGNATURE = "model.sig"

UNSIGNED_FILES = frozenset({TENSORS, MANIFEST, CARD})
SIGNED_FILES = UNSIGNED_FILES | {SIGNER, SIGNATURE}

SMALL_LIMIT = 1024 * 1024
"""Largest ``model.sig``, ``signer.pem`` or ``README.md``, in bytes."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n")

# A bundle comes from another project's writer: unknown fields are its business, these are ours.
_BUNDLE = ConfigDict(strict=True, extra="ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOrgan:
    """An organ folder whose signature and chain have been verified."""

    path: Path
    manifest: Manifest
    site: str
    public_key: ec.EllipticCurvePublicKey


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Resource:
    name: Annotated[str, Field(max_length=100)]
    digest: Digest
    algorithm: Literal["sha256"]


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Serialization:
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: Literal[False]
    ignore_paths: tuple[Literal["model.sig"], ...]


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Predicate:
    serialization: _Serialization
    resources: tuple[_Resource, ...]


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Statement:
    """The in-toto statement inside a bundle, as far as this project relies on it."""

    predicateType: Literal["https://model_signing/signature/v1.0"]  # noqa: N815 - in-toto's name
    predicate: _Predicate


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _EnvelopeSignature:
    sig: str


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Envelope:
    payload: str
    signatures: Annotated[tuple[_EnvelopeSignature, ...], Field(min_length=1, max_length=1)]


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Hint:
    hint: Digest


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Material:
    publicKey: _Hint  # noqa: N815 - sigstore's name


@pydantic_dataclass(frozen=True, config=_BUNDLE)
class _Bundle:
    verificationMaterial: _Material  # noqa: N815 - sigstore's name
    dsseEnvelope: _Envelope  # noqa: N815 - sigstore's name


_BUNDLES: TypeAdapter[_Bundle] = TypeAdapter(_Bundle)
_STATEMENTS: TypeAdapter[_Statement] = TypeAdapter(_Statement)


def sign_folder(folder: Path, identity: Identity) -> None:
    """Sign an organ folder: write ``signer.pem``, then ``model.sig``; replaces an older signature.

    The bundle records the folder's own name, for information; give it one that may be seen.

    Args:
        folder: Holds ``organ.safetensors``, ``manifest.json`` and ``README.md``.
        identity: The donor.

    Raises:
        OrganError: A file is missing, extra or not regular, or the manifest names another donor.
        FormatError: The manifest is damaged, or a file too large to be what it is named.
    """
    from model_signing import hashing
    from model_signing.signing import Config

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
    atomic.write(folder / SIGNER, "".join(identity.profile.certificates).encode())
    ignore = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    signer = Config().use_elliptic_key_signer(private_key=identity.signing_key_path)
    with tempfile.TemporaryDirectory() as aside:
        bundle = Path(aside) / SIGNATURE
        signer.set_hashing_config(ignore).sign(folder, bundle)
        atomic.write(folder / SIGNATURE, bundle.read_bytes())


def verify_folder(folder: Path, root: Root, *, now: float | None = None) -> SignedOrgan:
    """Check that a folder is exactly what an admitted site signed as its own organ.

    Args:
        folder: A signed organ folder.
        root: The federation's root.
        now: Seconds since the epoch, at which the signer's certificate must be valid.

    Raises:
        OrganError: Missing, extra, linked or nested files, or the manifest names another donor.
        CertificateError: ``signer.pem`` does not chain to ``root``.
        SignatureError: ``model.sig`` does not cover these files under that certificate's key.
        FormatError: The manifest is damaged, or a file too large to be what it is named.
    """
    found = _files(folder)
    if found != SIGNED_FILES:
        raise OrganError(_wrong_files(folder, SIGNED_FILES - found, found - SIGNED_FILES))
    admission = verify_chain(
        _chain(canonical.read_bounded(folder / SIGNER, SMALL_LIMIT)), root, now=now
    )
    bundle = canonical.read_bounded(folder / SIGNATURE, SMALL_LIMIT)
    signed = _signed_digests(bundle)
    if signed.keys() != SIGNED_FILES - {SIGNATURE}:
        raise SignatureError(
            f"{SIGNATURE} covers other files than the organ has; get the organ again from its donor"
        )
    _verify_bundle(folder, bundle, signed, admission.public_key)
    manifest = canonical.decode(Manifest, canonical.read_bounded(folder / MANIFEST), "manifest")
    if manifest.donor != admission.site:
        raise OrganError(
            f"manifest names donor {manifest.donor}, the signer is {admission.site}; a site signs "
            "only its own organs, refuse this one"
        )
    return SignedOrgan(
        path=folder, manifest=manifest, site=admission.site, public_key=admission.public_key
    )


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


def _chain(pem: bytes) -> list[str]:
    text = pem.decode("ascii", errors="replace")
    found = _PEM.findall(text)
    if not found or "".join(found) != text:
        raise OrganError(f"{SIGNER} is not a chain of certificates in PEM; get the unedited organ")
    return found


def _signed_digests(bundle: bytes) -> dict[str, str]:
    """SHA-256 of each file that a bundle claims to cover; not yet verified.

    Being strict here closes what model_signing leaves to the signer: paths to ignore, symbolic
    links, other hash algorithms, and its pre-1.0 format.
    """
    try:
        parsed = _BUNDLES.validate_json(bundle)
        payload = unbase64(parsed.dsseEnvelope.payload, "payload")
        predicate = _STATEMENTS.validate_json(payload).predicate
    except (ValidationError, FormatError):
        raise SignatureError(
            f"{SIGNATURE} is not a model-signing v1 bundle over SHA-256 of whole files; get the "
            "unedited organ from its donor"
        ) from None
    digests = {resource.name: resource.digest for resource in predicate.resources}
    if len(digests) != len(predicate.resources):
        raise SignatureError(f"{SIGNATURE} names a file twice; get the organ again from its donor")
    return digests


def _verify_bundle(
    folder: Path, bundle: bytes, signed: dict[str, str], public_key: ec.EllipticCurvePublicKey
) -> None:
    from model_signing.verifying import Config

    with tempfile.TemporaryDirectory() as aside:
        key_path, bundle_path = Path(aside) / "signer.pub", Path(aside) / SIGNATURE
        key_path.write_bytes(
            public_key.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        bundle_path.write_bytes(bundle)  # the very bytes whose file list was checked
        config: Any = Config().use_elliptic_key_verifier(public_key=key_path)
        try:
            config.verify(folder, bundle_path)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            InvalidSignature,
            RecursionError,
        ):
            changed = [n for n in sorted(signed) if canonical.sha256_file(folder / n) != signed[n]]
            reason = (
                f"does not match {', '.join(changed)}" if changed else "was not made by this signer"
            )
            raise SignatureError(
                f"{SIGNATURE} {reason}; get the organ again from its donor"
            ) from None
