"""What a coordinator holds: each organ once, with the exchanges that it was offered in."""

from dataclasses import dataclass
from pathlib import Path

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.protocol import Donation
from not_core.trust.offer import Offer, peek_offer
from server.bank import chunks
from server.counts import Tried
from server.home import Coordinator


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """An organ at the coordinator.

    Attributes:
        offer: The last of its offers.
        donation: What its donor said of it with that offer.
        exchanges: Names, in order.
        stored: Bytes of it in the bank; 0 while it is on its way.
        tried: What became of it at other sites.
    """

    offer: Offer
    donation: Donation
    exchanges: tuple[str, ...]
    stored: int
    tried: Tried

    @property
    def row(self) -> dict[str, str | int]:
        """As it is listed."""
        return {
            "organ": self.offer.organ_digest,
            "donor": self.offer.donor,
            "id": self.offer.organ_id,
            "domain": self.offer.domain,
            "span": str(self.offer.span),
            "privacy": self.donation.privacy,
            "stored": self.stored,
            "exchanges": ", ".join(self.exchanges),
            "accepted": f"{self.tried.accepted} of {self.tried.sites}",
        }


def holdings(coordinator: Coordinator) -> list[Holding]:
    """All organs of all exchanges, by donor."""
    catalogue = coordinator.catalogue
    stored, tried = catalogue.stored(), catalogue.counts.tried()
    found: dict[str, Holding] = {}
    for exchange in catalogue.exchanges():
        for organ, _, donation in catalogue.donations(exchange):
            offer, before = peek_offer(donation.offer.encode()), found.get(organ)
            found[organ] = Holding(
                offer=offer,
                donation=donation,
                exchanges=(*(before.exchanges if before else ()), exchange),
                stored=stored.get(organ, 0),
                tried=tried.get(organ, Tried()),
            )
    return sorted(found.values(), key=lambda one: (one.offer.donor, one.offer.version))


def export(coordinator: Coordinator, start: str, exchange: str, out: Path) -> str:
    """Write a sealed organ to a file, for a site that no network reaches.

    Args:
        coordinator: Whose.
        start: The first digits of its digest, of no other's.
        exchange: Name of the exchange, whose addressees may open it.
        out: The ``.organ`` file to write.

    Returns:
        Its digest.

    Raises:
        OutputExistsError: ``out`` is taken.
        ExchangeError: No such organ, or several, or not in that exchange, or still on its way.
        BankError: The bank cannot be used.
    """
    atomic.refuse_existing(out)
    organ = _found(coordinator, start)
    for kept in coordinator.catalogue.organs(exchange):
        if kept.organ == organ and kept.header is not None:
            offer = peek_offer(kept.donation.offer.encode())
            with atomic.file(out) as work, work.open("wb") as file:
                file.write(kept.header)
                file.writelines(chunks(coordinator.bank, offer.body_sha256))
            return organ
    raise ExchangeError(
        f"no organ {organ[:12]} has come whole in exchange {exchange}; see organ-coordinator organs"
    )


def forget(coordinator: Coordinator, start: str) -> str:
    """Remove an organ from bank and catalogue; what is cut off is completed by doing so again.

    Args:
        coordinator: Whose.
        start: The first digits of its digest, of no other's.

    Returns:
        Its digest.

    Raises:
        ExchangeError: No such organ, or several.
        BankError: The bank cannot be used.
    """
    organ = _found(coordinator, start)
    for body in coordinator.catalogue.bodies(organ):  # which only the catalogue names
        coordinator.bank.remove(body)
    coordinator.catalogue.forget(organ)
    return organ


def _found(coordinator: Coordinator, start: str) -> str:
    digests = [one.offer.organ_digest for one in holdings(coordinator)]
    matching = [digest for digest in digests if digest.startswith(start)]
    if len(matching) != 1:
        raise ExchangeError(
            f"{len(matching)} organs begin with these digits, expected one; "
            "see organ-coordinator organs"
        )
    return matching[0]
