"""A site as recipient: take in sealed bytes, verify and open, transplant, measure, judge.

An organ reaches a model only as an ``OpenedOrgan``, which only unsealing makes, or as one this
site trained itself.
"""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from client.bench import Bench
from client.donor import OwnOrgan, own_organ
from client.home import Site
from client.policy import JUDGING, check_delivery, check_privacy, trial_of
from client.records import general_texts, held_out_texts
from client.reveals import DIGITS, rounded
from not_core import atomic, canonical
from not_core.errors import NotError, OfferError, OrganError, PolicyError, SignatureError
from not_core.learning.evaluation import compare
from not_core.learning.verdict import Tolerance, judge
from not_core.manifest import DifferentialPrivacy, Manifest
from not_core.privacy.statement import check as check_statement
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
from not_core.surgery.quarantine import Bounds, admit
from not_core.trust import sealing, statement
from not_core.trust.archive import CHUNK
from not_core.trust.delivery import open_file, read_header
from not_core.trust.offer import peek_offer
from not_core.trust.sealing import OpenedOrgan

BOOTSTRAP_SEED = 0


def deliver(site: Site, request: DeliverRequest, body: bytes) -> tuple[Delivered, bytes]:
    """Write a segment to disk; answer how much is held, so that a sender can resume.

    Raises:
        PolicyError: Larger, or more of them, than the site takes in.
        OfferError: The bytes that arrived are not those that were offered.
    """
    whole = site.store.delivered.path(request.exchange, request.organ)
    if whole.is_file() and canonical.sha256_file(whole) == request.sealed_sha256:
        return Delivered(organ=request.organ, held=whole.stat().st_size), b""
    part = whole.with_suffix(f".{request.sealed_sha256[:16]}.part")
    _check_room(site, request, part, len(body))
    held = part.stat().st_size if site.place(part).is_file() else 0
    if request.offset <= held < request.offset + len(body) <= request.sealed_bytes:
        with part.open("ab") as file:
            file.write(body[held - request.offset :])
        held = request.offset + len(body)
    if _complete(site, request, part):
        held = request.sealed_bytes
    elif held == request.sealed_bytes and canonical.sha256_file(part) != request.sealed_sha256:
        part.unlink()
        raise OfferError("the delivered bytes are not those announced; deliver them again")
    if held == request.sealed_bytes:
        site.log.append(
            "received",
            what="sealed organ",
            digest=request.sealed_sha256,
            size=held,
            exchange=request.exchange,
        )
        part.rename(whole)  # instead of what came under an earlier offer
    return Delivered(organ=request.organ, held=held), b""


def _check_room(site: Site, request: DeliverRequest, part: Path, more: int) -> None:
    """Check that a part may grow by so many bytes.

    Raises:
        PolicyError: The site takes in no more.
    """
    sizes = {path: path.stat().st_size for path in site.store.delivered.files()}
    check_delivery(site.policy, request, sum(sizes.values()) + more, len(sizes.keys() | {part}))


def _complete(site: Site, request: DeliverRequest, part: Path) -> bool:
    """Add to a header that has come the body that came before, under another offer.

    Nothing is believed of either: the whole must have the digest that is announced, and is
    verified, as any, when it is opened.
    """
    with suppress(NotError), open_file(part) as file:  # no header yet, or none that can be read
        wanted, start = peek_offer(read_header(file).envelope), file.tell()
        if part.stat().st_size != start or start + wanted.body_bytes != request.sealed_bytes:
            return False
        _check_room(site, request, part, wanted.body_bytes)
        for before in site.store.delivered.whole(request.organ):
            with suppress(NotError), open_file(before) as held, part.open("ab") as out:
                if peek_offer(read_header(held).envelope).body_sha256 != wanted.body_sha256:
                    continue
                shutil.copyfileobj(held, out, CHUNK)
                out.flush()
                if canonical.sha256_file(part) == request.sealed_sha256:
                    return True
                out.truncate(start)
    return False


def transplant(site: Site, request: TransplantRequest, body: bytes) -> tuple[Trial, bytes]:
    """Try an organ in the site's model, measure, judge, and sign a receipt.

    A receipt that is kept is sent again while bench and policy are those that it was made by.

    It is open in ``organs/trying`` meanwhile; an accepted one stays so, in ``organs/opened``.

    Raises:
        PolicyError: Fewer held-out documents than may be reported on, or less privacy than the
            site demands.
        PrivacyError: The organ understates its epsilon.
        QuarantineError: Its tensors fail a check; the model is not assembled.
        NotError: The organ is not to be trusted or does not fit.
    """
    bench = Bench(
        site, open_checkpoint(site.settings.model), held_out_texts(site), general_texts(site)
    )
    rules = {field: str(getattr(site.policy, field)) for field in JUDGING}
    key = canonical.digest({"bench": bench.key, **rules})
    evidence = f"{request.organ}-{request.mode}-{key[:16]}.json"
    kept = site.place("receipts", request.exchange, evidence)
    if kept.is_file():
        return Trial(receipt=_signed(site, kept.read_bytes(), kept)), b""
    trusted = own_organ(site, request.organ) or _open(site, request.exchange, request.organ)
    keep = False
    try:
        if isinstance(trusted, OpenedOrgan):
            _check_privacy(site, trusted.manifest)
            _count_trial(site, request, trusted)
        else:
            _check_split(site, trusted.manifest)
        receipt = _measure(site, request, trusted, bench)
        keep = receipt.verdict == "accepted"
    finally:
        if isinstance(trusted, OpenedOrgan):
            place = site.place(site.store.opened(request.organ))
            if keep and place.is_dir():
                shutil.rmtree(place)
            trusted.path.rename(place) if keep else shutil.rmtree(trusted.path)
    envelope = statement.sign_statement(canonical.encode(receipt), RECEIPT_TYPE, site.identity)
    site.log.append(receipt.verdict, what="organ", digest=request.organ, exchange=request.exchange)
    atomic.write(kept, envelope, mode=0o600)
    return Trial(receipt=envelope.decode()), b""


