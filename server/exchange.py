"""One exchange: enrol sites, collect sealed organs, deliver them, collect signed receipts.

The coordinator checks every signature that it can check without opening anything, and believes
no site about another.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from flwr.serverapp import Grid

from not_core import atomic, canonical
from not_core.errors import BankError, ExchangeError, FormatError, OfferError
from not_core.protocol import (
    DELIVER,
    DONATE,
    ENROL,
    REVOKE,
    TRANSPLANT,
    Delivered,
    DeliverRequest,
    DonateRequest,
    Donation,
    Enrolment,
    EnrolRequest,
    Packet,
    Revoked,
    RevokeRequest,
    SignedEnrolment,
    TransplantRequest,
    Trial,
)
from not_core.trust.offer import Offer
from server import claims
from server.asked import Asked
from server.catalogue import Happened
from server.collection import Collection, Sealed
from server.dispatch import UNANSWERED, Dispatch
from server.home import IN_PROCESS, Coordinator, Limits
from server.witnesses import SignedHead, Witnesses, signed_head

Value = TypeVar("Value")

_log = logging.getLogger(__name__)
_STEPS = ("enrol", "donate", "deliver", "transplant", "witness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an exchange is run.

    Attributes:
        asked: What it is.
        limits: How long it waits; by default, for sites of the same process.
        most_sealed_bytes: Largest sealed organ that is passed on.
        keep_messages: Keep every reply as it came, in ``messages/``; for whoever wants to see what
            a coordinator gets.
    """

    asked: Asked
    limits: Limits = IN_PROCESS
    most_sealed_bytes: int = 8 * 2**30
    keep_messages: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Progress for whoever watches: ``site`` has done ``step``, or failed with ``code``.

    ``organ`` is the digest of the organ that it was about; empty where it was about none.
    """

    site: str
    step: str
    code: str = ""
    organ: str = ""


@dataclass
class _Site:
    node: int
    enrolment: Enrolment
    inbox: list[str] = field(default_factory=list)
    giving: bool = False
    trying: bool = False
    shown: int = -1
    """Entries of the log that it was last asked to sign."""
    logged: list[str] = field(default_factory=list)
    """Digests of what it has signed or was given, which the log then holds."""

    @property
    def name(self) -> str:
        return self.enrolment.profile.site


class Exchange:
    """The state of one pass of an exchange while it runs."""

    def __init__(
        self,
        grid: Grid,
        coordinator: Coordinator,
        settings: Settings,
        notify: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._grid, self._home, self._settings, self._notify = grid, coordinator, settings, notify
        self._asked, limits, exchange = settings.asked, settings.limits, settings.asked.exchange
        self._untold: list[Happened] = []
        self._dispatch = Dispatch(grid, exchange, self._seen, limits.patience_seconds, self._note)
        self._sites: dict[str, _Site] = {}
        shared = (self._dispatch, coordinator, exchange, limits.wire_seconds)
        self._collection, self._witnesses = Collection(*shared), Witnesses(*shared)
        self._offers: dict[str, Offer] = {}
        self._sealed: dict[str, Sealed] = {}
        self._failures: list[dict[str, str]] = []
        self._late: set[int] = set()
        self._enrolling = True
        self._started = self._happened = time.monotonic()
        self._ended: dict[str, float] = {}

    def run(self) -> set[int]:
        """Run to the end; every failure of a site is recorded, none ends the exchange.

        Returns:
            Nodes that came, or enrolled, too late to take part; see ``run_in_passes``.

        Raises:
            ExchangeError: Fewer than two sites could enrol, or none of them donates.
        """
        asked = self._join()
        for node in asked:
            self._revoke(node)
        since = time.monotonic()
        self._dispatch.run(
            lambda: self._enough and time.monotonic() - since > self._settings.limits.enrol_seconds
        )
        self._enrolling = False
        self._agree_on_base()
        self._mark("enrol")
        donors = self._donors
        if not self._enough:
            raise ExchangeError(
                f"{len(self._sites)} sites enrolled, {len(donors)} of them donors; an exchange "
                "takes two sites and one donor; see the sites' own logs"
            )
        for donor in donors:
            self._donate(donor)
        for name in {one.donor for one in self._home.catalogue.organs(self._asked.exchange)}:
            if name not in {donor.name for donor in donors}:
                self._stand_in(name)
        self._dispatch.run(self._still)
        self._witness()  # those that are done; the others at the end
        self._dispatch.run()
        self._witness()
        self._dispatch.run()
        self._note()
        self._home.catalogue.ran(
            self._asked.exchange,
            {
                "failures": self._failures,
                "bytes": {
                    "uploaded": self._dispatch.received_bytes,
                    "delivered": self._dispatch.sent_bytes,
                    "stored": sum(one.donation.sealed_bytes for one in self._sealed.values()),
                },
                "seconds": self._seconds(),
            },
        )
        return self._late | (set(self._nodes()) - set(asked))

    @property
    def _donors(self) -> list[_Site]:
        return [site for site in self._sites.values() if site.enrolment.donates]

    @property
    def _enough(self) -> bool:
        return len(self._sites) > 1 and bool(self._donors)

    def _seen(self, packet: Packet) -> None:
        if self._settings.keep_messages:
            folder = self._home.folder / "messages"
            folder.mkdir(mode=0o700, exist_ok=True)
            # Named by content: a kind is whatever a site wrote there.
            data = packet.kind.encode() + b"\n" + packet.value + packet.body
            atomic.write(folder / canonical.sha256(data), data)

    def _nodes(self) -> list[int]:
        """Of the sites that take part, those that are there."""
        there = self._grid.get_node_ids()
        if not self._asked.invited:
            return list(there)
        admitted = self._home.catalogue.nodes()
        wanted = {admitted[site][0] for site in self._asked.invited if site in admitted}
        return [node for node in there if node in wanted]

    def _join(self) -> list[int]:
        deadline = time.monotonic() + self._settings.limits.join_seconds
        while True:
            nodes = self._nodes()
            if len(nodes) >= self._asked.sites or time.monotonic() > deadline:
                return nodes
            time.sleep(0.5)

    def _revoke(self, node: int) -> None:
        """Hand on who was expelled, then enrol; a site that knows a later list takes part, too."""

        def then(packet: Packet) -> None:
            claims.reply(packet, Revoked)
            self._enrol(node)

        def failed(code: str) -> None:
            if code not in UNANSWERED:  # the enrolment then says so
                self._fail(f"node-{node}", "revoke", code)
            self._enrol(node)

        self._dispatch.post(
            node,
            REVOKE,
            RevokeRequest(exchange=self._asked.exchange),
            body=lambda: self._home.trust.revoked.pem,
            seconds=self._settings.limits.wire_seconds,
            then=then,
            failed=failed,
        )

    def _enrol(self, node: int) -> None:
        request = EnrolRequest(exchange=self._asked.exchange, nonce=secrets.token_hex(32))

        def then(packet: Packet) -> None:
            signed = claims.reply(packet, SignedEnrolment)
            enrolment = claims.enrolment(signed.envelope.encode(), request, self._home.trust)
            name = enrolment.profile.site
            if self._asked.invited and name not in self._asked.invited:
                self._fail(name, "enrol", "not-invited")
                return
            if not self._enrolling:
                self._late.add(node)
                return
            if name in self._sites:
                self._fail(name, "enrol", "twice")
                return
            self._sites[name] = _Site(node, enrolment)

        self._dispatch.post(
            node,
            ENROL,
            request,
            seconds=self._settings.limits.wire_seconds,
            then=then,
            failed=lambda code: self._fail(f"node-{node}", "enrol", code),
        )

    def _agree_on_base(self) -> None:
        """Leave out sites whose model is not the one that most sites have."""
        common = claims.common_base(site.enrolment for site in self._sites.values())
        for name, site in list(self._sites.items()):
            if site.enrolment.base_weights != common:
                del self._sites[name]
                self._fail(name, "enrol", "other-base")
                continue
            self._tell(Event(name, "enrol"))
        taken = [site.enrolment for site in self._sites.values()]
        self._home.catalogue.enrolled(self._asked.exchange, *taken)
        self._note()

    def _donate(self, donor: _Site) -> None:
        others = [site.enrolment.profile for site in self._sites.values() if site is not donor]
        request = DonateRequest(
            exchange=self._asked.exchange,
            terms=self._asked.terms,
            addressees=tuple(sorted(others, key=lambda profile: profile.site)),
        )

        def then(packet: Packet) -> None:
            donor.giving = False
            donation = claims.reply(packet, Donation)
            offer = claims.offer(
                donation,
                donor.enrolment.profile,
                self._home.trust,
                self._asked.exchange,
                self._settings.most_sealed_bytes,
            )
            organ = offer.organ_digest
            if organ in self._offers:
                raise OfferError("an offer of an organ that another site has offered")
            self._offers[organ] = offer
            self._tell(Event(donor.name, "donate"))
            self._mark("donate")
            self._collection.fetch(
                donor.node, offer, donation, self._banked, lambda code: failed("segment", code)
            )

        def failed(step: str, code: str) -> None:
            donor.giving = False
            self._fail(donor.name, step, code)
            self._stand_in(donor.name)

        donor.giving = True
        self._dispatch.post(
            donor.node,
            DONATE,
            request,
            seconds=self._settings.limits.step_seconds,
            then=then,
            failed=lambda code: failed("donate", code),
        )

    def _stand_in(self, donor: str) -> None:
        """Offer what a donor gave in an earlier run, to those whom it then addressed.

        Whoever came later needs a new offer, which only the donor can make.
        """
        for kept in self._home.catalogue.organs(self._asked.exchange):
            if kept.donor != donor or kept.organ in self._sealed:
                continue

            def banked(sealed: Sealed) -> None:
                organ = sealed.offer.organ_digest
                if organ not in self._sealed:  # by another look
                    self._offers[organ] = sealed.offer
                    self._banked(sealed)

            self._collection.kept(kept, banked, partial(self._fail, donor, "bank"))

    def _banked(self, sealed: Sealed) -> None:
        """A sealed organ is in the bank: deliver it to its addressees; its donor tries it too.

        Hidden addressees are nobody's business: then all get it.
        """
        offer, organ = sealed.offer, sealed.offer.organ_digest
        self._sealed[organ] = sealed
        self._tell(Event(offer.donor, "collect"))
        wanted = set(offer.addressees)
        for site in self._sites.values():
            if site.name == offer.donor:
                site.logged.append(canonical.sha256(sealed.donation.offer.encode()))
                site.inbox.append(organ)
                self._try(site)
            elif offer.hidden or site.enrolment.profile.sealing_fingerprint in wanted:
                self._deliver(site, organ, 0)

    def _deliver(self, site: _Site, organ: str, offset: int) -> None:
        sealed = self._sealed[organ]
        donation = sealed.donation

        def settled(code: str | None) -> None:
            if code is None:
                site.logged.append(canonical.sha256(donation.offer.encode()))
                site.inbox.append(organ)
                self._tell(Event(site.name, "deliver", organ=organ))
                self._mark("deliver")
            else:
                self._fail(site.name, "deliver", code, organ)
            self._try(site)

        def then(packet: Packet) -> None:
            answer = claims.reply(packet, Delivered)
            if answer.held >= donation.sealed_bytes:
                settled(None)
            elif answer.held >= offset + sealed.part(offset):
                self._deliver(site, organ, answer.held)
            else:
                raise FormatError("a recipient that holds no more than before")

        try:
            self._dispatch.post(
                site.node,
                DELIVER,
                DeliverRequest(
                    exchange=self._asked.exchange,
                    organ=organ,
                    offset=offset,
                    sealed_bytes=donation.sealed_bytes,
                    sealed_sha256=donation.sealed_sha256,
                ),
                body=lambda: sealed.read(self._home.bank, offset),
                seconds=self._settings.limits.wire_seconds,
                then=then,
                failed=settled,
            )
        except BankError as error:
            settled(error.code)

    def _try(self, site: _Site) -> None:
        """Ask a site to try the next organ in its inbox; one at a time."""
        if site.trying or not site.inbox:
            return
        site.trying = True
        request = TransplantRequest(
            exchange=self._asked.exchange, organ=site.inbox.pop(0), mode=self._asked.mode
        )

        def settled(code: str | None) -> None:
            if code is None:
                self._tell(Event(site.name, "transplant", organ=request.organ))
                self._mark("transplant")
            else:
                self._fail(site.name, "transplant", code, request.organ)
            if code in UNANSWERED:  # nor would it answer what else it holds
                for organ in site.inbox:
                    self._fail(site.name, "transplant", code, organ)
                site.inbox.clear()
            site.trying = False
            self._try(site)

        def then(packet: Packet) -> None:
            trial = claims.reply(packet, Trial)
            envelope = trial.receipt.encode()
            receipt = claims.receipt(
                envelope,
                site.enrolment.profile,
                self._home.trust,
                request,
                self._offers[request.organ],
            )
            self._home.catalogue.received(receipt, envelope)
            site.logged.append(canonical.sha256(envelope))
            settled(None)

        self._dispatch.post(
            site.node,
            TRANSPLANT,
            request,
            seconds=self._settings.limits.step_seconds,
            then=then,
            failed=settled,
        )

    def _still(self) -> bool:
        """Whether whoever has not answered keeps the others waiting."""
        return time.monotonic() - self._happened > self._settings.limits.wire_seconds

    def _witness(self) -> None:
        """Have sites sign what the log is now, if they have answered, and have not signed it."""
        silent = {one["site"] for one in self._failures if one["code"] in UNANSWERED}
        signed = signed_head(self._home)
        for site in self._sites.values():
            busy = site.giving or site.trying
            if site.name not in silent and not busy and site.shown != signed.head.size:
                site.shown = signed.head.size
                self._ask_to_witness(site, signed)

    def _ask_to_witness(self, site: _Site, signed: SignedHead) -> None:
        def done() -> None:
            self._tell(Event(site.name, "witness"))
            self._mark("witness")

        self._witnesses.ask(
            site.node,
            site.enrolment.profile,
            site.logged,
            signed,
            done,
            lambda code: self._fail(site.name, "witness", code),
        )

    def _fail(self, site: str, step: str, code: str, organ: str = "") -> None:
        self._failures.append({"site": site, "step": step, "code": code})
        self._tell(Event(site, step, code, organ))

    def _tell(self, event: Event) -> None:
        row = Happened(time.time(), event.site, event.step, event.code, event.organ)
        self._untold.append(row)
        self._happened = time.monotonic()
        facts = {"exchange": self._asked.exchange, "site": event.site, "code": event.code}
        _log.info(event.step, extra=facts)
        self._notify(event)

    def _note(self) -> None:
        """Write down what has happened, at once: each transaction waits for the disk."""
        if self._untold:
            self._home.catalogue.happened(self._asked.exchange, *self._untold)
            self._untold.clear()

    def _mark(self, step: str) -> None:
        self._ended[step] = time.monotonic() - self._started

    def _seconds(self) -> dict[str, float]:
        """Seconds from the start to the last reply of each step; steps overlap."""
        total = time.monotonic() - self._started
        marks = {step: self._ended.get(step, 0.0) for step in _STEPS}
        return {step: round(mark, 1) for step, mark in (marks | {"total": total}).items()}


def run_in_passes(new_pass: Callable[[], Exchange]) -> None:
    """Run an exchange, and again for what is missing while that may bring something.

    A node that came too late has one more pass, and no third where it is late again: others do not
    wait for ever.

    Args:
        new_pass: Makes the exchange, always of the same settings.

    Raises:
        ExchangeError: See ``Exchange.run``.
    """
    seen: set[int] = set()
    while new := new_pass().run() - seen:
        seen |= new
