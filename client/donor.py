"""A site as donor: train an organ; sign and seal it once it may leave; hand out its bytes."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from client import progress
from client.home import Home, Site, informed
from client.policy import (
    Decided,
    check_addressees,
    check_copies,
    check_donation,
    check_made,
    check_release,
    decided,
)
from client.store import Store
from client.training import prepare
from not_core import atomic, canonical
from not_core.errors import (
    CertificateError,
    FormatError,
    NotError,
    OrganError,
    PolicyError,
    SignatureError,
)
from not_core.learning import audit as audits
from not_core.learning.training import TrainedOrgan
from not_core.manifest import CARD, TENSORS, DifferentialPrivacy, Manifest
from not_core.privacy.canaries import Canaries
from not_core.privacy.report import AuditReport
from not_core.privacy.statement import check as check_statement
from not_core.protocol import (
    DonateRequest,
    Donation,
    Segment,
    SegmentRequest,
    Terms,
)
from not_core.surgery import organ as organs
from not_core.surgery.card import card
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.trust import sealing, signing
from not_core.trust.addressees import check_number
from not_core.trust.certificates import seconds
from not_core.trust.delivery import open_file, read_header
from not_core.trust.federation import verify_profile
from not_core.trust.offer import Offer, SignedOffer, peek_offer
from not_core.trust.profile import Profile

Word = Literal["approved", "rejected", "pending", "unasked"]
"""Of an organ that was made: the operator's word, or that it waits for one, or needs none."""

TRAINING = "training"
"""Event of the log: an organ of these terms is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An organ that this site trained, as kept in ``organs/made``."""

    organ: str
    tokens: int
    steps: int
    seconds: float


def donate(site: Site, request: DonateRequest, body: bytes) -> tuple[Donation, bytes]:
    """Train, or find, the organ of these terms; once it may leave, seal it and sign an offer.

    Raises:
        PolicyError: The site gives nothing, or the terms exceed its policy.
        ApprovalError: The operator has not approved the organ yet, or has rejected it, or as many
            others wait as may.
        PrivacyError: The policy's privacy does not suit terms or records.
        LedgerError: The organ would cost more than the policy's epsilon leaves.
        OfferError: More addressees than an offer can name.
        CertificateError: An addressee's profile does not chain to this site's root, or was revoked.
    """
    if not site.settings.donates:
        raise PolicyError("this site gives no organs; set donates = true in site.toml")
    check_number(request.addressees, site.identity.profile)
    for profile in request.addressees:
        verify_profile(profile, site.trust)
    check_donation(site.policy, request)
    made = _make(site, request.terms)
    site = informed(site)  # training takes hours, in which an addressee may have been expelled
    for profile in request.addressees:
        verify_profile(profile, site.trust)
    folder = site.store.made(made.organ)
    report = audit(site, organs.read_manifest(folder))
    if report and report.verdict == "contradicts the claim":
        raise PolicyError(
            f"the audit of organ {made.organ} contradicts the privacy that it states: something in "
            "its training does not do what it says; it does not leave"
        )
    check_release(site.policy, site.log, made.organ)
    terms = sealing.Audience(addressees=request.addressees, exchange=request.exchange)
    signed, sealed = seal(site, made.organ, terms)
    atomic.write(site.store.asked(request.exchange), canonical.encode(request), mode=0o600)
    digest = canonical.sha256_file(sealed)
    donation = Donation(
        offer=signed.envelope.decode(),
        sealed_bytes=sealed.stat().st_size,
        sealed_sha256=digest,
        organ_bytes=(folder / TENSORS).stat().st_size,
        tokens=made.tokens,
        steps=made.steps,
        privacy=organs.read_manifest(folder).privacy.words,
    )
    return donation, b""


def segment(site: Site, request: SegmentRequest, body: bytes) -> tuple[Segment, bytes]:
    """Hand out bytes of a sealed organ that was offered in this exchange.

    Raises:
        OrganError: No such offer, or it holds no longer.
        ApprovalError: The operator has rejected it since.
        CertificateError: An addressee was expelled since.
        PolicyError: The policy does not name an addressee any more.
    """
    sealed = site.store.offered.path(request.exchange, request.organ)
    asked = site.store.asked(request.exchange)
    if sealed.is_file():
        check_release(site.policy, site.log, request.organ)
    if not sealed.is_file() or not asked.is_file():
        raise OrganError("asked for an organ that this site did not offer in this exchange")
    addressees = canonical.decode(
        DonateRequest, canonical.read_bounded(asked), "request"
    ).addressees
    for profile in addressees:
        verify_profile(profile, site.trust)
    check_addressees(site.policy, addressees)
    with open_file(sealed) as file:
        offer = peek_offer(read_header(file).envelope)
        if offer.expires < seconds(None) or not _is_for(offer, site, addressees):
            raise OrganError(
                "asked for an organ whose offer holds no longer; ask for another donation"
            )
        file.seek(request.offset)
        return Segment(organ=request.organ, offset=request.offset), file.read(request.length)