def _signed(site: Site, envelope: bytes, kept: Path) -> str:
    """A receipt of this site's own as kept, or signed anew if the site has other keys since."""
    try:
        statement.verify_statement(envelope, RECEIPT_TYPE, site.identity.signing_key.public_key())
    except SignatureError:
        payload = statement.claimed_payload(envelope)
        envelope = statement.sign_statement(payload, RECEIPT_TYPE, site.identity)
        atomic.write(kept, envelope, mode=0o600)
    return envelope.decode()


def _open(site: Site, exchange: str, digest: str) -> OpenedOrgan:
    """Unseal a delivered organ anew: what was opened on an earlier day proves nothing."""
    sealed = site.store.delivered.path(exchange, digest)
    if not sealed.is_file():
        raise OrganError("asked to try an organ that was not delivered in this exchange")
    offer = sealing.verify_sealed(sealed, site.trust, exchange=exchange).offer
    if offer.organ_digest != digest:
        raise OfferError("the sealed organ is not the one announced for this exchange")
    out = site.place(site.store.trying(digest))
    for left in out.parent.glob("*"):  # of whoever died over it
        shutil.rmtree(left)
    opened = sealing.open_unremembered(sealed, site.identity, out, exchange=exchange)
    site.log.append("opened", what="organ", digest=digest, exchange=exchange)
    return opened


def _check_privacy(site: Site, organ: Manifest) -> None:
    """Hold what the donor states against its own numbers, and these against what is demanded."""
    stated = organ.privacy
    if isinstance(stated, DifferentialPrivacy):
        stated = replace(stated, epsilon=max(stated.epsilon, check_statement(stated).pld))
    check_privacy(site.policy, stated)


def _check_split(site: Site, own: Manifest) -> None:
    """Check that an organ of the site's own was trained under the split that it is measured by.

    Raises:
        PolicyError: Another: documents that are held out now may have been trained on.
    """
    unit = own.privacy.unit if isinstance(own.privacy, DifferentialPrivacy) else None
    if unit != site.unit:
        raise PolicyError(
            f"this site's organ was trained by {unit or 'document'}, its records are split by "
            f"{site.unit or 'document'} now: it may know what it would be measured on; train anew"
        )


def _count_trial(site: Site, request: TransplantRequest, organ: OpenedOrgan) -> None:
    """Allow each donor so many trials, ever.

    Raises:
        PolicyError: This one would be one too many.
    """
    what = trial_of(str(organ.manifest.donor))
    tried = {entry.digest for entry in site.log.entries(what)}
    if len(tried | {request.organ}) > site.policy.most_trials:
        raise PolicyError(
            f"{len(tried)} organs of {organ.manifest.donor} were tried, the policy allows "
            f"{site.policy.most_trials}; raise most_trials to try more"
        )
    site.log.append("trying", what=what, digest=request.organ, exchange=request.exchange)


def _measure(
    site: Site, request: TransplantRequest, trusted: OpenedOrgan | OwnOrgan, bench: Bench
) -> Receipt:
    settings, policy, host = site.settings, site.policy, bench.host
    bounds = Bounds(most_bytes=policy.most_sealed_bytes, most_drift=policy.most_drift)
    organ = admit(trusted.path, host, bounds)
    manifest = organ.manifest
    # What is read must be what was verified and asked for: tensors follow the manifest's digests.
    if manifest.digest != request.organ or manifest != trusted.manifest or manifest.donor is None:
        raise OrganError("the organ's folder does not hold the organ that was asked for")
    if isinstance(trusted, OpenedOrgan):
        sealing.remember(trusted, site.identity)  # all checks are passed; now it is measured
    position = manifest.span.start
    plan = plans.transplant(
        host.layers, request.organ, len(manifest.span), mode=request.mode, position=position
    )
    before = bench.before()
    if len(before.domain.losses) < policy.least_documents:
        raise PolicyError(
            f"{len(before.domain.losses)} held-out documents could be measured, the policy "
            f"reports on no fewer than {policy.least_documents}"
        )
    after = bench.read(plan, {request.organ: organ.source})
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
        domain_perplexity_before=rounded("domain_perplexity_before", before.domain.perplexity),
        domain_perplexity_after=rounded("domain_perplexity_after", after.domain.perplexity),
        general_perplexity_before=rounded("general_perplexity_before", before.general.perplexity),
        general_perplexity_after=rounded("general_perplexity_after", after.general.perplexity),
        change=rounded("change", change.change),
        interval=(rounded("interval", change.low), rounded("interval", change.high)),
        documents=len(before.domain.losses),
        general_documents=len(before.general.losses),
        tokens=max(100, round(before.domain.tokens, DIGITS["tokens"])),
        verdict=verdict.verdict,
        reason=verdict.reason,
    )
