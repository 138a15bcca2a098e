"""A signed offer: which body, of which organ, from whom, to whom, until when.

Each wrap of the content key is bound to the offer, and the offer to the wraps. Everything here
runs without model_signing and without torch: the coordinator uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from cryptography import x509
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest, Line, Many, Name
from not_core.errors import AudienceError, ExpiredError, NotYetValidError, OfferError
from not_core.manifest import Count, Positive, Span
from not_core.trust.certificates import TOLERANCE, seconds
from not_core.trust.federation import Trust, verify_profile
from not_core.trust.keys import Identity
from not_core.trust.profile import Profile
from not_core.trust.statement import claimed_payload, sign_statement, verify_statement

OFFER_FORMAT: Literal["organ-exchange/offer/v1"] = "organ-exchange/offer/v1"
BODY_FORMAT: Literal["organ-exchange/body/v1"] = "organ-exchange/body/v1"
OFFER_TYPE = "application/vnd.organ-exchange.offer.v1+json"

UNWRAPPED = "0" * 64
"""What stands for the digest of the wraps before there are any."""

MAX_ADDRESSEES = 512
"""So that a delivery header with one wrap each stays under 1 MiB."""


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class BodyDescriptor:
    """What a body is, bound into its encryption: the same for every offer of that body."""

    format: Literal["organ-exchange/body/v1"] = BODY_FORMAT
    organ_digest: Digest
    donor: Name


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Offer:
    """What a donor signs; times are seconds since the epoch, UTC.

    Attributes:
        federation: Fingerprint of the root whose members it is for.
        exchange: The exchange it is for.
        organ_id: Donor and name.
        organ_digest: Digest of the manifest.
        version: Of that organ; a recipient takes no lower one later.
        donor: Who offers.
        descriptor: Digest of the ``BodyDescriptor``.
        body_sha256: Of the encrypted body.
        body_bytes: Its size.
        addressees: Sorted; fingerprints of sealing keys, the donor's own among them, or what
            ``hidden`` makes of them.
        wraps_sha256: Digest of the wrapped content keys by addressee.
        hidden: None, or a nonce: addressees are then tags that only who holds the content key can
            tell from the random ones they stand among (see ``addressees.tag``).
        not_before: First second of it.
        expires: Last second of it.
        domain: As the manifest, for those who must choose before opening, like the rest below;
            ``open_sealed`` checks that they agree.
        base_weights: Digest of the base's weights.
        family: Of the base.
        span: Layers.
    """

    format: Literal["organ-exchange/offer/v1"] = OFFER_FORMAT
    federation: Digest
    exchange: Name
    organ_id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}/[a-z0-9-]{1,63}$")]
    organ_digest: Digest
    version: Positive
    donor: Name
    descriptor: Digest
    body_sha256: Digest
    body_bytes: Positive
    addressees: Annotated[Many[Digest], Field(min_length=1, max_length=MAX_ADDRESSEES)]
    wraps_sha256: Digest
    hidden: Digest | None = None
    not_before: Count
    expires: Count
    domain: Line
    base_weights: Digest
    family: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")]
    span: Span

    def __post_init__(self) -> None:
        if list(self.addressees) != sorted(set(self.addressees)):
            raise ValueError("expected sorted addressees without duplicates")
        if self.not_before >= self.expires:
            raise ValueError("expected not_before < expires")
        if not self.organ_id.startswith(f"{self.donor}/"):
            raise ValueError("expected an organ id that starts with the donor")
        if self.descriptor != describe(self.organ_digest, self.donor):
            raise ValueError("expected the descriptor of this organ digest and donor")

    @property
    def info(self) -> bytes:
        """What each wrap is bound to: digest of the offer, but for that of the wraps; 32 bytes."""
        return bytes.fromhex(canonical.digest(replace(self, wraps_sha256=UNWRAPPED)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOffer:
    """An offer with the exact bytes that were signed and the profile of who signed them."""

    offer: Offer
    envelope: bytes
    profile: Profile

    @property
    def serial(self) -> int:
        """Serial number of the certificate under which it came."""
        return x509.load_pem_x509_certificate(self.profile.certificates[0].encode()).serial_number


def describe(organ_digest: str, donor: str) -> str:
    """Digest of the body descriptor, in hexadecimal; the body's encryption context."""
    return canonical.digest(BodyDescriptor(organ_digest=organ_digest, donor=donor))


def sign_offer(offer: Offer, identity: Identity, addressees: Sequence[Profile] = ()) -> SignedOffer:
    """Sign an offer as its donor.

    Args:
        offer: What is offered.
        identity: Its donor.
        addressees: Who is named in it; a signing agent checks each of them.

    Raises:
        OfferError: ``identity`` is not the donor.
    """
    if offer.donor != identity.site:
        raise OfferError(
            f"offer names donor {offer.donor}, this identity is {identity.site}; a site offers "
            "only its own organs"
        )
    envelope = sign_statement(canonical.encode(offer), OFFER_TYPE, identity, addressees)
    return SignedOffer(offer=offer, envelope=envelope, profile=identity.profile)


def verify_offer(
    envelope: bytes,
    profile: Profile,
    trust: Trust,
    *,
    now: float | None = None,
    exchange: str | None = None,
    lapsed: bool = False,
) -> SignedOffer:
    """Check an offer: its donor's certificate, its signature, its donor, its audience, its dates.

    Clocks may differ by ``TOLERANCE`` seconds.

    Args:
        envelope: The signed statement.
        profile: The donor's profile, from anywhere.
        trust: What is believed.
        now: Seconds since the epoch.
        exchange: The exchange that it must be for; None for any.
        lapsed: Whether an offer that has expired will do.

    Raises:
        CertificateError: The profile does not chain to the root, or was revoked.
        SignatureError: Not signed by that profile's key.
        FormatError: Not a canonical offer.
        OfferError: Another donor than the signer.
        AudienceError: For another federation or exchange.
        ExpiredError: No longer valid.
        NotYetValidError: Not valid yet.
    """
    public_key = verify_profile(profile, trust, now=now)
    payload = verify_statement(envelope, OFFER_TYPE, public_key)
    offer = canonical.decode(Offer, payload, "offer")
    if offer.donor != profile.site:
        raise OfferError(
            f"offer names donor {offer.donor}, its signer is {profile.site}; a site offers only "
            "its own organs, refuse this one"
        )
    if offer.federation != trust.fingerprint:
        raise AudienceError(
            f"offer of {offer.organ_id} is for another federation than {trust.name}; refuse it"
        )
    if exchange is not None and offer.exchange != exchange:
        raise AudienceError(
            f"offer of {offer.organ_id} is for exchange {offer.exchange}, expected {exchange}; "
            f"ask {offer.donor} for an offer in this one"
        )
    moment = seconds(now)
    if moment < offer.not_before - TOLERANCE:
        raise NotYetValidError(
            f"offer of {offer.organ_id} is valid only in {offer.not_before - moment} seconds; "
            "check this machine's clock"
        )
    if moment > offer.expires + TOLERANCE and not lapsed:
        raise ExpiredError(
            f"offer of {offer.organ_id} expired {moment - offer.expires} seconds ago; ask "
            f"{offer.donor} for a new one"
        )
    return SignedOffer(offer=offer, envelope=envelope, profile=profile)


def peek_offer(envelope: bytes) -> Offer:
    """What an offer claims, without verifying it: to show, never to act upon.

    Raises:
        FormatError: Not a canonical offer.
    """
    return canonical.decode(Offer, claimed_payload(envelope), "offer")
