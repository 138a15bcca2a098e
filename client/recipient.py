"""A site as recipient: take in sealed bytes, verify and open, transplant, measure, judge.

An organ reaches a model only as an ``OpenedOrgan``, which only unsealing makes, or as one this
site trained itself.
"""

from collections.abc import Sequence
from pathlib import Path

from client import progress
from client.donor import own_organ
from client.home import Site
from client.records import general_texts, own_split
from not_core import atomic, canonical
from not_core.errors import NotError, OfferError, OrganError, PolicyError
from not_core.learning import device as devices
from not_core.learning.evaluation import Reading, compare, read_losses
from not_core.learning.verdict import Tolerance, judge
from not_core.manifest import Manifest
from not_core.protocol import (
    RECEIPT_TYPE,
    Delivered,
    DeliverRequest,
    Receipt,
    TransplantRequest,
    Trial,
    Trials,
)
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compatibility import check
from not_core.surgery.organ import Organ, read_organ
from not_core.trust import sealing, signing, statement

BLOCK_TOKENS = 256
BOOTSTRAP_SEED = 0


def deliver(site: Site, request: DeliverRequest, body: bytes) -> tuple[Delivered, bytes]:
    """Write a segment to disk; answer how much is held, so that a sender can resume.

    Raises:
        OfferError: The bytes that arrived are not those that were offered.
    """
    whole = _delivered(site, request.exchange, request.organ)
    if whole.is_file():
        return Delivered(organ=request.organ, held=whole.stat().st_size), b""
    part = whole.with_suffix(".part")
    held = part.stat().st_size if part.is_file() else 0
    if request.offset <= held < request.offset + len(body) <= request.sealed_bytes:
        with part.open("ab") as file:
            file.write(body[held - request.offset :])
        held = request.offset + len(body)
    if held == request.sealed_bytes:
        if canonical.sha256_file(part) != request.sealed_sha256:
            part.unlink()
            raise OfferError("the delivered bytes are not those announced; deliver them again")
        part.rename(whole)
        site.log.append(
            "received",
            what="sealed organ",
            digest=request.sealed_sha256,
            size=held,
            exchange=request.exchange,
        )
    return Delivered(organ=request.organ, held=held), b""


def transplant(site: Site, request: TransplantRequest, body: bytes) -> tuple[Trials, bytes]:
    """Try each organ alone in the site's model and sign a receipt for each.

    An organ that cannot be tried is answered with a code and holds up no other.

    Raises:
        PolicyError: Fewer held-out documents than may be reported on.
    """
    settings, policy = site.settings, site.policy
    split = own_split(site)
    if len(split.held_out) < policy.least_documents:
        raise PolicyError(
            f"{len(split.held_out)} held-out documents, the policy reports on no fewer than "
            f"{policy.least_documents}"
        )
    bench = _Bench(site, split.held_out, general_texts(site))
    trials = []
    total = BLOCK_TOKENS * (len(split.held_out) + len(bench.general))
    with (
        devices.threads(settings.threads or None),
        progress.writer(site, "measuring", total * (1 + len(request.organs))) as bench.advance,
    ):
        for organ in request.organs:
            try:
                receipt = _receipt(site, request, organ, bench)
                trials.append(Trial(organ=organ, receipt=receipt.decode(), code=None))
            except NotError as error:
                site.log.append(
                    f"refused-{error.code}", what="organ", digest=organ, exchange=request.exchange
                )
                trials.append(Trial(organ=organ, receipt=None, code=error.code))
    return Trials(trials=tuple(trials)), b""


