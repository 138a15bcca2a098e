"""Sites without models or records that speak the protocol with real keys, for measurements.

Their organs are noise and their receipts say nothing. Certificates, signatures, sealed bodies, and
all that a site checks of deliveries and of the coordinator's log are real.
"""

import hashlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import witness as witnessing
from not_core import canonical
from not_core.errors import FormatError, LogError, NotError, OfferError
from not_core.manifest import CARD, MANIFEST, TENSORS, BaseFacts, Manifest, NoPrivacy, Span
from not_core.protocol import (
    DELIVER,
    DONATE,
    ENROL,
    ENROLMENT_TYPE,
    RECEIPT_TYPE,
    REVOKE,
    SEGMENT,
    TRANSPLANT,
    WITNESS,
    Delivered,
    DeliverRequest,
    DonateRequest,
    Donation,
    Enrolment,
    EnrolRequest,
    Packet,
    Receipt,
    Refusal,
    Revoked,
    Segment,
    SegmentRequest,
    SignedEnrolment,
    TransplantRequest,
    Trial,
    Witnessed,
    WitnessRequest,
    read,
)
from not_core.trust import authority, keys, revocation, sealing, signing
from not_core.trust.federation import load_trust
from not_core.trust.keys import Identity
from not_core.trust.statement import sign_statement
from not_core.trust.tree_head import COSIGNATURE_TYPE, Cosignature, TreeHead

FEDERATION, LAYERS = "federation", 4
BASE = BaseFacts(
    family="llama",
    architecture="LlamaForCausalLM",
    layers=LAYERS,
    config={},
    layer_config={},
    weights="ab" * 32,
    tokenizer=None,
)

Answer = tuple[object, bytes]


def names(count: int) -> list[str]:
    """Names of so many sites; the first are those that donate."""
    return [f"site-{number:05}" for number in range(count)]


def found(place: Path, count: int) -> None:
    """Found a federation in a folder and admit so many sites, each with keys of its own."""
    authority.create_root(place / FEDERATION, "bare")
    trust = load_trust(place / FEDERATION)
    for name in names(count):
        request = keys.create(place / name, name)
        keys.install(place / name, authority.admit(place / FEDERATION, request), trust)


def grow(folder: Path, donor: Identity, size: int) -> Manifest:
    """Make and sign an organ whose ``size`` bytes of weights are noise, the donor's own."""
    facts = Manifest(
        name="noise",
        version=1,
        domain="noise",
        licence="Apache-2.0",
        donor=donor.site,
        base=BASE,
        span=Span(start=1, stop=3),
        tensors=(),
        training=None,
        privacy=NoPrivacy(),
    )
    folder.mkdir()
    noise = random.Random(donor.site)  # noqa: S311 - noise, not keys
    (folder / TENSORS).write_bytes(noise.randbytes(size))
    (folder / MANIFEST).write_bytes(canonical.encode(facts))
    (folder / CARD).write_text("# Noise\n", encoding="utf-8")
    signing.sign_folder(folder, donor)
    return facts


@dataclass
class _Arriving:
    """A sealed organ on its way to a site: what has come is hashed, and not kept."""

    held: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)  # of a type that hashlib keeps to itself


@dataclass
class _Site:
    identity: Identity
    donates: bool
    arriving: dict[str, _Arriving] = field(default_factory=dict)
    delivered: set[str] = field(default_factory=set)
    signed: set[str] = field(default_factory=set)
    """Digests of what it has signed or was given, which the log must hold."""
    head: TreeHead | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Organ:
    folder: Path
    donor: str


