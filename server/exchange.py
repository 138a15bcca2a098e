"""One exchange: enrol sites, collect sealed organs, deliver them, collect signed receipts.

The coordinator checks every signature that it can check without opening anything, and believes
no site about another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flwr.serverapp import Grid

from not_core import atomic, canonical
from not_core.errors import BankError, ExchangeError, FormatError, OfferError
from not_core.protocol import (
    DELIVER,
    DONATE,
    TRANSPLANT,
    Delivered,
    DeliverRequest,
    DonateRequest,
    Donation,
    Packet,
    TransplantRequest,
    Trial,
)
from not_core.trust.offer import Offer
from server import claims
from server.asked import Asked
from server.collection import Collection, Sealed
from server.dispatch import UNANSWERED, Dispatch
from server.enrolling import Enrolling, Site, donors, enough
from server.home import IN_PROCESS, Coordinator, Limits
from server.progress import Event, Progress
from server.witnesses import SignedHead, Witnesses, signed_head


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


class Exchange:
    """The state of one pass of an exchange while it runs."""

    def __init__(
        self,
        grid: Grid,
        coordinator: Coordinator,
        settings: Settings,
        notify: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._home, self._settings, self._asked = coordinator, settings, settings.asked
        limits, exchange = settings.limits, settings.asked.exchange
        self._progress = Progress(coordinator.catalogue, exchange, notify)
        self._dispatch = Dispatch(
            grid, exchange, self._seen, limits.patience_seconds, self._progress.write
        )
        self._enrolling = Enrolling(
            grid, coordinator, settings.asked, limits, self._dispatch, self._progress
        )
        shared = (self._dispatch, coordinator, exchange, limits.wire_seconds)
        self._collection, self._witnesses = Collection(*shared), Witnesses(*shared)
        self._sites: dict[str, Site] = {}
        self._offers: dict[str, Offer] = {}
        self._sealed: dict[str, Sealed] = {}

    def run(self) -> set[int]:
        """Run to the end; every failure of a site is recorded, none ends the exchange.

        Returns:
            Nodes that came, or enrolled, too late to take part; see ``run_in_passes``.

        Raises:
            ExchangeError: Fewer than two sites could enrol, or none of them donates.
        """
        self._sites = self._enrolling.run()
        giving = donors(self._sites)
        if not enough(self._sites):
            raise ExchangeError(
                f"{len(self._sites)} sites enrolled, {len(giving)} of them donors; an exchange "
                "takes two sites and one donor; see the sites' own logs"
            )
        for donor in giving:
            self._donate(donor)
        for name in {one.donor for one in self._home.catalogue.organs(self._asked.exchange)}:
            if name not in {donor.name for donor in giving}:
                self._stand_in(name)
        self._dispatch.run(self._still)
        self._witness()  # those that are done; the others at the end
        self._dispatch.run()
        self._witness()
        self._dispatch.run()
        self._progress.write()
        self._home.catalogue.ran(
            self._asked.exchange,
            {
                "failures": self._progress.failures,
                "bytes": {
                    "uploaded": self._dispatch.received_bytes,
                    "delivered": self._dispatch.sent_bytes,
                    "stored": sum(one.donation.sealed_bytes for one in self._sealed.values()),
                },
                "seconds": self._progress.seconds(),
            },
        )
        return self._enrolling.late()

    def _seen(self, packet: Packet) -> None:
        if self._settings.keep_messages:
            folder = self._home.folder / "messages"
            folder.mkdir(mode=0o700, exist_ok=True)
            # Named by content: a kind is whatever a site wrote there.
            data = packet.kind.encode() + b"\n" + packet.value + packet.body
            atomic.write(folder / canonical.sha256(data), data)

    def _donate(self, donor: Site) -> None:
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
            self._progress.done(donor.name, "donate")
            self._collection.fetch(
                donor.node, offer, donation, self._banked, lambda code: failed("segment", code)
            )

        def failed(step: str, code: str) -> None:
            donor.giving = False
            self._progress.fail(donor.name, step, code)
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

            self._collection.kept(kept, banked, partial(self._progress.fail, donor, "bank"))

    def _banked(self, sealed: Sealed) -> None:
        """A sealed organ is in the bank: deliver it to its addressees; its donor tries it too.

        Hidden addressees are nobody's business: then all get it.
        """
        offer, organ = sealed.offer, sealed.offer.organ_digest
        self._sealed[organ] = sealed
        self._progress.done(offer.donor, "collect")
        wanted = set(offer.addressees)
        for site in self._sites.values():
            if site.name == offer.donor:
                site.logged.append(canonical.sha256(sealed.donation.offer.encode()))
                site.inbox.append(organ)
                self._try(site)
            elif offer.hidden or site.enrolment.profile.sealing_fingerprint in wanted:
                self._deliver(site, organ, 0)

    def _deliver(self, site: Site, organ: str, offset: int) -> None:
        sealed = self._sealed[organ]
        donation = sealed.donation

        def settled(code: str | None) -> None:
            if code is None:
                site.logged.append(canonical.sha256(donation.offer.encode()))
                site.inbox.append(organ)
                self._progress.done(site.name, "deliver", organ)
            else:
                self._progress.fail(site.name, "deliver", code, organ)
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

    def _try(self, site: Site) -> None:
        """Ask a site to try the next organ in its inbox; one at a time."""
        if site.trying or not site.inbox:
            return
        site.trying = True
        request = TransplantRequest(
            exchange=self._asked.exchange, organ=site.inbox.pop(0), mode=self._asked.mode
        )

        def settled(code: str | None) -> None:
            if code is None:
                self._progress.done(site.name, "transplant", request.organ)
            else:
                self._progress.fail(site.name, "transplant", code, request.organ)
            if code in UNANSWERED:  # nor would it answer what else it holds
                for organ in site.inbox:
                    self._progress.fail(site.name, "transplant", code, organ)
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
        return self._progress.still_for > self._settings.limits.wire_seconds

    def _witness(self) -> None:
        """Have sites sign what the log is now, if they have answered, and have not signed it."""
        silent = {one["site"] for one in self._progress.failures if one["code"] in UNANSWERED}
        signed = signed_head(self._home)
        for site in self._sites.values():
            busy = site.giving or site.trying
            if site.name not in silent and not busy and site.shown != signed.head.size:
                site.shown = signed.head.size
                self._ask_to_witness(site, signed)

    def _ask_to_witness(self, site: Site, signed: SignedHead) -> None:
        self._witnesses.ask(
            site.node,
            site.enrolment.profile,
            site.logged,
            signed,
            lambda: self._progress.done(site.name, "witness"),
            lambda code: self._progress.fail(site.name, "witness", code),
        )


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
