"""The air gap: organs that people carry, by the same checks as those that Flower carries."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from client import donor, recipient
from client.home import Site, alone
from client.policy import check_addressees, check_release
from not_core import atomic, canonical
from not_core.protocol import (
    SEGMENT_BYTES,
    DeliverRequest,
    Receipt,
    TransplantRequest,
)
from not_core.trust import sealing
from not_core.trust.certificates import DAY
from not_core.trust.federation import verify_profile
from not_core.trust.offer import SignedOffer
from not_core.trust.profile import Profile
from not_core.trust.statement import claimed_payload


def offer(
    site: Site, organ: str, addressees: Sequence[Profile], exchange: str, days: int, out: Path
) -> SignedOffer:
    """Seal an organ that may leave into a file to carry; logged before it is there.

    Args:
        site: The donor.
        organ: Digest of an organ that it made.
        addressees: Who may open it; each is verified.
        exchange: Name of the exchange it is for.
        days: How long the offer holds.
        out: File to write.

    Raises:
        HomeError: A task of the site is at work.
        ApprovalError: The operator has not approved the organ, or has rejected it.
        PolicyError: An addressee is not one of the policy's.
        NotError: It cannot be sealed.
    """
    atomic.refuse_existing(out)
    for profile in addressees:
        verify_profile(profile, site.trust)
    check_addressees(site.policy, addressees)
    check_release(site.policy, site.log, organ)
    terms = sealing.Audience(addressees=addressees, exchange=exchange, lifetime_seconds=days * DAY)
    with alone(site.folder):
        signed, sealed = donor.seal(site, organ, terms)
    site.log.append(
        "released",
        what="sealed organ",
        digest=canonical.sha256_file(sealed),
        size=sealed.stat().st_size,
        exchange=exchange,
    )
    with atomic.file(out) as work:
        shutil.copyfile(sealed, work)
    return signed


def receive(site: Site, path: Path, mode: Literal["replace", "insert"]) -> tuple[Receipt, bytes]:
    """Take in a sealed organ that somebody brought, try it, judge it, and sign a receipt.

    Args:
        site: The recipient.
        path: The ``.organ`` file.
        mode: How it is put in.

    Returns:
        The receipt, and the envelope that this site signed.

    Raises:
        HomeError: A task of the site is at work.
        NotError: As if the coordinator had delivered it.
    """
    with alone(site.folder):
        return _received(site, path, mode)


def _received(site: Site, path: Path, mode: Literal["replace", "insert"]) -> tuple[Receipt, bytes]:
    offered = sealing.verify_sealed(path, site.trust).offer
    size, digest = path.stat().st_size, canonical.sha256_file(path)
    with path.open("rb") as file:
        for offset in range(0, size, SEGMENT_BYTES):
            request = DeliverRequest(
                exchange=offered.exchange,
                organ=offered.organ_digest,
                offset=offset,
                sealed_bytes=size,
                sealed_sha256=digest,
            )
            recipient.deliver(site, request, file.read(SEGMENT_BYTES))
    asked = TransplantRequest(exchange=offered.exchange, organ=offered.organ_digest, mode=mode)
    trial, _ = recipient.transplant(site, asked, b"")
    envelope = trial.receipt.encode()
    return canonical.decode(Receipt, claimed_payload(envelope), "receipt"), envelope
