"""``sign``, ``verify``, ``seal``, ``rewrap`` and ``open``: between organ folders and sites.

Federations are founded, and keys made, by ``organ federation`` and ``organ identity``.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from not_core import atomic
from not_core.errors import OrganError
from not_core.manifest import PROVES, DifferentialPrivacy, Manifest
from not_core.privacy.statement import Recomputed
from not_core.privacy.statement import check as check_statement
from not_core.surgery.organ import claim, read_stored
from not_core.trust import federation, keys, sealing, signing
from not_core.trust.certificates import DAY
from not_core.trust.keys import SEEN, Identity
from not_core.trust.offer import Offer
from not_core.trust.profile import read_profile
from not_core.trust.sealing import Audience, OpenedOrgan
from not_core.trust.seen import Seen
from not_core.verbs.facts import StrPath, table
from not_core.verbs.folders import OrganFolder, SealedFile

BY_HAND = "by-hand"
"""The exchange that an organ is sealed for where none is named."""


@dataclass(frozen=True, slots=True, repr=False)
class Verified:
    """An organ folder whose signature was verified.

    Attributes:
        path: The folder.
        manifest: What the organ says of itself.
        signer: The site that signed it.
        epsilon: What its statement's other numbers come to; None without differential privacy.
        drift: How far it is from its base at most, in norm and in its largest change; None where
            no base was given.
    """

    path: Path
    manifest: Manifest
    signer: str
    epsilon: Recomputed | None
    drift: tuple[float, float] | None

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What the command reports."""
        facts: dict[str, Any] = {
            "organ": str(self.path),
            "digest": self.manifest.digest,
            "signer": self.signer,
            "privacy": self.manifest.privacy.words,
        }
        stated, found = self.manifest.privacy, self.epsilon
        if isinstance(stated, DifferentialPrivacy) and found:
            facts["epsilon"] = {"stated": stated.epsilon, "pld": found.pld, "prv": found.prv}
            facts["note"] = PROVES
        if self.drift:
            norm, peak = self.drift
            facts["drift"] = {"norm": round(norm, 4), "peak": round(peak, 4)}
        return facts


def load_identity(folder: StrPath, passphrase: str | bytes | None = None) -> Identity:
    """Read a site's keys, for ``sign``, ``seal``, ``rewrap`` and ``open``.

    Args:
        folder: Identity folder, made by ``organ identity``.
        passphrase: Of the keys, if they have one. A notebook keeps what is written into it:
            ``getpass.getpass()`` asks instead.

    Raises:
        CertificateError: There is no identity, or it is not admitted or no longer valid.
        KeyFileError: A key is missing, readable by others, or does not open.
    """
    words = passphrase.encode() if isinstance(passphrase, str) else passphrase
    return keys.load(Path(folder), passphrase=words)


def sign(organ: StrPath, identity: Identity) -> OrganFolder:
    """Claim an organ and sign its folder (OpenSSF model signing).

    Raises:
        OrganError: The folder holds no organ, or another site's.
    """
    manifest = claim(Path(organ), identity.site)
    signing.sign_folder(Path(organ), identity)
    return OrganFolder(Path(organ), manifest)


def verify(organ: StrPath, trust: StrPath, *, base: StrPath | None = None) -> Verified | SealedFile:
    """Verify who signed an organ, that nothing was changed since, and that its epsilon adds up.

    Args:
        organ: Signed organ folder, or sealed .organ file, which is not opened.
        trust: The federation's root.pem, federation.crl beside it; or a folder of both.
        base: Model to hold a folder's tensors against.

    Raises:
        CertificateError: The signer's certificate does not chain to the root, or is not valid.
        SignatureError: The organ is not as it was signed.
        OrganError: The folder holds no organ; or a base was given for a sealed one.
        QuarantineError: Its tensors fail a check.
        PrivacyError: It understates its epsilon.
    """
    path = Path(organ)
    believed = federation.load_trust(Path(trust))
    if path.is_file():
        if base is not None:
            raise OrganError("a base is for an organ folder; open the sealed organ first")
        return SealedFile(path, sealing.verify_sealed(path, believed).offer)
    signer = signing.verify_folder(path, believed, seen=Seen(Path(trust) / SEEN).first)
    manifest = read_stored(path).manifest
    stated = manifest.privacy
    recomputed = check_statement(stated) if isinstance(stated, DifferentialPrivacy) else None
    drift = _farthest(path, base) if base is not None else None
    return Verified(path, manifest, signer.site, recomputed, drift)