class BareSites:
    """All sites of one exchange; each answers for itself alone.

    Args:
        place: Where ``found`` admitted them.
        work: Folder for organs and sealed files.
        count: How many take part; site n is node n + 1.
        donors: How many of them donate.
        size: Bytes of each organ's weights.
    """

    def __init__(self, place: Path, work: Path, count: int, donors: int, size: int) -> None:
        self._work = work
        self._organs: dict[str, _Organ] = {}
        self._offered: dict[str, str] = {}
        """Digests of offers, by organ."""
        self._sites = []
        for number, name in enumerate(names(count)):
            site = _Site(keys.load(place / name), number < donors)
            self._sites.append(site)
            if site.donates:
                folder = work / name
                organ = grow(folder, site.identity, size)
                self._organs[organ.digest] = _Organ(folder=folder, donor=name)
        self.proven = 0
        """Entries that sites have found in the log, each by its proof."""
        self.cpu_seconds: defaultdict[str, float] = defaultdict(float)
        self.answered: Counter[str] = Counter()
        """Processor seconds of the sites, and requests, by type of message."""

    def answer(self, node: int, message_type: str, packet: Packet) -> Answer:
        """What the site of a node answers."""
        started = time.process_time()
        try:
            return _HANDLERS[message_type](self, self._sites[node - 1], packet)
        except NotError as error:
            return Refusal(code=error.code), b""
        finally:
            self.cpu_seconds[message_type] += time.process_time() - started
            self.answered[message_type] += 1

    def _revoke(self, site: _Site, packet: Packet) -> Answer:
        return Revoked(number=revocation.parse(packet.body, site.identity.trust.root).number), b""

    def _enrol(self, site: _Site, packet: Packet) -> Answer:
        request = read(packet, EnrolRequest)
        said = Enrolment(
            exchange=request.exchange,
            nonce=request.nonce,
            profile=site.identity.profile,
            domain="noise",
            donates=site.donates,
            family=BASE.family,
            layers=LAYERS,
            base_weights=BASE.weights,
        )
        envelope = sign_statement(canonical.encode(said), ENROLMENT_TYPE, site.identity)
        return SignedEnrolment(envelope=envelope.decode()), b""

    def _donate(self, site: _Site, packet: Packet) -> Answer:
        request = read(packet, DonateRequest)
        mine = [one for one in self._organs.items() if one[1].donor == site.identity.site]
        [(digest, organ)] = mine
        audience = sealing.Audience(addressees=request.addressees, exchange=request.exchange)
        sealed = self._sealed(digest)
        signed = sealing.seal(organ.folder, site.identity, audience, sealed)
        self._offered[digest] = canonical.sha256(signed.envelope)
        site.signed.add(self._offered[digest])
        donation = Donation(
            offer=signed.envelope.decode(),
            sealed_bytes=sealed.stat().st_size,
            sealed_sha256=canonical.sha256_file(sealed),
            organ_bytes=(organ.folder / TENSORS).stat().st_size,
            tokens=request.terms.tokens,
            steps=1,
            privacy="none",
        )
        return donation, b""

    def _segment(self, site: _Site, packet: Packet) -> Answer:
        request = read(packet, SegmentRequest)
        with self._sealed(request.organ).open("rb") as file:
            file.seek(request.offset)
            data = file.read(request.length)
        return Segment(organ=request.organ, offset=request.offset), data

    def _deliver(self, site: _Site, packet: Packet) -> Answer:
        request = read(packet, DeliverRequest)
        came = site.arriving.setdefault(request.organ, _Arriving())
        if request.offset != came.held:
            raise FormatError(f"bytes from {request.offset} on, expected them from {came.held} on")
        came.sha256.update(packet.body)
        came.held += len(packet.body)
        if came.held == request.sealed_bytes:
            if came.sha256.hexdigest() != request.sealed_sha256:
                raise OfferError("the delivered bytes are not those announced")
            site.delivered.add(request.organ)
            site.signed.add(self._offered[request.organ])
        return Delivered(organ=request.organ, held=came.held), b""

    def _transplant(self, site: _Site, packet: Packet) -> Answer:
        request = read(packet, TransplantRequest)
        name, donor = site.identity.site, self._organs[request.organ].donor
        if name != donor and request.organ not in site.delivered:
            raise OfferError("asked to try an organ that was not delivered")
        said = Receipt(
            exchange=request.exchange,
            organ=request.organ,
            donor=donor,
            recipient=name,
            mode=request.mode,
            position=1,
            domain_perplexity_before=40.0,
            domain_perplexity_after=36.8,
            general_perplexity_before=48.3,
            general_perplexity_after=48.9,
            change=-0.08,
            interval=(-0.1, -0.06),
            documents=20,
            general_documents=12,
            tokens=800,
            verdict="accepted",
            reason="domain perplexity changed by -8.0%, 95% interval -10.0% to -6.0%",
        )
        envelope = sign_statement(canonical.encode(said), RECEIPT_TYPE, site.identity)
        site.signed.add(canonical.sha256(envelope))
        return Trial(receipt=envelope.decode()), b""

    def _witness(self, site: _Site, packet: Packet) -> Answer:
        request = read(packet, WitnessRequest)
        head = witnessing.check(site.head, request, site.identity.trust)
        missing = site.signed - {one.entry.digest for one in request.logged}
        if missing:
            raise LogError(f"no proof of {len(missing)} entries")
        self.proven += len(request.logged)
        site.head = head
        said = Cosignature(site=site.identity.site, head=head)
        envelope = sign_statement(canonical.encode(said), COSIGNATURE_TYPE, site.identity)
        return Witnessed(size=head.size, envelope=envelope.decode()), b""

    def _sealed(self, organ: str) -> Path:
        return self._work / f"{organ}.organ"


_HANDLERS: dict[str, Callable[[BareSites, _Site, Packet], Answer]] = {
    REVOKE: BareSites._revoke,
    ENROL: BareSites._enrol,
    DONATE: BareSites._donate,
    SEGMENT: BareSites._segment,
    DELIVER: BareSites._deliver,
    TRANSPLANT: BareSites._transplant,
    WITNESS: BareSites._witness,
}
