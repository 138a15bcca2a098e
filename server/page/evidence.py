"""Why an offer or a receipt is to be believed: each link from the federation's root, checked."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from not_core import canonical
from not_core.errors import BankError, NotError, SignatureError
from not_core.page.figures import moment, size
from not_core.protocol import RECEIPT_TYPE, Donation, Receipt
from not_core.trust.certificates import seconds
from not_core.trust.federation import Trust, verify_profile
from not_core.trust.offer import Offer, verify_offer
from not_core.trust.profile import Profile
from not_core.trust.statement import verify_statement
from server.home import Coordinator


@dataclass(frozen=True, slots=True)
class Link:
    """One check.

    Attributes:
        what: What is to be checked.
        holds: Whether it holds at this moment; None where nobody has checked it.
        says: What was found, or why it was not checked.
        href: Where more of it is shown, in the page; empty for nowhere.
    """

    what: str
    holds: bool | None
    says: str
    href: str = ""


def of_offer(
    coordinator: Coordinator, offer: Offer, donation: Donation, donor: Profile | None
) -> list[Link]:
    """Links from the root to a sealed organ in the bank."""
    trust = coordinator.trust
    links = _to_site(trust, donor, offer.donor)
    if donor is not None:
        envelope = donation.offer.encode()

        def signed() -> str:
            verify_offer(envelope, donor, trust, lapsed=True)
            return f"ECDSA P-384, over all of the offer, by {offer.donor}"

        links.append(linked("Signature of the offer", signed))
    left = offer.expires - seconds(None)
    words = "holds" if left > 0 else "has expired; its donor makes a new one in the next exchange"
    until = f"{moment(offer.not_before)} to {moment(offer.expires)} UTC, {words}"
    links.append(Link("Dates of the offer", left > 0, until))

    def stored() -> str:
        if coordinator.bank.size(offer.body_sha256) != offer.body_bytes:
            raise BankError("not here, or not whole; the next exchange fetches them")
        known = offer.body_sha256[:12]
        return f"{size(offer.body_bytes)} here; that they are {known} was checked when they came"

    links.append(linked("Sealed bytes", stored))
    return links


def of_receipt(
    coordinator: Coordinator, receipt: Receipt, envelope: bytes, recipient: Profile | None
) -> list[Link]:
    """Links from the root to a receipt."""
    links = _to_site(coordinator.trust, recipient, receipt.recipient)
    if recipient is not None:

        def signed() -> str:
            key = verify_profile(recipient, coordinator.trust)
            payload = verify_statement(envelope, RECEIPT_TYPE, key)
            found = canonical.decode(Receipt, payload, "receipt")
            if found != receipt:
                raise SignatureError(
                    f"{receipt.recipient} has signed something else than is shown here"
                )
            return f"ECDSA P-384, over what is shown here, by {receipt.recipient}"

        links.append(linked("Signature of the receipt", signed))
    return links


def _to_site(trust: Trust, profile: Profile | None, site: str) -> list[Link]:
    root = Link("Root of the federation", True, f"{trust.name}, {trust.fingerprint[:16]}")

    def fresh() -> str:
        trust.revoked.check_fresh(seconds(None), trust.grace)
        return f"number {trust.revoked.number}, next one due {trust.revoked.due_words}"

    listed = linked("Revocation list", fresh)
    if profile is None:
        missing = f"{site} has not enrolled here, so nobody vouches for it"
        return [root, listed, Link("Certificate of the site", False, missing)]

    def certified() -> str:
        verify_profile(profile, trust)
        leaf = x509.load_pem_x509_certificate(profile.certificates[0].encode())
        until = leaf.not_valid_after_utc.timestamp()
        return f"{profile.site}, serial {leaf.serial_number:x}, until {moment(until)} UTC"

    return [root, listed, linked("Certificate of the site", certified)]


def linked(what: str, check: Callable[[], str]) -> Link:
    """A check that says what it found, or raises what is wrong."""
    try:
        return Link(what, True, check())
    except NotError as error:
        return Link(what, False, str(error))
