"""What a site's signing agent signs: statements of known types that the site's rules let out.

Whoever asks is not believed. What a statement says is held against what the site's operator wrote
or did (settings, policy, approvals in the log), against the federation, and against the organ's
folder. What an organ's tensors are is the manifest's business, whose digest was approved: their
bytes are compared with it where the organ is taken in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from client import witness
from client.home import Site
from client.policy import check_addressees, check_release, decided, trial_of
from client.reveals import DIGITS
from not_core import canonical
from not_core.errors import FormatError, LogError, OfferError, OrganError, PolicyError
from not_core.learning.verdict import explains
from not_core.manifest import CARD, Manifest
from not_core.protocol import ENROLMENT_TYPE, RECEIPT_TYPE, Enrolment, Receipt
from not_core.surgery.card import card
from not_core.surgery.organ import read_manifest
from not_core.trust.certificates import TOLERANCE, seconds
from not_core.trust.federation import verify_profile
from not_core.trust.offer import OFFER_TYPE, Offer
from not_core.trust.profile import Profile
from not_core.trust.sealing import LIFETIME, check_offered
from not_core.trust.signing import STATEMENT_TYPE, claimed_organ, statement_of, verify_folder
from not_core.trust.tree_head import COSIGNATURE_TYPE, Cosignature

SIGNED = "signed"
"""Event of the log: the agent has signed this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the log will say of a signature.

    Attributes:
        what: What is signed.
        digest: SHA-256 of the organ that it is about, or else of the statement.
        exchange: What for; empty where it is for none.
    """

    what: str
    digest: str
    exchange: str = ""


def check(site: Site, payload: bytes, payload_type: str, addressees: Sequence[Profile]) -> Entry:
    """Check that a site may sign a statement now.

    Args:
        site: With settings, policy and revocation list as they are now.
        payload: The statement.
        payload_type: What it is said to be.
        addressees: Profiles of those whom an offer names, believed by nobody yet.

    Raises:
        NotError: It may not.
    """
    rule = RULES.get(payload_type)
    if rule is None:
        raise FormatError("a statement of a type that the signing agent does not sign")
    return rule(site, payload, addressees)


def _organ(site: Site, payload: bytes, addressees: Sequence[Profile]) -> Entry:
    """An organ folder of the site's own, whose manifest was approved."""
    digest = claimed_organ(payload)
    folder = site.store.made(digest)
    manifest = _released(site, digest)
    if canonical.encode(statement_of(folder, manifest)) != payload:
        raise OrganError("the statement is not of the files of that organ, as they are now")
    if canonical.read_bounded(folder / CARD) != card(manifest).encode():
        raise OrganError("the organ's card is not the one that follows from its manifest")
    return Entry(what="organ", digest=digest)


def _offer(site: Site, payload: bytes, addressees: Sequence[Profile]) -> Entry:
    """An offer of an organ that the site has signed, to members whom the policy names."""
    offer = canonical.decode(Offer, payload, "offer")
    manifest = _released(site, offer.organ_digest)
    signed = verify_folder(site.store.made(offer.organ_digest), site.trust)
    if signed.public_key != site.identity.signing_key.public_key():
        raise OfferError("the organ is not signed with this site's present key")
    check_offered(manifest, offer)
    if offer.federation != site.trust.fingerprint:
        raise OfferError("the offer is for another federation than this site's")
    now = seconds(None)
    if abs(offer.not_before - now) > TOLERANCE or offer.expires > now + LIFETIME + TOLERANCE:
        raise OfferError(f"the offer does not begin now, or lasts more than {LIFETIME} seconds")
    others = [one for one in addressees if one != site.identity.profile]
    for profile in addressees:
        verify_profile(profile, site.trust)
    check_addressees(site.policy, others)
    known = {one.sealing_fingerprint for one in (*others, site.identity.profile)}
    if offer.hidden is not None or set(offer.addressees) != known:
        raise OfferError("the offer names keys without the profiles that they belong to")
    return Entry(what="offer", digest=offer.organ_digest, exchange=offer.exchange)


