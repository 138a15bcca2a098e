"""A site as recipient: take in sealed bytes, verify and open, transplant, measure, judge.

An organ reaches a model only as an ``OpenedOrgan``, which only unsealing makes, or as one this
site trained itself.
"""

from pathlib import Path

from client.bench import Bench
from client.donor import own_organ
from client.home import Site
from client.records import general_texts, own_split
from not_core import atomic, canonical
from not_core.errors import OfferError, OrganError, PolicyError
from not_core.learning.evaluation import compare
from not_core.learning.verdict import Tolerance, judge
from not_core.manifest import Manifest
from not_core.protocol import (
    RECEIPT_TYPE,
    Delivered,
    DeliverRequest,
    Receipt,
    TransplantRequest,
    Trial,
)
from not_core.surgery import plan as plans
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.compatibility import check
from not_core.surgery.organ import read_organ
from not_core.trust import sealing, signing, statement

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


def transplant(site: Site, request: TransplantRequest, body: bytes) -> tuple[Trial, bytes]:
    """Try an organ in the site's model, measure, judge, and sign a receipt.

    Raises:
        PolicyError: Fewer held-out documents than may be reported on.
        NotError: The organ is not to be trusted or does not fit.
    """
    kept = site.place("receipts", request.exchange, f"{request.organ}-{request.mode}.json")
    if kept.is_file():
        return Trial(receipt=kept.read_text(encoding="utf-8")), b""
    folder, manifest = _trusted(site, request.exchange, request.organ)
    receipt = _measure(site, request, folder, manifest)
    envelope = statement.sign_statement(canonical.encode(receipt), RECEIPT_TYPE, site.identity)
    atomic.write(kept, envelope, mode=0o600)
    site.log.release("receipt", envelope, request.exchange)
    site.log.append(receipt.verdict, what="organ", digest=request.organ, exchange=request.exchange)
    return Trial(receipt=envelope.decode()), b""


def _measure(site: Site, request: TransplantRequest, folder: Path, manifest: Manifest) -> Receipt:
    settings, policy = site.settings, site.policy
    if manifest.donor is None:
        raise OrganError("an organ without a donor; expected one that a site has claimed")
    host = open_checkpoint(settings.model)
    check(manifest, host)
    position = manifest.span.start
    plan = plans.transplant(
        host.layers, request.organ, len(manifest.span), mode=request.mode, position=position
    )
    held_out = own_split(site).held_out
    if len(held_out) < policy.least_documents:
        raise PolicyError(
            f"{len(held_out)} held-out documents, the policy reports on no fewer than "
            f"{policy.least_documents}"
        )
    bench = Bench(site, host, held_out, general_texts(site))
    before = bench.before()
    after = bench.read(plan, {request.organ: read_organ(folder)})
    change = compare(before.domain, after.domain, BOOTSTRAP_SEED)
    verdict = judge(
        change,
        after.general.perplexity / before.general.perplexity - 1,
        Tolerance(least_gain=policy.least_gain, most_forgetting=policy.most_forgetting),
    )
    return Receipt(
        exchange=request.exchange,
        organ=request.organ,
        donor=manifest.donor,
        recipient=settings.site,
        mode=request.mode,
        position=position,
        domain_perplexity_before=round(before.domain.perplexity, 2),
        domain_perplexity_after=round(after.domain.perplexity, 2),
        general_perplexity_before=round(before.general.perplexity, 2),
        general_perplexity_after=round(after.general.perplexity, 2),
        change=round(change.change, 3),
        interval=(round(change.low, 3), round(change.high, 3)),
        documents=len(before.domain.losses),
        tokens=max(100, round(before.domain.tokens, -2)),
        verdict=verdict.verdict,
        reason=verdict.reason,
    )


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
