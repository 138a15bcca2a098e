"""Sealing a signed organ to named sites, and opening what is addressed to this one.

Only opening makes an ``OpenedOrgan``, and only an ``OpenedOrgan`` is transplanted at a site: having
one means that every check of this package has passed. A site that has checks of its own opens with
``open_unremembered``, and calls ``remember`` after the last of them.

The body is ``archive``'s tar through Cobblestone-256 (C2SP chunked encryption) under a fresh key,
with the body descriptor's digest (32 bytes) as context. The key goes to the donor itself, too, so
that it can ``rewrap`` what it has sealed. Memory does not grow with the organ in either direction.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from not_core import atomic, canonical
from not_core.errors import CertificateError, OfferError, UnsealError
from not_core.manifest import Manifest
from not_core.trust import addressees as slots
from not_core.trust.archive import CHUNK, pack, unpack
from not_core.trust.certificates import DAY, check_name, seconds
from not_core.trust.delivery import (
    DeliveryHeader,
    open_file,
    read_header,
    verify_file,
    verify_sealed,
    write_header,
)
from not_core.trust.federation import verify_profile
from not_core.trust.keys import SEEN, Identity
from not_core.trust.offer import UNWRAPPED, Offer, SignedOffer, describe, sign_offer
from not_core.trust.profile import Profile
from not_core.trust.seen import Seen
from not_core.trust.signing import verify_folder

__all__ = [
    "Audience",
    "DeliveryHeader",
    "OpenedOrgan",
    "open_sealed",
    "open_unremembered",
    "read_header",
    "remember",
    "rewrap",
    "seal",
    "verify_sealed",
]

LIFETIME = 30 * DAY
"""How long an offer holds if nobody says otherwise, in seconds."""

_PROOF = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedOrgan:
    """An organ that this site was sent, in a folder whose every byte has been verified.

    Attributes:
        path: The folder.
        manifest: Of the organ.
        signed: The offer under which it came, with its donor's profile.
        statement: Digest of what the organ's signer signed.
        moment: When all this was verified, in seconds since the epoch.
    """

    path: Path
    manifest: Manifest
    signed: SignedOffer
    statement: str
    moment: int
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only opening makes an OpenedOrgan")

    def __repr__(self) -> str:
        found = self.manifest
        return f"{found.organ_id} version {found.version}, {found.digest[:12]}, in {self.path}"

    @property
    def offer(self) -> Offer:
        """The offer under which it came."""
        return self.signed.offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """For whom, for what and for how long a body is offered.

    Attributes:
        addressees: Profiles of the sites that may open it; each is verified. The donor always may.
        exchange: Name of the exchange that it is for.
        lifetime_seconds: How long the offer holds.
        hide: Whether the offer keeps from all others who the addressees are, and how many.
    """

    addressees: Sequence[Profile]
    exchange: str
    lifetime_seconds: int = LIFETIME
    hide: bool = False


def seal(
    organ: Path,
    identity: Identity,
    audience: Audience,
    out: Path,
    *,
    now: float | None = None,
    advance: Callable[[int], None] = lambda size: None,
) -> SignedOffer:
    """Seal a folder that this site has signed.

    Args:
        organ: Signed organ folder.
        identity: The donor, who signed it.
        audience: For whom.
        out: The ``.organ`` file; it must not exist.
        now: Seconds since the epoch.
        advance: Told of bytes as they are encrypted.

    Returns:
        The signed offer.

    Raises:
        OutputExistsError: ``out`` is taken.
        CertificateError: This site's or an addressee's profile does not verify, or the folder was
            signed with another key.
        OrganError: The folder is incomplete, or another donor's.
        SignatureError: The folder changed since it was signed.
        OfferError: No addressee, one named twice, or more than ``MAX_ADDRESSEES`` with the donor.
    """
    atomic.refuse_existing(out)
    moment = seconds(now)
    readers = _readers(identity, audience, moment)
    own_key = verify_profile(identity.profile, identity.trust, now=moment)
    organ_signed = verify_folder(organ, identity.trust, now=moment)
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
        body_sha256 = _encrypt(organ, key, descriptor, body, advance)
        draft = Offer(
            federation=identity.trust.fingerprint,
            exchange=audience.exchange,
            organ_id=manifest.organ_id,
            organ_digest=manifest.digest,
            version=manifest.version,
            donor=identity.site,
            descriptor=descriptor,
            body_sha256=body_sha256,
            body_bytes=body.tell(),
            addressees=tuple(sorted(readers)),
            wraps_sha256=UNWRAPPED,
            not_before=moment,
            expires=moment + audience.lifetime_seconds,
            domain=manifest.domain,
            base_weights=manifest.base.weights,
            family=manifest.base.family,
            span=manifest.span,
        )
        body.seek(0)
        return _write(draft, key, identity, readers, audience, body, work)


def rewrap(
    sealed: Path, identity: Identity, audience: Audience, out: Path, *, now: float | None = None
) -> SignedOffer:
    """Offer a sealed body to others, or for longer: a new offer and new wraps, the same body.

    Args:
        sealed: A ``.organ`` file of this site's own; its offer may have expired.
        identity: The donor.
        audience: For whom.
        out: The new ``.organ`` file; it must not exist.
        now: Seconds since the epoch.

    Returns:
        The new offer.

    Raises:
        OutputExistsError: ``out`` is taken.
        OfferError: Another site's organ, or as ``seal`` for the addressees.
        FormatError: As ``verify_sealed``.
        CertificateError: This site's or an addressee's profile does not verify, or the one that it
            was sealed under no longer does: then seal the organ anew.
        SignatureError: The offer is not this site's.
        UnsealError: Its own wrap does not open.
        NotAddressedError: It was sealed with keys that this site has no more.
    """
    atomic.refuse_existing(out)
    moment = seconds(now)
    readers = _readers(identity, audience, moment)
    verify_profile(identity.profile, identity.trust, now=moment)
    with open_file(sealed) as file:
        header, signed = verify_file(file, identity.trust, now=moment, lapsed=True)
        if signed.offer.donor != identity.site:
            raise OfferError(
                f"sealed organ was offered by {signed.offer.donor}, this identity is "
                f"{identity.site}; only its donor can offer an organ to others"
            )
        key = slots.unwrapped(header.wraps, signed.offer, identity.site, identity.sealing_keys)
        draft = replace(
            signed.offer,
            exchange=audience.exchange,
            addressees=tuple(sorted(readers)),
            hidden=None,
            not_before=moment,
            expires=moment + audience.lifetime_seconds,
        )
        with atomic.file(out) as work:
            return _write(draft, key, identity, readers, audience, file, work)


def open_sealed(
    path: Path,
    identity: Identity,
    out: Path,
    *,
    exchange: str | None = None,
    now: float | None = None,
    advance: Callable[[int], None] = lambda size: None,
) -> OpenedOrgan:
    """Verify a sealed organ, decrypt it in quarantine, verify what is inside, then show it.

    What was opened is remembered in the identity's folder, after the last check: no older version
    of that organ is opened later, not even one that was opened before.

    Args and errors are those of ``open_unremembered``; ``advance`` is told of bytes decrypted.
    """
    return _open(path, identity, out, exchange, now, remembering=True, advance=advance)


def open_unremembered(
    path: Path,
    identity: Identity,
    out: Path,
    *,
    exchange: str | None = None,
    now: float | None = None,
) -> OpenedOrgan:
    """Do as ``open_sealed`` for who has checks of its own, and calls ``remember`` after them.

    Until then an organ that fails them does not keep older ones, which may be good, from opening.

    Args:
        path: The ``.organ`` file.
        identity: This site.
        out: New folder for the organ, mode 0700; it appears only after the last check.
        exchange: The exchange that it must be for; None for any.
        now: Seconds since the epoch.

    Raises:
        OutputExistsError: ``out`` is taken.
        NotAddressedError: The donor did not address it to this identity.
        UnsealError: The wrapped key or the body does not decrypt.
        OfferError: As ``verify_sealed``; or the organ inside is not the one offered.
        RollbackError: A later version, or another organ of the same one, was opened before.
        FormatError: As ``verify_sealed``; or the body holds anything but an organ's files.
        CertificateError: As ``verify_sealed`` and ``verify_folder``.
        SignatureError: As ``verify_sealed`` and ``verify_folder``.
        OrganError: As ``verify_folder``.
    """
    return _open(path, identity, out, exchange, now, remembering=False)


def remember(opened: OpenedOrgan, identity: Identity) -> None:
    """Remember an organ that was opened: no older version of it is opened any more.

    Args:
        opened: By ``open_unremembered``.
        identity: Who opened it.

    Raises:
        RollbackError: A later version was remembered meanwhile.
    """
    revoked = identity.trust.revoked
    Seen(identity.folder / SEEN).commit(opened.signed, opened.statement, opened.moment, revoked)


def _open(
    path: Path,
    identity: Identity,
    out: Path,
    exchange: str | None,
    now: float | None,
    *,
    remembering: bool,
    advance: Callable[[int], None] = lambda size: None,
) -> OpenedOrgan:
    atomic.refuse_existing(out)
    moment = seconds(now)
    seen = Seen(identity.folder / SEEN)
    with open_file(path) as file:
        header, signed = verify_file(file, identity.trust, now=moment, exchange=exchange)
        offer = signed.offer
        seen.check(offer, identity.trust.revoked)
        key = slots.unwrapped(header.wraps, signed.offer, identity.site, identity.sealing_keys)
        with atomic.folder(out, mode=0o700) as quarantine:
            unpack(_told(_decrypt(file, key, offer), advance), quarantine, limit=offer.body_bytes)
            organ = verify_folder(quarantine, identity.trust, now=moment, seen=seen.first)
            check_offered(organ.manifest, offer)
            opened = OpenedOrgan(
                path=out,
                manifest=organ.manifest,
                signed=signed,
                statement=organ.statement,
                moment=moment,
                proof=_PROOF,
            )
            if remembering:
                remember(opened, identity)
    return opened


def _readers(identity: Identity, audience: Audience, moment: int) -> dict[str, Profile]:
    """Who may open, by sealing fingerprint: the addressees, and the donor itself."""
    if audience.lifetime_seconds < 1:
        raise ValueError(f"expected lifetime_seconds >= 1, got {audience.lifetime_seconds}")
    check_name(audience.exchange, "exchange name")
    slots.check_number(audience.addressees, identity.profile)
    others = slots.verified(audience.addressees, identity.trust, moment)
    return others | {identity.profile.sealing_fingerprint: identity.profile}


def _write(
    draft: Offer,
    key: bytes,
    identity: Identity,
    readers: Mapping[str, Profile],
    audience: Audience,
    body: IO[bytes],
    out: Path,
) -> SignedOffer:
    """Sign an offer of a body, wrap its key for all who may read it, and write all to a file."""
    nonce = os.urandom(32).hex() if audience.hide else None
    named = slots.named(key, nonce, readers)
    names = slots.padded(tuple(named), nonce)
    offer = replace(draft, addressees=names, hidden=nonce, wraps_sha256=UNWRAPPED)
    wraps = slots.wrapped(key, offer, named)
    complete = replace(offer, wraps_sha256=canonical.digest(wraps))
    signed = sign_offer(complete, identity, tuple(readers.values()))
    header = DeliveryHeader(offer=signed.envelope.decode(), profile=identity.profile, wraps=wraps)
    with out.open("wb") as file:
        write_header(header, file)
        shutil.copyfileobj(body, file, CHUNK)
    return signed


def _encrypt(
    organ: Path, key: bytes, descriptor: str, body: IO[bytes], advance: Callable[[int], None]
) -> str:
    """Write the body and return its SHA-256."""
    encryptor = Cobblestone256Encryptor(key, bytes.fromhex(descriptor))
    hasher = hashlib.sha256()
    for piece in _told(pack(organ), advance):
        data = encryptor.update(piece)
        hasher.update(data)
        body.write(data)
    data = encryptor.finalize()
    hasher.update(data)
    body.write(data)
    return hasher.hexdigest()


def _told(pieces: Iterable[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    """Pieces as they come, and their sizes to who waits."""
    for piece in pieces:
        advance(len(piece))
        yield piece


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


def check_offered(manifest: Manifest, offer: Offer) -> None:
    """Check that an organ is the offered one; its manifest's donor has signed it.

    Raises:
        OfferError: It is another.
    """
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
