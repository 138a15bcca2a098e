"""What sites claim, checked as far as it can be checked without opening anything.

Functions of values, without state: the exchange decides what to ask, this decides what to believe.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from typing import TypeVar

from not_core import canonical
from not_core.errors import (
    BodyError,
    ExchangeError,
    FormatError,
    OfferError,
    RefusedError,
    SignatureError,
)
from not_core.protocol import (
    ADMISSION_TYPE,
    ENROLMENT_TYPE,
    RECEIPT_TYPE,
    Admission,
    Donation,
    Enrolment,
    EnrolRequest,
    Packet,
    Receipt,
    Refusal,
    TransplantRequest,
    read,
)
from not_core.trust.delivery import HEADER_LIMIT, verify_header
from not_core.trust.federation import Trust, verify_profile
from not_core.trust.offer import Offer, verify_offer
from not_core.trust.profile import Profile
from not_core.trust.statement import claimed_payload, verify_statement
from not_core.trust.tree_head import COSIGNATURE_TYPE, Cosignature, TreeHead

Value = TypeVar("Value")


def reply(packet: Packet, cls: type[Value]) -> Value:
    """Read a reply.

    Raises:
        RefusedError: The site refused.
        FormatError: The reply is malformed.
    """
    if packet.kind == Refusal.__name__:
        raise RefusedError(read(packet, Refusal).code)
    return read(packet, cls)


def enrolment(envelope: bytes, request: EnrolRequest, trust: Trust) -> Enrolment:
    """Read an enrolment that its own site has signed for this request.

    Raises:
        NotError: It is not.
    """
    claimed = canonical.decode(Enrolment, claimed_payload(envelope), "enrolment")
    verify_statement(envelope, ENROLMENT_TYPE, verify_profile(claimed.profile, trust))
    if (claimed.exchange, claimed.nonce) != (request.exchange, request.nonce):
        raise SignatureError(
            f"enrolment of {claimed.profile.site} is for another exchange or nonce, expected an "
            "answer to this request; refuse it: it may be an old one that is played back"
        )
    return claimed


def admission(envelope: bytes, trust: Trust) -> Admission:
    """Read a site's word for its node.

    Raises:
        NotError: No member of the federation has signed it.
    """
    claimed = canonical.decode(Admission, claimed_payload(envelope), "admission")
    verify_statement(envelope, ADMISSION_TYPE, verify_profile(claimed.profile, trust))
    return claimed


def common_base(enrolments: Iterable[Enrolment]) -> str | None:
    """Digest of the base model that most sites have; None where there are no sites.

    Raises:
        ExchangeError: As many sites have another: whom to leave out is the operator's choice.
    """
    bases = Counter(one.base_weights for one in enrolments).most_common(2)
    if len(bases) == 2 and bases[0][1] == bases[1][1]:
        (one, number), (other, _) = bases
        raise ExchangeError(
            f"as many sites ({number}) have the model {one[:12]} as have {other[:12]}; compare the "
            "sites' models, or say who takes part with --site"
        )
    return bases[0][0] if bases else None


def offer(donation: Donation, donor: Profile, trust: Trust, exchange: str, largest: int) -> Offer:
    """Read the offer of a donation.

    Args:
        donation: The donor's reply.
        donor: Its verified profile.
        trust: What is believed.
        exchange: The exchange it must be for.
        largest: Most bytes of a sealed file.

    Raises:
        NotError: Not signed by the donor, for another exchange, or too large.
    """
    made = verify_offer(donation.offer.encode(), donor, trust, exchange=exchange).offer
    most = min(largest, made.body_bytes + 2 * HEADER_LIMIT)
    if not made.body_bytes < donation.sealed_bytes <= most:
        raise OfferError(
            f"sealed organ of {made.donor} would have {donation.sealed_bytes} bytes, its offer and "
            f"this exchange allow {made.body_bytes + 1} to {most}; ask {made.donor} for another"
        )
    return made


def header(data: bytes, donation: Donation, trust: Trust, exchange: str) -> Offer:
    """Read the header of a sealed organ.

    Args:
        data: All that stands before the body.
        donation: What its donor said of it.
        trust: What is believed.
        exchange: The exchange it must be for.

    Returns:
        Its offer.

    Raises:
        NotError: It does not verify, or is not the header that was announced.
    """
    file = BytesIO(data)
    signed = verify_header(file, trust, exchange=exchange)[1]
    if signed.envelope != donation.offer.encode() or file.read(1):
        raise OfferError(
            "sealed organ holds another offer than its donor announced; get it from the donor again"
        )
    return signed.offer


def sealed(header: bytes, body: Iterable[bytes], donation: Donation, offer: Offer) -> None:
    """Check that a verified header and a body make the sealed organ that was announced.

    Raises:
        BodyError: The body is not the one that the header's offer describes.
        OfferError: Together they are not what the donor announced.
    """
    whole, alone, size = hashlib.sha256(header), hashlib.sha256(), 0
    for piece in body:
        whole.update(piece)
        alone.update(piece)
        size += len(piece)
    if (size, alone.hexdigest()) != (offer.body_bytes, offer.body_sha256):
        raise BodyError("body is not the one that its offer describes; get an undamaged copy")
    if whole.hexdigest() != donation.sealed_sha256:
        raise OfferError(
            "sealed organ has other bytes than its donor announced; get it from the donor again"
        )


def receipt(
    envelope: bytes, recipient: Profile, trust: Trust, request: TransplantRequest, offered: Offer
) -> Receipt:
    """Read a receipt.

    Raises:
        NotError: Not signed by the recipient, or for something else than was asked.
    """
    payload = verify_statement(envelope, RECEIPT_TYPE, verify_profile(recipient, trust))
    found = canonical.decode(Receipt, payload, "receipt")
    asked = (request.exchange, request.organ, request.mode, offered.donor, recipient.site)
    if (found.exchange, found.organ, found.mode, found.donor, found.recipient) != asked:
        raise FormatError(
            f"receipt of {recipient.site} is for another exchange, organ, mode, donor or recipient "
            "than was asked; refuse it and ask the site again"
        )
    return found


def cosignature(envelope: bytes, witness: Profile, trust: Trust, head: TreeHead) -> None:
    """Check that a site has signed a tree head of this log.

    Raises:
        NotError: It has not.
    """
    payload = verify_statement(envelope, COSIGNATURE_TYPE, verify_profile(witness, trust))
    found = canonical.decode(Cosignature, payload, "cosignature")
    if (found.site, found.head) != (witness.site, head):
        raise FormatError(
            f"cosignature of {witness.site} is of another tree head than was asked for; refuse it "
            "and ask the site again"
        )