def made_organs(home: Path) -> dict[str, Made]:
    """What this site has trained, by organ digest."""
    notes = (_read_note(path) for path in Store(home).notes())
    return {made.organ: made for made in notes if made}


def notes_of(home: Path, organ: str) -> list[Path]:
    """Files beside an organ that this site has trained: on which terms, and what its audit found.

    Without them and the organ it is trained anew when it is asked for.
    """
    notes = {path: _read_note(path) for path in Store(home).notes()}
    found = [path for path, made in notes.items() if made and made.organ == organ]
    report = audits.beside(Store(home).made(organ))
    return [*found, report] if report.is_file() else found


def audit(site: Home, manifest: Manifest) -> AuditReport | None:
    """What the audit of an organ that this site made found; None where none was made.

    Raises:
        OrganError: The report is not the one that the manifest names.
        FormatError: It cannot be read.
    """
    if manifest.audit is None:
        return None
    kept = audits.beside(site.store.made(manifest.digest))
    return audits.read_report(kept, manifest)


def pending(site: Home) -> list[Manifest]:
    """Organs that were trained and that nobody has approved or rejected yet."""
    return [organs.read_manifest(folder) for folder in _waiting(site)]


def _waiting(site: Home) -> list[Path]:
    """Their folders."""
    return [folder for folder in site.store.all_made() if word(site, folder.name) == "pending"]


def word(site: Home, organ: str) -> Word:
    """What the operator has said last of an organ that this site made."""
    unsaid: Word = "pending" if site.policy.release_organs == "ask" else "unasked"
    return decided(site.log, organ) or unsaid


def decide(site: Home, organ: str, event: Decided) -> None:
    """Let an organ leave, or keep it here, from now on; the last word counts.

    Raises:
        OrganError: The site has made no such organ.
    """
    if organ not in {folder.name for folder in site.store.all_made()}:
        raise OrganError(f"this site has made no organ {organ[:12]}; see organ-site organs")
    if word(site, organ) != event:
        site.log.append(event, what="organ", digest=organ)


@dataclass(frozen=True, slots=True)
class OwnOrgan:
    """An organ that this site trained itself; it is signed when it leaves, and not before."""

    path: Path
    manifest: Manifest


def own_organ(site: Site, digest: str) -> OwnOrgan | None:
    """An organ that this site made itself; None if it made no such organ.

    Raises:
        OrganError: Its folder holds another.
    """
    folder = site.store.made(digest)
    if not folder.is_dir():
        return None
    manifest = organs.read_manifest(folder)
    if manifest.digest != digest or manifest.donor != site.settings.site:
        raise OrganError(f"{folder} does not hold this site's organ of that name; remove it")
    return OwnOrgan(folder, manifest)


def _sign(site: Site, own: OwnOrgan) -> None:
    """Sign an organ of this site's own, unless it is signed with the site's present key.

    Whatever signature is there otherwise: the organ's digest fixes all that is signed.
    """
    with suppress(CertificateError, SignatureError, OrganError):
        found = signing.verify_folder(own.path, site.trust)
        if found.public_key == site.identity.signing_key.public_key():
            return
    organs.read_stored(own.path)
    atomic.write(own.path / CARD, card(own.manifest).encode())
    signing.sign_folder(own.path, site.identity)


