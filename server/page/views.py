"""What the coordinator's page shows, as values: the HTML shows them, ``/api`` hands them out."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from not_core.errors import NotError
from not_core.page.figures import count, heat
from not_core.protocol import Donation, Enrolment, Receipt
from not_core.trust.federation import Trust, load_trust, verify_profile
from not_core.trust.offer import Offer, peek_offer
from not_core.trust.profile import Profile
from server.app import settings
from server.catalogue import RUNNING, UNFINISHED, Begun, Happened
from server.home import Coordinator
from server.page import evidence, log
from server.page.evidence import Link
from server.page.log import LogPage, Proof

MOST_EVENTS = 100
TINTS = 8
"""Shades of a cell, from none to full."""

Privacy = Literal["any", "stated", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganRow:
    """A sealed organ as its donor offers it; nobody here has seen the inside.

    Attributes:
        exchange: Where it was offered.
        organ: Its digest.
        id: Donor and name.
        version: Of that organ.
        donor: Who gave it.
        domain: What it was trained on, in the donor's words.
        family: Of the base.
        base: Digest of the base's weights.
        span: Layers.
        privacy: What the donor states.
        sealed_bytes: Size of the sealed file.
        tokens: It was trained on.
        steps: It was trained for.
        stored: Whether its sealed bytes are in the bank.
        accepted: Other sites that keep it.
        tried: Other sites that tried it.
    """

    exchange: str
    organ: str
    id: str
    version: int
    donor: str
    domain: str
    family: str
    base: str
    span: str
    privacy: str
    sealed_bytes: int
    tokens: int
    steps: int
    stored: bool
    accepted: int
    tried: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganPage:
    """A sealed organ, why its offer is to be believed, and what became of it."""

    row: OrganRow
    offer: Offer
    addressees: list[str]
    links: list[Link]
    receipts: list[Receipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPage:
    """A receipt, and why it is to be believed."""

    receipt: Receipt
    links: list[Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRow:
    """An exchange and how far it is.

    Attributes:
        name: Its name.
        state: ``running``, ``cancelling``, or how it ended; ``recorded`` for one that was carried
            out by a simulation.
        terms: What donors train, in words; empty where nobody here asked for it.
        runs: How often it was started.
        since: When the latest run began; 0 where none has.
        asked: Sites that are waited for.
        sites: Sites that take part.
        donors: Those that give organs.
        organs: That were offered.
        stored: Of them, in the bank.
        trials: Receipts that are expected: all organs at all sites.
        receipts: Receipts that are there.
        accepted: Receipts of other sites' organs that say so.
        done: How much of it is done, from 0 to 1.
    """

    name: str
    state: str
    terms: str
    runs: int
    since: float
    asked: int
    sites: int
    donors: int
    organs: int
    stored: int
    trials: int
    receipts: int
    accepted: int
    done: float

    @property
    def runs_now(self) -> bool:
        """Whether it may still change."""
        return self.state in UNFINISHED

    @property
    def cancellable(self) -> bool:
        """Whether it can be cancelled."""
        return self.state == RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One organ at one recipient.

    Attributes:
        receipt: What came of it.
        tint: ``better-0`` to ``better-8``, or ``worse-1`` to ``worse-8``.
    """

    receipt: Receipt
    tint: str

    @property
    def own(self) -> bool:
        """Whether the donor tried its own organ."""
        return self.receipt.donor == self.receipt.recipient


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One organ at all recipients, in the order of the matrix."""

    organ: OrganRow
    cells: list[Cell | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangePage:
    """An exchange: who takes part, what was found, what happened last."""

    row: ExchangeRow
    recipients: list[str]
    matrix: list[MatrixRow]
    events: list[Happened]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """A site that is known here.

    Attributes:
        site: Its name.
        domain: What its records are about, in its words.
        family: Of its model.
        donates: Whether it gives organs.
        exchanges: In which it took part.
        seen: When it was last heard of, in seconds since the epoch; None where never.
        node: Whether a node of it is let in.
        vouched: Whether the federation vouches for it at this moment, and why not.
    """

    site: str
    domain: str
    family: str
    donates: bool
    exchanges: list[str]
    seen: float | None
    node: bool
    vouched: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which organs are looked for; what is empty does not matter."""

    words: str = ""
    base: str = ""
    donor: str = ""
    privacy: Privacy = "any"

    def matches(self, row: OrganRow) -> bool:
        """Whether an organ is one of them."""
        text = f"{row.id} {row.domain}".lower()
        stated = row.privacy != "none"
        return (
            all(word in text for word in self.words.lower().split())
            and self.base in ("", row.base)
            and self.donor in ("", row.donor)
            and (self.privacy == "any" or stated == (self.privacy == "stated"))
        )