def seal(
    organ: StrPath,
    identity: Identity,
    to: Sequence[StrPath],
    out: StrPath,
    *,
    exchange: str = BY_HAND,
    days: int = 30,
    hide: bool = False,
    advance: Callable[[int], None] = lambda bytes: None,
) -> SealedFile:
    """Seal an organ so that only the addressees, and this site, can open it.

    Args:
        organ: Organ folder; signed first if it is not yet.
        identity: The donor.
        to: Addressees' .profile files.
        out: Sealed file to write, such as x.organ.
        exchange: Name of the exchange it is for.
        days: How long the offer holds.
        hide: Whether to keep from all others who the addressees are, and how many.
        advance: Told how many bytes were just encrypted.

    Raises:
        OutputExistsError: ``out`` is taken.
        CertificateError: This site's or an addressee's profile does not verify.
        OrganError: The folder holds no organ, or another site's.
        SignatureError: The folder changed since it was signed.
        OfferError: No addressee, one named twice, or too many.
    """
    atomic.refuse_existing(Path(out))
    audience, folder = _audience(identity, to, exchange, days, hide), Path(organ)
    read_stored(folder)
    claim(folder, identity.site)
    if not (folder / signing.SIGNATURE).exists():
        signing.sign_folder(folder, identity)
    signed = sealing.seal(folder, identity, audience, Path(out), advance=advance)
    return _sealed(Path(out), signed.offer, audience)


def rewrap(
    sealed: StrPath,
    identity: Identity,
    to: Sequence[StrPath],
    out: StrPath,
    *,
    exchange: str = BY_HAND,
    days: int = 30,
    hide: bool = False,
) -> SealedFile:
    """Offer what is sealed to others, or for longer: a new offer, the same encrypted body.

    Args:
        sealed: Sealed .organ file that this site made.
        identity: The donor.
        to: As for ``seal`` are the others.
        out: Sealed file to write.
        exchange: Name of the exchange it is for.
        days: How long the offer holds.
        hide: Whether to keep from all others who the addressees are.

    Raises:
        OutputExistsError: ``out`` is taken.
        OfferError: Another site's organ, or as ``seal`` for the addressees.
        CertificateError: This site's or an addressee's profile does not verify.
        NotAddressedError: It was sealed with keys that this site has no more.
    """
    atomic.refuse_existing(Path(out))
    audience = _audience(identity, to, exchange, days, hide)
    signed = sealing.rewrap(Path(sealed), identity, audience, Path(out))
    return _sealed(Path(out), signed.offer, audience)


def open(
    sealed: StrPath,
    identity: Identity,
    out: StrPath,
    *,
    exchange: str | None = None,
    advance: Callable[[int], None] = lambda bytes: None,
) -> OpenedOrgan:
    """Verify a sealed organ that is addressed to this identity, and open it into a new folder.

    Args:
        sealed: Sealed .organ file.
        identity: The addressee.
        out: Folder to make.
        exchange: Exchange that it must be for; None for any.
        advance: Told how many bytes were just decrypted.

    Raises:
        OutputExistsError: ``out`` is taken.
        NotAddressedError: The donor did not address it to this identity.
        UnsealError: The wrapped key or the body does not decrypt.
        OfferError: The offer does not hold, or the organ inside is not the one offered.
        RollbackError: A later version was opened before.
        CertificateError: The donor's certificate does not verify.
        SignatureError: Offer or organ is not as it was signed.
    """
    return sealing.open_sealed(
        Path(sealed), identity, Path(out), exchange=exchange, advance=advance
    )


def _audience(
    identity: Identity, to: Sequence[StrPath], exchange: str, days: int, hide: bool
) -> Audience:
    """For whom; all that can refuse does so before a folder is claimed or signed."""
    addressees = [read_profile(Path(path)) for path in to]
    for one in (identity.profile, *addressees):
        federation.verify_profile(one, identity.trust)
    return Audience(
        addressees=addressees, exchange=exchange, lifetime_seconds=days * DAY, hide=hide
    )


def _sealed(out: Path, offer: Offer, audience: Audience) -> SealedFile:
    return SealedFile(out, offer, tuple(one.site for one in audience.addressees))


def _farthest(organ: Path, base: StrPath) -> tuple[float, float]:
    """How far an organ that passes quarantine is from its base, at most."""
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.quarantine import Bounds, admit, drifts

    host = open_checkpoint(os.fspath(base))
    found = [*drifts(admit(organ, host, Bounds()), host)]
    return max(one.norm for one in found), max(one.peak for one in found)
