"""Sealing a signed organ to named sites, and opening what is addressed to this one.

Only ``open_sealed`` makes an ``OpenedOrgan``, and only an ``OpenedOrgan`` is transplanted at a
site: having one means that every check of this package has passed.

The body is ``archive``'s tar through Cobblestone-256 (C2SP chunked encryption) under a fresh key,
with the body descriptor's digest (32 bytes) as context. The key goes to each addressee by HPKE
(ML-KEM-768+X25519, HKDF-SHA256, AES-256-GCM) with the offer envelope's SHA-256 (32 bytes) as
``info``. Memory does not grow with the organ in either direction.
"""

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import IO, BinaryIO

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from not_core import atomic
from not_core.errors import CertificateError, NotAddressedError, OfferError, UnsealError
from not_core.manifest import Manifest
from not_core.trust.archive import CHUNK, pack, unpack
from not_core.trust.certificates import check_name, seconds
from not_core.trust.delivery import (
    DeliveryHeader,
    open_file,
    read_header,
    verify_file,
    verify_sealed,
    write_header,
)
from not_core.trust.federation import Root, verify_profile
from not_core.trust.keys import Identity
from not_core.trust.offer import MAX_ADDRESSEES, Offer, SignedOffer, describe, sign_offer
from not_core.trust.profile import Profile, sealing_public_key, unbase64
from not_core.trust.signing import verify_folder

__all__ = [
    "DeliveryHeader",
    "OpenedOrgan",
    "open_sealed",
    "read_header",
    "seal",
    "verify_sealed",
]

DAY = 86400
KEY_BYTES = 32
SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

_PROOF = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedOrgan:
    """An organ that this site was sent, in a folder whose every byte has been verified."""

    path: Path
    manifest: Manifest
    signed: SignedOffer
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only open_sealed makes an OpenedOrgan")

    @property
    def offer(self) -> Offer:
        """The offer under which it came."""
        return self.signed.offer


def seal(
    organ: Path,
    identity: Identity,
    addressees: Sequence[Profile],
    out: Path,
    *,
    root: Root,
    exchange: str,
    now: float | None = None,
    lifetime_seconds: int = 30 * DAY,
) -> SignedOffer:
    """Seal a folder that this site has signed.

    Args:
        organ: Signed organ folder.
        identity: The donor, who signed it.
        addressees: Profiles of the sites that may open it; each is verified.
        out: The ``.organ`` file; it must not exist.
        root: The federation's root.
        exchange: Name of the exchange that it is for.
        now: Seconds since the epoch.
        lifetime_seconds: How long the offer holds.

    Returns:
        The signed offer.

    Raises:
        OutputExistsError: ``out`` is taken.
        CertificateError: This site's or an addressee's profile does not verify, or the folder was
            signed with another key.
        OrganError: The folder is incomplete, or another donor's.
        SignatureError: The folder changed since it was signed.
        OfferError: No addressee, one named twice, or more than ``MAX_ADDRESSEES``.
    """
    if lifetime_seconds < 1:
        raise ValueError(f"expected lifetime_seconds >= 1, got {lifetime_seconds}")
    atomic.refuse_existing(out)
    check_name(exchange, "exchange name")
    moment = seconds(now)
    by_fingerprint = _addressees(addressees, root, moment)
    own_key = verify_profile(identity.profile, root, now=moment)
    organ_signed = verify_folder(organ, root, now=moment)
    manifest = organ_signed.manifest
    if organ_signed.public_key != own_key:
        raise CertificateError(
            f"organ was signed by {organ_signed.site} with another key than this identity's; a "
            "site seals only what it has signed: sign the folder again"
        )
    descriptor = describe(manifest.digest, identity.site)
    key = Cobblestone256Encryptor.generate_key()
    # The offer stands before the body and holds its digest, so the body waits in a nameless file.
    with atomic.file(out) as work, tempfile.TemporaryFile(dir=out.parent) as body:
        body_sha256 = _encrypt(organ, key, descriptor, body)
        offer = Offer(
            exchange=exchange,
            organ_id=manifest.organ_id,
            organ_digest=manifest.digest,
            version=manifest.version,
            donor=identity.site,
            descriptor=descriptor,
            body_sha256=body_sha256,
            body_bytes=body.tell(),
            addressees=tuple(by_fingerprint),
            not_before=moment,
            expires=moment + lifetime_seconds,
            domain=manifest.domain,
            base_weights=manifest.base.weights,
            family=manifest.base.family,
            span=manifest.span,
        )
        signed = sign_offer(offer, identity)
        header = DeliveryHeader(
            offer=signed.envelope.decode(),
            profile=identity.profile,
            wraps={
                fingerprint: _wrap(key, profile, signed)
                for fingerprint, profile in by_fingerprint.items()
            },
        )
        body.seek(0)
        with work.open("wb") as file:
            write_header(header, file)
            shutil.copyfileobj(body, file, CHUNK)
    return signed