class Views:
    """Everything the page shows of one coordinator; each look is at what there is by now."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator, self._catalogue = coordinator, coordinator.catalogue

    def organs(self, wanted: Wanted | None = None) -> list[OrganRow]:
        """Organs of all exchanges."""
        wanted = wanted or Wanted()
        rows = [
            row
            for name in self._catalogue.exchanges()
            for row in self._organs(name, self._catalogue.receipts(name))
        ]
        return [row for row in rows if wanted.matches(row)]

    def organ(self, exchange: str, digest: str) -> OrganPage | None:
        """One organ; None where there is none."""
        found = {organ: donation for organ, _, donation in self._catalogue.donations(exchange)}
        donation = found.get(digest)
        if donation is None:
            return None
        receipts = [one for one in self._catalogue.receipts(exchange) if one.organ == digest]
        offer = peek_offer(donation.offer.encode())
        profiles = self._profiles(exchange)
        names = {one.sealing_fingerprint: site for site, one in profiles.items()}
        return OrganPage(
            row=self._organ(exchange, digest, donation, receipts, self._catalogue.stored()),
            offer=offer,
            addressees=[names.get(one, one[:12]) for one in offer.addressees if not offer.hidden],
            links=[
                *evidence.of_offer(self._now(), offer, donation, profiles.get(offer.donor)),
                log.link(self._coordinator, donation.offer.encode()),
            ],
            receipts=receipts,
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
        begun = {one.name: one for one in self._catalogue.begun()}
        names = {*begun, *self._catalogue.exchanges()}
        rows = []
        for name in names:
            enrolments, receipts = self._catalogue.enrolments(name), self._catalogue.receipts(name)
            organs = self._organs(name, receipts)
            rows.append(self._exchange(name, begun.get(name), enrolments, receipts, organs))
        return sorted(rows, key=lambda row: (not row.runs_now, -row.since, row.name))

    def exchange(self, name: str) -> ExchangePage | None:
        """One exchange; None where there is none."""
        begun = {one.name: one for one in self._catalogue.begun()}
        if name not in begun and name not in self._catalogue.exchanges():
            return None
        enrolments, receipts = self._catalogue.enrolments(name), self._catalogue.receipts(name)
        recipients = [one.profile.site for one in enrolments]
        organs = self._organs(name, receipts)
        best: dict[tuple[str, str], Receipt] = {}
        for one in receipts:
            key = (one.organ, one.recipient)
            if key not in best or one.change < best[key].change:
                best[key] = one
        return ExchangePage(
            row=self._exchange(name, begun.get(name), enrolments, receipts, organs),
            recipients=recipients,
            matrix=[
                MatrixRow(organ=row, cells=[_cell(best.get((row.organ, at))) for at in recipients])
                for row in organs
            ],
            events=self._catalogue.events(name, MOST_EVENTS),
        )

    def sites(self) -> list[SiteRow]:
        """All sites that took part in an exchange, or have a node here."""
        nodes, contacts = self._catalogue.nodes(), self._catalogue.contacts()
        took_part: dict[str, list[tuple[str, Enrolment]]] = {site: [] for site in nodes}
        for name in self._catalogue.exchanges():
            for one in self._catalogue.enrolments(name):
                took_part.setdefault(one.profile.site, []).append((name, one))
        rows, trust = [], self._now().trust
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
                    vouched=_vouched(site, last, trust),
                )
            )
        return rows

    def log(self) -> LogPage:
        """The log as it is now."""
        return log.log_page(self._now())

    def proof(self, digest: str) -> Proof | None:
        """That the log holds an entry; None where it has none."""
        return log.proof(self._coordinator, digest)

    def _organs(self, exchange: str, receipts: Iterable[Receipt]) -> list[OrganRow]:
        of_organ: defaultdict[str, list[Receipt]] = defaultdict(list)
        for one in receipts:
            of_organ[one.organ].append(one)
        stored = self._catalogue.stored()
        return [
            self._organ(exchange, digest, donation, of_organ[digest], stored)
            for digest, _, donation in self._catalogue.donations(exchange)
        ]

    @staticmethod
    def _organ(
        exchange: str,
        digest: str,
        donation: Donation,
        receipts: Iterable[Receipt],
        stored: Collection[str],
    ) -> OrganRow:
        offer = peek_offer(donation.offer.encode())
        others = {(one.recipient, one.verdict) for one in receipts if one.recipient != one.donor}
        return OrganRow(
            exchange=exchange,
            organ=digest,
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
            stored=digest in stored,
            accepted=sum(verdict == "accepted" for _, verdict in others),
            tried=len({site for site, _ in others}),
        )

    @staticmethod
    def _exchange(
        name: str,
        begun: Begun | None,
        enrolments: Sequence[Enrolment],
        receipts: Sequence[Receipt],
        organs: Sequence[OrganRow],
    ) -> ExchangeRow:
        donors = sum(one.donates for one in enrolments)
        trials = max(donors, len(organs)) * len(enrolments)
        stored = sum(one.stored for one in organs)
        asked = int(begun.config["sites"]) if begun else len(enrolments)
        steps = asked + 2 * donors + trials
        made = min(len(enrolments), asked) + len(organs) + stored + len(receipts)
        state = begun.state if begun else "recorded"
        return ExchangeRow(
            name=name,
            state=state,
            terms=_terms(begun) if begun else "",
            runs=begun.runs if begun else 0,
            since=begun.since if begun else 0.0,
            asked=asked,
            sites=len(enrolments),
            donors=donors,
            organs=len(organs),
            stored=stored,
            trials=trials,
            receipts=len(receipts),
            accepted=sum(
                one.verdict == "accepted" and one.donor != one.recipient for one in receipts
            ),
            done=min(1.0, made / steps) if enrolments else 0.0,
        )

    def _profiles(self, exchange: str) -> dict[str, Profile]:
        return {one.profile.site: one.profile for one in self._catalogue.enrolments(exchange)}

    def _now(self) -> Coordinator:
        """The coordinator with the revocation list that is there by now."""
        return replace(self._coordinator, trust=load_trust(self._coordinator.folder))


def _vouched(site: str, enrolment: Enrolment | None, trust: Trust) -> Link:
    what = "Certificate of the site"
    if enrolment is None:
        return Link(what, True, "was admitted, and has not taken part yet")
    try:
        verify_profile(enrolment.profile, trust)
    except NotError as error:
        return Link(what, False, str(error))
    return Link(what, True, "is vouched for by the federation")


def _cell(receipt: Receipt | None) -> Cell | None:
    if receipt is None:
        return None
    warmth = heat(receipt.change)
    side = "worse" if warmth > 0 else "better"
    return Cell(receipt=receipt, tint=f"{side}-{round(TINTS * abs(warmth))}")


def _terms(begun: Begun) -> str:
    asked = settings(begun.config)
    terms = asked.terms
    form = f"factors of rank {terms.rank}" if terms.rank else "whole"
    return f"layers {terms.span}, {form}; {count(terms.tokens)} tokens a donor; {asked.mode}"