class _Bench:
    """The site's model and held-out documents; the model alone is measured once, when needed."""

    def __init__(self, site: Site, held_out: Sequence[str], general: Sequence[str]) -> None:
        self.held_out, self.general = held_out, general
        self.advance = lambda tokens: None
        self._site = site
        self._host: Checkpoint | None = None
        self._before: tuple[Reading, Reading] | None = None

    @property
    def host(self) -> Checkpoint:
        """The site's model."""
        self._host = self._host or open_checkpoint(self._site.settings.model)
        return self._host

    @property
    def before(self) -> tuple[Reading, Reading]:
        """Losses of the model as it is: on the domain, on general text."""
        if self._before is None:
            self._before = self.measure(plans.identity(self.host.layers), {})
        return self._before

    def measure(self, plan: plans.Plan, organs: dict[str, Organ]) -> tuple[Reading, Reading]:
        """Losses of the model of a plan: on the domain, on general text."""
        device = devices.pick(self._site.settings.device)
        model = assemble(plan, self.host, organs).to(device)
        domain, general = (
            read_losses(
                model,
                self.host.tokenizer,
                texts,
                block_tokens=BLOCK_TOKENS,
                advance=self.advance,
            )
            for texts in (self.held_out, self.general)
        )
        return domain, general


def _receipt(site: Site, request: TransplantRequest, digest: str, bench: _Bench) -> bytes:
    kept = site.place("receipts", request.exchange, f"{digest}-{request.mode}.json")
    if kept.is_file():
        return kept.read_bytes()
    folder, manifest = _trusted(site, request.exchange, digest)
    check(manifest, bench.host)
    position = manifest.span.start
    plan = plans.transplant(
        bench.host.layers, digest, len(manifest.span), mode=request.mode, position=position
    )
    domain_before, general_before = bench.before
    domain_after, general_after = bench.measure(plan, {digest: read_organ(folder)})
    change = compare(domain_before, domain_after, BOOTSTRAP_SEED)
    verdict = judge(
        change,
        general_after.perplexity / general_before.perplexity - 1,
        Tolerance(least_gain=site.policy.least_gain, most_forgetting=site.policy.most_forgetting),
    )
    if manifest.donor is None:
        raise OrganError("an organ without a donor; expected one that a site has claimed")
    receipt = Receipt(
        exchange=request.exchange,
        organ=digest,
        donor=manifest.donor,
        recipient=site.settings.site,
        mode=request.mode,
        position=position,
        domain_perplexity_before=round(domain_before.perplexity, 2),
        domain_perplexity_after=round(domain_after.perplexity, 2),
        general_perplexity_before=round(general_before.perplexity, 2),
        general_perplexity_after=round(general_after.perplexity, 2),
        change=round(change.change, 3),
        interval=(round(change.low, 3), round(change.high, 3)),
        documents=len(domain_before.losses),
        tokens=round(domain_before.tokens, -2) or 1,
        verdict=verdict.verdict,
        reason=verdict.reason,
    )
    envelope = statement.sign_statement(canonical.encode(receipt), RECEIPT_TYPE, site.identity)
    atomic.write(kept, envelope, mode=0o600)
    site.log.release("receipt", envelope, request.exchange)
    site.log.append(verdict.verdict, what="organ", digest=digest, exchange=request.exchange)
    return envelope


def _trusted(site: Site, exchange: str, digest: str) -> tuple[Path, Manifest]:
    """The folder of an organ that this site unsealed from a trusted donor, or made itself."""
    if own := own_organ(site, digest):
        return own, signing.verify_folder(own, site.root).manifest
    out = site.place("organs", "opened", digest)
    if out.is_dir():
        return out, signing.verify_folder(out, site.root).manifest
    sealed = _delivered(site, exchange, digest)
    if not sealed.is_file():
        raise OrganError("asked to try an organ that was not delivered in this exchange")
    opened = sealing.open_sealed(sealed, site.identity, site.root, out)
    if opened.offer.organ_digest != digest or opened.offer.exchange != exchange:
        raise OfferError("the sealed organ is not the one announced for this exchange")
    site.log.append("opened", what="organ", digest=digest, exchange=exchange)
    return opened.path, opened.manifest


def _delivered(site: Site, exchange: str, organ: str) -> Path:
    return site.place("organs", "in", exchange, f"{organ}.organ")