def open_sealed(
    path: Path, identity: Identity, root: Root, out: Path, *, now: float | None = None
) -> OpenedOrgan:
    """Verify a sealed organ, decrypt it in quarantine, verify what is inside, then show it.

    Args:
        path: The ``.organ`` file.
        identity: This site.
        root: The federation's root.
        out: New folder for the organ, mode 0700; it appears only after the last check.
        now: Seconds since the epoch.

    Raises:
        OutputExistsError: ``out`` is taken.
        NotAddressedError: The donor did not address it to this identity.
        UnsealError: The wrapped key or the body does not decrypt.
        OfferError: As ``verify_sealed``; or the organ inside is not the one offered.
        FormatError: As ``verify_sealed``; or the body holds anything but an organ's files.
        CertificateError: As ``verify_sealed`` and ``verify_folder``.
        SignatureError: As ``verify_sealed`` and ``verify_folder``.
        OrganError: As ``verify_folder``.
    """
    atomic.refuse_existing(out)
    moment = seconds(now)
    with open_file(path) as file:
        header, signed = verify_file(file, root, now=moment)
        offer = signed.offer
        key = _unwrap(header, signed, identity)
        with atomic.folder(out, mode=0o700) as quarantine:
            unpack(_decrypt(file, key, offer), quarantine, limit=offer.body_bytes)
            organ = verify_folder(quarantine, root, now=moment)
            _check_offered(organ.manifest, offer)
            if organ.site != offer.donor:
                raise OfferError(
                    f"organ inside was signed by {organ.site}, offered by {offer.donor}; refuse it"
                )
    return OpenedOrgan(path=out, manifest=organ.manifest, signed=signed, proof=_PROOF)


def _addressees(profiles: Sequence[Profile], root: Root, now: int) -> dict[str, Profile]:
    if not 1 <= len(profiles) <= MAX_ADDRESSEES:
        raise OfferError(
            f"{len(profiles)} addressees given, expected 1 to {MAX_ADDRESSEES}; name the sites "
            "that may open the organ"
        )
    found: dict[str, Profile] = {}
    for profile in profiles:
        verify_profile(profile, root, now=now)
        if profile.sealing_fingerprint in found:
            raise OfferError(f"addressee {profile.site} is named twice; name each site once")
        found[profile.sealing_fingerprint] = profile
    return dict(sorted(found.items()))


def _info(signed: SignedOffer) -> bytes:
    return bytes.fromhex(signed.digest)


def _wrap(key: bytes, addressee: Profile, signed: SignedOffer) -> str:
    public_key = sealing_public_key(addressee.sealing_key, addressee.site)
    try:
        return base64.b64encode(SUITE.encrypt(key, public_key, info=_info(signed))).decode()
    except ValueError:  # an X25519 point of low order
        raise CertificateError(
            f"sealing key of {addressee.site} is degenerate; ask {addressee.site} to make new keys"
        ) from None


def _unwrap(header: DeliveryHeader, signed: SignedOffer, identity: Identity) -> bytes:
    wrap = header.wraps.get(identity.profile.sealing_fingerprint)
    if wrap is None:
        raise NotAddressedError(
            f"sealed organ is addressed to {len(header.wraps)} sites, not to {identity.site} with "
            f"its present sealing key; ask {signed.offer.donor} for an offer to this site"
        )
    try:
        key = SUITE.decrypt(unbase64(wrap, "wrapped key"), identity.sealing_key, info=_info(signed))
    except (InvalidTag, ValueError):
        raise UnsealError(
            f"the key wrapped for {identity.site} does not open; get an undamaged copy from the "
            "coordinator, or a new offer from the donor"
        ) from None
    if len(key) != KEY_BYTES:
        raise UnsealError("the wrapped content key has a wrong length; refuse this organ")
    return key


def _encrypt(organ: Path, key: bytes, descriptor: str, body: IO[bytes]) -> str:
    """Write the body and return its SHA-256."""
    encryptor = Cobblestone256Encryptor(key, bytes.fromhex(descriptor))
    hasher = hashlib.sha256()
    for piece in pack(organ):
        data = encryptor.update(piece)
        hasher.update(data)
        body.write(data)
    data = encryptor.finalize()
    hasher.update(data)
    body.write(data)
    return hasher.hexdigest()


def _decrypt(file: BinaryIO, key: bytes, offer: Offer) -> Iterator[bytes]:
    """Yield plaintext; it may be believed only after the last piece, which is checked."""
    decryptor = Cobblestone256Decryptor(key, bytes.fromhex(offer.descriptor))
    try:
        while data := file.read(CHUNK):
            yield decryptor.update(data)
        yield decryptor.finalize()
    except InvalidTag:
        raise UnsealError(
            "body does not decrypt under the wrapped key; refuse it and tell "
            f"{offer.donor}, who signed this offer"
        ) from None


def _check_offered(manifest: Manifest, offer: Offer) -> None:
    found = {
        "digest": (manifest.digest, offer.organ_digest),
        "donor": (manifest.donor, offer.donor),
        "id": (manifest.organ_id, offer.organ_id),
        "version": (manifest.version, offer.version),
        "domain": (manifest.domain, offer.domain),
        "base weights": (manifest.base.weights, offer.base_weights),
        "family": (manifest.base.family, offer.family),
        "span": (manifest.span, offer.span),
    }
    different = [name for name, (inside, offered) in found.items() if inside != offered]
    if different:
        raise OfferError(
            f"organ inside has another {', '.join(different)} than was offered; refuse it and ask "
            f"{offer.donor} why"
        )
