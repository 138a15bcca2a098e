"""One exchange: enrol sites, collect sealed organs, deliver them, collect signed receipts.

The coordinator checks every signature that it can check without opening anything, and believes
no site about another.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from flwr.serverapp import Grid

from not_core import atomic, canonical
from not_core.errors import (
    ExchangeError,
    FormatError,
    NotError,
    OfferError,
)
from not_core.protocol import (
    DELIVER,
    DONATE,
    ENROL,
    REVOKE,
    SEGMENT,
    SEGMENT_BYTES,
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
    Segment,
    SegmentRequest,
    SignedEnrolment,
    Terms,
    TransplantRequest,
    Trial,
)
from not_core.trust.offer import Offer
from server import claims
from server.catalogue import Happened
from server.dispatch import UNANSWERED, Dispatch
from server.home import Coordinator

Value = TypeVar("Value")


_STEPS = ("enrol", "donate", "deliver", "transplant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an exchange is.

    Attributes:
        exchange: Its name; a name is resumed, not begun again.
        sites: Sites to wait for.
        terms: What donors train.
        mode: How recipients put organs in.
        join_seconds: How long to wait for sites; those that are there then take part.
        step_seconds: Time limit of a donation or a trial.
        wire_seconds: Time limit of any other message.
        patience_seconds: How long a site that is away, or died over a request, is asked again.
        most_sealed_bytes: Largest sealed organ that is passed on.
        keep_messages: Keep every reply as it came, in ``messages/``; for whoever wants to see what
            a coordinator gets.
    """

    exchange: str
    sites: int
    terms: Terms
    mode: Literal["replace", "insert"] = "replace"
    join_seconds: float = 120
    step_seconds: float = 6 * 3600
    wire_seconds: float = 600
    patience_seconds: float = 0
    most_sealed_bytes: int = 8 * 2**30
    keep_messages: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Progress for whoever watches: ``site`` has done ``step``, or failed with ``code``."""

    site: str
    step: str
    code: str = ""


@dataclass
class _Site:
    node: int
    enrolment: Enrolment
    inbox: list[str] = field(default_factory=list)
    trying: bool = False

    @property
    def name(self) -> str:
        return self.enrolment.profile.site


class Exchange:
    """The state of one exchange while it runs."""

    def __init__(
        self,
        grid: Grid,
        coordinator: Coordinator,
        settings: Settings,
        notify: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._grid, self._home, self._settings, self._notify = grid, coordinator, settings, notify
        self._dispatch = Dispatch(grid, settings.exchange, self._seen, settings.patience_seconds)
        self._sites: dict[str, _Site] = {}
        self._offers: dict[str, Offer] = {}
        self._donations: dict[str, Donation] = {}
        self._failures: list[dict[str, str]] = []
        self._started = time.monotonic()
        self._ended: dict[str, float] = {}

    def run(self) -> None:
        """Run to the end; every failure of a site is recorded, none ends the exchange.

        Raises:
            ExchangeError: Fewer than two sites could enrol, or none of them donates.
        """
        for node in self._join():
            self._revoke(node)
        self._dispatch.run()
        self._agree_on_base()
        self._mark("enrol")
        donors = [site for site in self._sites.values() if site.enrolment.donates]
        if len(self._sites) < 2 or not donors:
            raise ExchangeError(
                f"{len(self._sites)} sites enrolled, {len(donors)} of them donors; an exchange "
                "takes two sites and one donor; see the sites' own logs"
            )
        for donor in donors:
            self._donate(donor)
        self._dispatch.run()
        self._home.catalogue.ran(
            self._settings.exchange,
            {
                "failures": self._failures,
                "bytes": {
                    "uploaded": self._dispatch.received_bytes,
                    "delivered": self._dispatch.sent_bytes,
                    "stored": sum(
                        self._home.banked(organ).stat().st_size
                        for organ in self._offers
                        if self._home.banked(organ).is_file()
                    ),
                },
                "seconds": self._seconds(),
            },
        )

    def _seen(self, packet: Packet) -> None:
        if self._settings.keep_messages:
            folder = self._home.folder / "messages"
            folder.mkdir(mode=0o700, exist_ok=True)
            # Named by content: a kind is whatever a site wrote there.
            data = packet.kind.encode() + b"\n" + packet.value + packet.body
            atomic.write(folder / canonical.sha256(data), data)

    def _join(self) -> list[int]:
        deadline = time.monotonic() + self._settings.join_seconds
        while True:
            nodes = list(self._grid.get_node_ids())
            if len(nodes) >= self._settings.sites or time.monotonic() > deadline:
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
            RevokeRequest(exchange=self._settings.exchange),
            body=self._home.trust.revoked.pem,
            seconds=self._settings.wire_seconds,
            then=then,
            failed=failed,
        )

    def _enrol(self, node: int) -> None:
        request = EnrolRequest(exchange=self._settings.exchange, nonce=secrets.token_hex(32))

        def then(packet: Packet) -> None:
            signed = claims.reply(packet, SignedEnrolment)
            enrolment = claims.enrolment(signed.envelope.encode(), request, self._home.trust)
            name = enrolment.profile.site
            if name in self._sites:
                self._fail(name, "enrol", "twice")
                return
            self._sites[name] = _Site(node, enrolment)

        self._dispatch.post(
            node,
            ENROL,
            request,
            seconds=self._settings.wire_seconds,
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
            self._home.catalogue.enrolled(self._settings.exchange, site.enrolment)
            self._tell(Event(name, "enrol"))

    def _donate(self, donor: _Site) -> None:
        others = [site.enrolment.profile for site in self._sites.values() if site is not donor]
        request = DonateRequest(
            exchange=self._settings.exchange,
            terms=self._settings.terms,
            addressees=tuple(sorted(others, key=lambda profile: profile.site)),
        )

        def then(packet: Packet) -> None:
            donation = claims.reply(packet, Donation)
            offer = claims.offer(
                donation,
                donor.enrolment.profile,
                self._home.trust,
                self._settings.exchange,
                self._settings.most_sealed_bytes,
            )
            organ = offer.organ_digest
            if organ in self._offers:
                raise OfferError("an offer of an organ that another site has offered")
            self._offers[organ], self._donations[organ] = offer, donation
            self._home.catalogue.offered(self._settings.exchange, organ, donor.name, donation)
            self._tell(Event(donor.name, "donate"))
            self._mark("donate")
            self._collect(donor, organ)

        self._dispatch.post(
            donor.node,
            DONATE,
            request,
            seconds=self._settings.step_seconds,
            then=then,
            failed=lambda code: self._fail(donor.name, "donate", code),
        )

    def _collect(self, donor: _Site, organ: str) -> None:
        """Fetch a sealed organ segment by segment; what has arrived before is not fetched again."""
        donation, bank = self._donations[organ], self._home.banked(organ)
        if bank.is_file() and canonical.sha256_file(bank) == donation.sealed_sha256:
            self._banked(donor, organ)
            return
        part = self._home.incoming(donation.sealed_sha256)
        held = part.stat().st_size if part.is_file() else 0
        if held >= donation.sealed_bytes:
            part.unlink()
            held = 0

        def then(packet: Packet) -> None:
            segment = claims.reply(packet, Segment)
            if (
                segment.organ != organ
                or segment.offset != held
                or len(packet.body) != min(SEGMENT_BYTES, donation.sealed_bytes - held)
            ):
                raise FormatError("other bytes than were asked for")
            with part.open("ab") as file:
                file.write(packet.body)
            if held + len(packet.body) < donation.sealed_bytes:
                self._collect(donor, organ)
            else:
                self._bank(donor, organ)
                self._banked(donor, organ)

        self._dispatch.post(
            donor.node,
            SEGMENT,
            SegmentRequest(
                exchange=self._settings.exchange,
                organ=organ,
                offset=held,
                length=min(SEGMENT_BYTES, donation.sealed_bytes - held),
            ),
            seconds=self._settings.wire_seconds,
            then=then,
            failed=lambda code: self._fail(donor.name, "segment", code),
        )

    def _bank(self, donor: _Site, organ: str) -> None:
        """Check a sealed organ as far as it can be checked closed, and put it into the bank.

        Raises:
            NotError: It is not what was offered.
        """
        donation = self._donations[organ]
        part = self._home.incoming(donation.sealed_sha256)
        try:
            claims.sealed(part, donation, self._home.trust)
        except NotError:
            part.unlink()
            raise
        part.rename(self._home.banked(organ))
        self._tell(Event(donor.name, "collect"))

    def _banked(self, donor: _Site, organ: str) -> None:
        """A sealed organ is in the bank: deliver it to its addressees; its donor tries it too.

        Hidden addressees are nobody's business: then all get it.
        """
        offer = self._offers[organ]
        wanted = set(offer.addressees)
        for site in self._sites.values():
            if site is donor:
                site.inbox.append(organ)
                self._try(site)
            elif offer.hidden or site.enrolment.profile.sealing_fingerprint in wanted:
                self._deliver(site, organ, 0)

    def _deliver(self, site: _Site, organ: str, offset: int) -> None:
        donation = self._donations[organ]
        with self._home.banked(organ).open("rb") as file:
            file.seek(offset)
            body = file.read(SEGMENT_BYTES)

        def settled(code: str | None) -> None:
            if code is None:
                site.inbox.append(organ)
                self._tell(Event(site.name, "deliver"))
                self._mark("deliver")
            else:
                self._fail(site.name, "deliver", code)
            self._try(site)

        def then(packet: Packet) -> None:
            answer = claims.reply(packet, Delivered)
            if answer.held >= donation.sealed_bytes:
                settled(None)
            elif answer.held >= offset + len(body):
                self._deliver(site, organ, answer.held)
            else:
                raise FormatError("a recipient that holds no more than before")

        self._dispatch.post(
            site.node,
            DELIVER,
            DeliverRequest(
                exchange=self._settings.exchange,
                organ=organ,
                offset=offset,
                sealed_bytes=donation.sealed_bytes,
                sealed_sha256=donation.sealed_sha256,
            ),
            body=body,
            seconds=self._settings.wire_seconds,
            then=then,
            failed=settled,
        )

    def _try(self, site: _Site) -> None:
        """Ask a site to try the next organ in its inbox; one at a time."""
        if site.trying or not site.inbox:
            return
        site.trying = True
        request = TransplantRequest(
            exchange=self._settings.exchange, organ=site.inbox.pop(0), mode=self._settings.mode
        )

        def settled(code: str | None) -> None:
            if code is None:
                self._tell(Event(site.name, "transplant"))
                self._mark("transplant")
            else:
                self._fail(site.name, "transplant", code)
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
            settled(None)

        self._dispatch.post(
            site.node,
            TRANSPLANT,
            request,
            seconds=self._settings.step_seconds,
            then=then,
            failed=settled,
        )

    def _fail(self, site: str, step: str, code: str) -> None:
        self._failures.append({"site": site, "step": step, "code": code})
        self._tell(Event(site, step, code))

    def _tell(self, event: Event) -> None:
        row = Happened(time.time(), event.site, event.step, event.code)
        self._home.catalogue.happened(self._settings.exchange, row)
        self._notify(event)

    def _mark(self, step: str) -> None:
        self._ended[step] = time.monotonic() - self._started

    def _seconds(self) -> dict[str, float]:
        """Seconds from the start to the last reply of each step; steps overlap."""
        total = time.monotonic() - self._started
        marks = {step: self._ended.get(step, 0.0) for step in _STEPS}
        return {step: round(mark, 1) for step, mark in (marks | {"total": total}).items()}
