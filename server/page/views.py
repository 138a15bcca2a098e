"""What the coordinator's page shows, read from its home; each look is at what there is by now."""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from not_core.errors import NotError
from not_core.page.figures import count, heat
from not_core.protocol import Donation, Enrolment, Receipt
from not_core.trust.federation import Trust, load_trust, verify_profile
from not_core.trust.offer import Offer, peek_offer
from not_core.trust.profile import Profile
from server import claims
from server.asked import Asked
from server.counts import Counted, Tried
from server.holdings import holdings
from server.home import Coordinator
from server.page import evidence, log
from server.page.evidence import Link
from server.page.log import LogPage, Proof
from server.page.paging import Part, part
from server.page.rows import (
    BankPage,
    Cell,
    ExchangePage,
    ExchangeRow,
    MatrixRow,
    OrganPage,
    OrganRow,
    ReceiptPage,
    SiteRow,
    Wanted,
)
from server.schedule import SCHEDULED, Begun

MOST_EVENTS, MOST_ORGANS, MOST_CELLS = 100, 100, 2000
"""Of a page: events, organs of the bank, and cells of the matrix, in whole rows."""
TINTS = 8
"""Shades of a cell, from none to full."""


class Views:
    """Everything the page shows of one coordinator; each look is at what there is by now."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator, self._catalogue = coordinator, coordinator.catalogue

    def organs(self, wanted: Wanted, page: int = 1) -> BankPage:
        """Organs of all exchanges, each once."""
        rows = [
            _organ(one.exchanges, one.offer, one.donation, one.tried, stored=bool(one.stored))
            for one in holdings(self._coordinator)
        ]
        found = [row for row in rows if wanted.matches(row)]
        shown = part(len(found), page, MOST_ORGANS)
        return BankPage(
            rows=found[shown.start :][: shown.most],
            part=shown,
            found=len(found),
            all=len(rows),
            bases={row.base: row.family for row in rows},
            donors=sorted({row.donor for row in rows}),
        )

    def organ(self, exchange: str, digest: str) -> OrganPage | None:
        """One organ; None where there is none."""
        donation = self._catalogue.donation(exchange, digest)
        if donation is None:
            return None
        offer = peek_offer(donation.offer.encode())
        profiles = self._profiles(exchange)
        names = {one.sealing_fingerprint: site for site, one in profiles.items()}
        return OrganPage(
            row=_organ(
                (exchange,),
                offer,
                donation,
                self._catalogue.counts.tried(exchange).get(digest, Tried()),
                stored=digest in self._catalogue.stored(),
            ),
            offer=offer,
            addressees=[names.get(one, one[:12]) for one in offer.addressees if not offer.hidden],
            links=[
                *evidence.of_offer(self._now(), offer, donation, profiles.get(offer.donor)),
                log.link(self._coordinator, donation.offer.encode()),
            ],
            receipts=self._catalogue.receipts(exchange, [digest]),
        )

    def receipt(self, exchange: str, organ: str, recipient: str, mode: str) -> ReceiptPage | None:
        """One receipt; None where there is none."""
        found = self._catalogue.signed_receipt(exchange, organ, recipient, mode)
        if found is None:
            return None
        receipt, envelope = found
        profile = self._profiles(exchange).get(recipient)
        links = evidence.of_receipt(self._now(), receipt, envelope, profile)
        logged = log.link(self._coordinator, envelope)
        return ReceiptPage(receipt=receipt, links=[*links, logged])

    def exchanges(self) -> list[ExchangeRow]:
        """All exchanges; those that run first, then by when they began."""
        begun = {one.name: one for one in self._catalogue.schedule.begun()}
        names, counted = {*begun, *self._catalogue.exchanges()}, self._catalogue.counts.counted()
        rows = [
            _exchange(name, begun.get(name), counted, self._catalogue.enrolments(name))
            for name in names
        ]
        return sorted(rows, key=lambda row: (not row.runs_now, -row.since, row.name))

    def exchange(self, name: str, page: int = 1) -> ExchangePage | None:
        """One exchange, and so many rows of its matrix; None where there is none."""
        if not self.known(name):
            return None
        begun = {one.name: one for one in self._catalogue.schedule.begun()}
        enrolments = self._catalogue.enrolments(name)
        row = _exchange(name, begun.get(name), self._catalogue.counts.counted(name), enrolments)
        recipients = [one.profile.site for one in enrolments]
        shown = part(row.organs, page, max(1, MOST_CELLS // max(1, len(recipients))))
        return ExchangePage(
            row=row,
            recipients=recipients,
            matrix=self._matrix(name, recipients, shown),
            part=shown,
            events=self._catalogue.events(name, MOST_EVENTS),
            happened=self._catalogue.counts.events(name),
        )

    def known(self, exchange: str) -> bool:
        """Whether there is such an exchange."""
        begun = (one.name for one in self._catalogue.schedule.begun())
        return exchange in {*begun, *self._catalogue.exchanges()}

    def sites(self) -> list[SiteRow]:
        """All sites that took part in an exchange, or have a node here."""
        nodes, contacts = self._catalogue.nodes(), self._catalogue.contacts()
        trust = self._now().trust
        took_part: dict[str, list[tuple[str, Enrolment]]] = {site: [] for site in nodes}
        for name in self._catalogue.exchanges():
            for one in self._catalogue.enrolments(name):
                took_part.setdefault(one.profile.site, []).append((name, one))
        rows = []
        for site, known in sorted(took_part.items()):
            last = known[-1][1] if known else None
            rows.append(
                SiteRow(
                    site=site,
                    domain=last.domain if last else "",
                    family=last.family if last else "",
                    donates=last.donates if last else False,
                    exchanges=[name for name, _ in known],
                    seen=contacts.get(site),
                    node=site in nodes,
                    vouched=_vouched(trust, last, nodes[site][1] if site in nodes else b""),
                )
            )
        return rows

    def log(self, page: int = 1, digits: str = "") -> LogPage:
        """The log as it is now: entries of a page, or on what has a digest that begins so."""
        return log.log_page(self._now(), page, digits)

    def proof(self, number: int) -> Proof | None:
        """That the log holds an entry; None where it has none of that number."""
        return log.proof(self._coordinator, number)

    def _matrix(self, exchange: str, recipients: list[str], shown: Part) -> list[MatrixRow]:
        stored, tried = self._catalogue.stored(), self._catalogue.counts.tried(exchange)
        donations = self._catalogue.donations(exchange, shown.start, shown.most)
        organs = [digest for digest, _, _ in donations]
        failures = self._catalogue.failures(exchange, organs)
        best: dict[tuple[str, str], Receipt] = {}
        for one in self._catalogue.receipts(exchange, organs):
            key = (one.organ, one.recipient)
            if key not in best or one.change < best[key].change:
                best[key] = one
        rows = []
        for digest, _, said in donations:
            offer, became = peek_offer(said.offer.encode()), tried.get(digest, Tried())
            places = [(digest, at) for at in recipients]
            rows.append(
                MatrixRow(
                    organ=_organ((exchange,), offer, said, became, stored=digest in stored),
                    cells=[_cell(best.get(key), failures.get(key, "")) for key in places],
                )
            )
        return rows

    def _profiles(self, exchange: str) -> dict[str, Profile]:
        return {one.profile.site: one.profile for one in self._catalogue.enrolments(exchange)}

    def _now(self) -> Coordinator:
        """The coordinator with the revocation list that is there by now."""
        return replace(self._coordinator, trust=load_trust(self._coordinator.folder))


def _organ(
    exchanges: tuple[str, ...], offer: Offer, donation: Donation, tried: Tried, *, stored: bool
) -> OrganRow:
    return OrganRow(
        exchange=exchanges[-1],
        exchanges=exchanges,
        organ=offer.organ_digest,
        id=offer.organ_id,
        version=offer.version,
        donor=offer.donor,
        domain=offer.domain,
        family=offer.family,
        base=offer.base_weights,
        span=str(offer.span),
        privacy=donation.privacy,
        sealed_bytes=donation.sealed_bytes,
        tokens=donation.tokens,
        steps=donation.steps,
        stored=stored,
        accepted=tried.accepted,
        tried=tried.sites,
    )


def _exchange(
    name: str,
    begun: Begun | None,
    counted: Mapping[str, Counted],
    enrolments: Collection[Enrolment],
) -> ExchangeRow:
    there, sites = counted.get(name, Counted()), len(enrolments)
    donors = sum(one.donates for one in enrolments)
    asked = begun.asked.sites if begun else sites
    expected = max(donors, there.organs)  # while donors train
    steps = asked + 2 * donors + expected * sites + sites
    made = min(sites, asked) + there.organs + there.stored + there.receipts + there.witnesses
    return ExchangeRow(
        name=name,
        state=_state(begun) if begun else "recorded",
        terms=_terms(begun.asked) if begun else "",
        runs=begun.runs if begun else 0,
        since=begun.since if begun else 0.0,
        asked=asked,
        sites=sites,
        donors=donors,
        organs=there.organs,
        stored=there.stored,
        trials=there.organs * sites,
        receipts=there.receipts,
        accepted=there.accepted,
        witnesses=there.witnesses,
        done=min(1.0, made / steps) if sites else 0.0,
    )


def _state(begun: Begun) -> str:
    return SCHEDULED if begun.waits(time.time()) else begun.state


def _vouched(trust: Trust, enrolment: Enrolment | None, admission: bytes) -> Link:
    """Whether the federation vouches for a site that has enrolled, or has a node."""
    what, says = "Certificate of the site", "is vouched for by the federation"
    try:
        if enrolment is None:
            claims.admission(admission, trust)
            return Link(what, True, f"{says}; has not taken part yet")
        verify_profile(enrolment.profile, trust)
    except NotError as error:
        return Link(what, False, str(error))
    return Link(what, True, says)


def _cell(receipt: Receipt | None, code: str) -> Cell | None:
    if receipt is None:
        return Cell(receipt=None, code=code, tint="") if code else None
    warmth = heat(receipt.change)
    side = "worse" if warmth > 0 else "better"
    return Cell(receipt=receipt, code="", tint=f"{side}-{round(TINTS * abs(warmth))}")


def _terms(asked: Asked) -> str:
    form = f"factors of rank {asked.rank}" if asked.rank else "whole"
    return f"layers {asked.span}, {form}; {count(asked.tokens)} tokens a donor; {asked.mode}"