def seal(site: Site, organ: str, terms: sealing.Audience) -> tuple[SignedOffer, Path]:
    """Offer an organ that this site made; a body that was sealed before serves again.

    So does an offer to the same addressees, if it holds no longer than asked, and half as long.

    Returns:
        The signed offer, and the sealed file in the home.

    Raises:
        OrganError: The site has made no such organ.
        NotError: It cannot be sealed.
    """
    own = own_organ(site, organ)
    if own is None:
        raise OrganError(f"this site has made no organ {organ}; see organ-site log show")
    _sign(site, own)
    out = site.store.offered.path(terms.exchange, organ)
    if out.is_file():
        with suppress(NotError):
            kept = sealing.verify_sealed(out, site.trust, exchange=terms.exchange)
            left = kept.offer.expires - seconds(None)
            for_them = _is_for(kept.offer, site, terms.addressees)
            if for_them and terms.lifetime_seconds / 2 <= left <= terms.lifetime_seconds:
                return kept, out
    new = site.place(out).with_suffix(".new")
    new.unlink(missing_ok=True)
    kept_bytes = sum(one.stat().st_size for one in site.store.offered.files())
    check_copies(site.policy, kept_bytes + own.path.joinpath(TENSORS).stat().st_size)
    for before in site.store.offered.whole(organ):
        with suppress(NotError):
            signed = sealing.rewrap(before, site.identity, terms, new)
            break
    else:
        signed = sealing.seal(own.path, site.identity, terms, new)
    new.replace(out)
    return signed, out


def _make(site: Site, terms: Terms) -> Made:
    host = open_checkpoint(site.settings.model)
    training = prepare(site, host, terms)
    key = canonical.digest(
        {
            "terms": canonical.plain(canonical.encode(terms), "terms"),
            "base": host.weights_digest,
            "label": [site.settings.organ_name, site.settings.domain, site.settings.licence],
            **training.follows,
        }
    )
    note = site.place(site.store.note(key))
    if note.is_file() and (made := _read_note(note)) and site.store.made(made.organ).is_dir():
        return made
    check_made(site.policy, len(_waiting(site)))
    site.log.append(TRAINING, what="organ", digest=key)
    started = time.monotonic()
    count, work = site.policy.audit_canaries, site.place("work")
    canaries = audits.canaries_for(host, count, work) if count else None
    planted = canaries.to_plant if canaries else ()
    with progress.writer(site, "training", training.tokens) as advance:
        trained = training.run(planted, lambda n, loss: advance(n))
    manifest = _keep(site, host, terms, trained, _version(site, key), canaries)
    made = Made(
        organ=manifest.digest,
        tokens=trained.facts.tokens,
        steps=trained.facts.steps,
        seconds=round(time.monotonic() - started, 1),
    )
    site.log.append("trained", what="organ", digest=made.organ)
    atomic.write(note, json.dumps(asdict(made)).encode(), mode=0o600)
    audits.forget(work)
    trained.finished()
    return made


def _version(site: Site, key: str) -> int:
    """Which of this site's organs this is: the log numbers them, so that none has another's.

    All have one id, whatever their terms: who has opened a later one takes no earlier one.
    """
    begun = (one.digest for one in site.log.entries("organ") if one.event == TRAINING)
    return list(dict.fromkeys(begun)).index(key) + 1


def _keep(
    site: Site,
    host: Checkpoint,
    terms: Terms,
    trained: TrainedOrgan,
    version: int,
    canaries: Canaries | None,
) -> Manifest:
    settings = site.settings
    if isinstance(trained.privacy, DifferentialPrivacy):
        check_statement(trained.privacy)
    label = organs.Label(
        name=settings.organ_name,
        version=version,
        donor=settings.site,
        domain=settings.domain,
        licence=settings.licence,
    )
    manifest = organs.describe(
        host,
        terms.span,
        trained.tensors,
        label,
        training=trained.facts,
        privacy=trained.privacy,
        form="layers" if trained.factors is None else "factors",
    )
    if canaries:
        organ, claim = organs.Organ(manifest, trained.tensors), audits.claimed(manifest)
        report = audits.audited(host, organ, canaries, claim=claim)
        manifest = replace(manifest, audit=report.digest)
        audits.write_report(audits.beside(site.store.made(manifest.digest)), report)
    folder = site.place(site.store.made(manifest.digest))
    if not folder.is_dir():
        # Written beside its place, so that a folder of this name is always whole.
        with atomic.folder(folder, mode=0o700) as work:
            organs.fill(work, trained.tensors, manifest)
    return manifest


def _read_note(path: Path) -> Made | None:
    try:
        return Made(**canonical.plain(path.read_bytes(), path.name))
    except (FormatError, TypeError):
        return None


def _is_for(offer: Offer, site: Site, addressees: Sequence[Profile]) -> bool:
    readers = (site.identity.profile, *addressees)
    return set(offer.addressees) == {one.sealing_fingerprint for one in readers}