def _enrolment(site: Site, payload: bytes, addressees: Sequence[Profile]) -> Entry:
    """Who the site is; what its model is the asking process says, and who asked compares it."""
    said = canonical.decode(Enrolment, payload, "enrolment")
    expected = (site.identity.profile, site.settings.domain, site.settings.donates)
    if (said.profile, said.domain, said.donates) != expected:
        raise PolicyError("the enrolment is another site's, or says other things than site.toml")
    return Entry(what="enrolment", digest=canonical.sha256(payload), exchange=said.exchange)


def _receipt(site: Site, payload: bytes, addressees: Sequence[Profile]) -> Entry:
    """Rounded measurements of an organ that came here, or was made here, and a verdict of them."""
    said = canonical.decode(Receipt, payload, "receipt")
    if said.recipient != site.settings.site:
        raise PolicyError("the receipt is another site's")
    if said.documents < site.policy.least_documents:
        raise PolicyError(
            f"the receipt is on {said.documents} documents, the policy reports on no fewer than "
            f"{site.policy.least_documents}"
        )
    values = json.loads(payload)
    for field, digits in DIGITS.items():
        for value in values[field] if field == "interval" else [values[field]]:
            if isinstance(value, int | float) and round(value, digits) != value:
                raise PolicyError(f"{field} of the receipt is not rounded as receipts are")
    if not explains(said.verdict, said.reason):
        raise PolicyError("the reason of the receipt is not one of those that verdicts have")
    if said.donor != site.settings.site:
        _check_tried(site, said)
    elif not site.store.made(said.organ).is_dir():
        raise OrganError("the receipt is on an organ that this site has not made")
    return Entry(what=_receipt_on(said.donor), digest=said.organ, exchange=said.exchange)


def _cosignature(site: Site, payload: bytes, addressees: Sequence[Profile]) -> Entry:
    """The tree head that came last, which continues those before it."""
    said = canonical.decode(Cosignature, payload, "cosignature")
    shown = witness.latest_checked(site.folder, site.trust)
    if (said.site, said.head) != (site.settings.site, shown):
        raise LogError("the cosignature is another site's, or not of the tree head that came last")
    return Entry(what="cosignature", digest=canonical.sha256(payload))


def _check_tried(site: Site, said: Receipt) -> None:
    """Check that an organ was tried here as this donor's, who was not answered too often.

    Raises:
        OrganError: It was not.
        PolicyError: It has.
    """
    if said.organ not in {one.digest for one in site.log.entries(trial_of(said.donor))}:
        raise OrganError("the receipt is on an organ that was not tried here as that donor's")
    on = {one.digest for one in site.log.entries(_receipt_on(said.donor)) if one.event == SIGNED}
    if len(on | {said.organ}) > site.policy.most_trials:
        raise PolicyError(
            f"receipts on {len(on)} organs of {said.donor} were signed, the policy allows "
            f"{site.policy.most_trials}"
        )


def _receipt_on(donor: str) -> str:
    return f"receipt on {donor}"


def _released(site: Site, digest: str) -> Manifest:
    """The manifest of an organ that this site made and that may leave.

    One that no operator has seen says nothing in words but what the settings say.

    Raises:
        OrganError: There is none, or its folder holds another.
        PolicyError: It may not leave.
    """
    manifest = read_manifest(site.store.made(digest))
    settings = site.settings
    if manifest.digest != digest or manifest.donor != settings.site:
        raise OrganError("the organ's folder does not hold that organ of this site's")
    check_release(site.policy, site.log, digest)
    label = (manifest.name, manifest.domain, manifest.licence)
    wanted = (settings.organ_name, settings.domain, settings.licence)
    if label != wanted and decided(site.log, digest) != "approved":
        raise PolicyError("the organ has another label than site.toml, and nobody approved it")
    return manifest


Rule = Callable[[Site, bytes, Sequence[Profile]], Entry]
RULES: Mapping[str, Rule] = {
    STATEMENT_TYPE: _organ,
    OFFER_TYPE: _offer,
    ENROLMENT_TYPE: _enrolment,
    RECEIPT_TYPE: _receipt,
    COSIGNATURE_TYPE: _cosignature,
}
"""By payload type; nothing else is signed."""
