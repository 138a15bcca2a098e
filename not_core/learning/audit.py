"""What an organ gives away of what it learned: its base read with and without it, side by side."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core import atomic, canonical
from not_core.errors import OrganError, RecordsError
from not_core.learning.readings import read_plans
from not_core.learning.text_blocks import Block, document_blocks, nats, predictions
from not_core.manifest import DifferentialPrivacy, Manifest
from not_core.privacy.canaries import Canaries, make, words_of
from not_core.privacy.report import AuditReport, Claim, Observed, conclude
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.organ import Organ
from not_core.surgery.plan import Mode, Plan, identity, transplant
from not_core.surgery.tensors import Form, table_digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BLOCK_TOKENS = 256
TOGETHER = 16
"""Canaries in one batch: they are short."""
SEED = "canaries.seed"
ORGAN = "organ"


def canaries_for(host: Checkpoint, count: int, work: Path | None = None) -> Canaries:
    """Canaries from a new secret seed.

    Args:
        host: The model to be trained; its tokenizer's words make the texts.
        count: Canaries, planted or not.
        work: Private folder of the training; what goes on there goes on with the same canaries.

    Raises:
        RecordsError: The tokenizer has no words to make them of.
    """
    seed = secrets.token_bytes(32)
    if work:
        kept = work / SEED
        if not kept.is_file():
            atomic.write(kept, seed, mode=0o600)
        seed = kept.read_bytes()
    try:
        return make(words_of(host.tokenizer), count, seed)
    except ValueError:
        raise RecordsError(
            "the model's tokenizer has no whole words to make canaries of; train without an audit"
        ) from None


def forget(work: Path | None) -> None:
    """Remove the canaries' seed once the organ is there."""
    if work:
        (work / SEED).unlink(missing_ok=True)


def audited(
    host: Checkpoint,
    organ: Organ,
    canaries: Canaries,
    *,
    claim: Claim | None = None,
    device: "torch.device | None" = None,
    advance: Callable[[int], None] = lambda texts: None,
) -> AuditReport:
    """Audit an organ that learned planted canaries.

    Args:
        host: Its base.
        organ: As it is shipped.
        canaries: Which were planted.
        claim: What its manifest claims; None for nothing.
        device: Where to run; None for the CPU.
        advance: Told how many texts were just read; each is, with the organ and without.
    """
    seen = observe(host, organ, canaries, device=device, advance=advance)
    return conclude(seen, canaries, organ=tensors_digest(organ.manifest), claim=claim)


def claimed(manifest: Manifest) -> Claim | None:
    """What an organ's manifest claims of its privacy."""
    stated = manifest.privacy
    if isinstance(stated, DifferentialPrivacy):
        return Claim(epsilon=stated.epsilon, delta=stated.delta)
    return None


def observe(
    host: Checkpoint,
    organ: Organ,
    canaries: Canaries,
    *,
    device: "torch.device | None" = None,
    advance: Callable[[int], None] = lambda texts: None,
) -> Observed:
    """Read canaries with and without an organ.

    The score is a difference of losses, so that what the base model thinks of a text cancels.

    Args:
        host: The organ's base.
        organ: As it is shipped.
        canaries: Planted or not; which is not looked at.
        device: Where to run; None for the CPU.
        advance: As in ``audited``.
    """
    documents = document_blocks(host.tokenizer, canaries.texts, BLOCK_TOKENS, 1)
    blocks = [parts[0] for parts in documents]
    readings = []
    for plan in (identity(host.layers), _with_organ(host, organ)):
        model = assemble(plan, host, {ORGAN: organ.source})
        if device is not None:
            model.to(device)
        readings.append(list(_read(model, blocks, advance)))
    before, after = readings
    return Observed(
        scores=tuple(b - a for (b, _), (a, _) in zip(before, after, strict=True)),
        recited=tuple(by_heart for _, by_heart in after),
        before=tuple(by_heart for _, by_heart in before),
    )


def _with_organ(host: Checkpoint, organ: Organ) -> Plan:
    training = organ.manifest.training
    mode: Mode = "insert" if training and training.scaffold == "inserted" else "replace"
    start = organ.manifest.span.start
    return transplant(host.layers, ORGAN, len(organ), mode=mode, position=start)


def _read(
    model: "PreTrainedModel", blocks: Sequence[Block], advance: Callable[[int], None]
) -> Iterator[tuple[float, bool]]:
    """Each block's loss in nats, and whether the model says its second half after its first.

    Greedy decoding says the second half if and only if each of its tokens is the likeliest after
    the true ones before it, so that one forward pass tells.
    """
    import torch

    for start in range(0, len(blocks), TOGETHER):
        batch = blocks[start : start + TOGETHER]
        with torch.inference_mode():
            logits, labels = predictions(model, batch)
            losses = nats(logits, labels).double().sum(dim=1).tolist()
            right = logits.argmax(dim=-1) == labels
        advance(len(batch))
        for row, block in enumerate(batch):
            yield losses[row], bool(right[row, len(block) // 2 - 1 : len(block) - 1].all())


def score_records(
    host: Checkpoint,
    organ: Organ,
    texts: Sequence[str],
    *,
    device: "torch.device | None" = None,
) -> tuple[float, ...]:
    """How much smaller the loss of each document's first block became with an organ, nats a token.

    Documents of less than two tokens are left out. Scores of private records stay at the site.

    Raises:
        RecordsError: No document has two tokens.
    """
    documents = document_blocks(host.tokenizer, texts, BLOCK_TOKENS, 1)
    plan = _with_organ(host, organ)
    found = read_plans(host, {ORGAN: organ.source}, {ORGAN: plan}, documents, device=device)
    pairs = zip(found.before.losses, found.after[ORGAN].losses, strict=True)
    return tuple((before.nats - after.nats) / before.tokens for before, after in pairs)


def tensors_digest(manifest: Manifest) -> str:
    """The digest by which a report names the organ that it is of."""
    return table_digest(
        (one.name, Form(one.dtype, one.shape), one.sha256) for one in manifest.tensors
    )


def beside(organ: Path) -> Path:
    """Where the report of an organ's audit is kept: at the site, beside what is shipped."""
    return organ.with_name(f"{organ.name}.audit.json")


def write_report(path: Path, report: AuditReport) -> None:
    """Write the report of an audit as canonical JSON."""
    atomic.write(path, canonical.encode(report), mode=0o600)


def summary(report: AuditReport) -> dict[str, Any]:
    """A report as plain JSON, with its digest."""
    return {"digest": report.digest, **canonical.plain(canonical.encode(report), "audit report")}


def read_report(path: Path, manifest: Manifest) -> AuditReport:
    """Read the report of an organ's audit.

    Raises:
        OrganError: The organ was not audited, or this is no report of its audit.
        FormatError: It is not a report of a version that this program reads.
    """
    if manifest.audit is None:
        raise OrganError("the organ's manifest names no audit; train with --audit to have one")
    data = canonical.read_bounded(path)
    if canonical.sha256(data) != manifest.audit:
        raise OrganError(f"{path} is not the report that the organ's manifest names; get that one")
    report = canonical.decode(AuditReport, data, "audit report")
    if report.organ != tensors_digest(manifest):
        raise OrganError(f"{path} is of another organ's tensors; ask the donor for its own audit")
    if report.claim != claimed(manifest):
        raise OrganError(
            f"{path} tests another claim than the organ's manifest makes; ask the donor for an "
            "audit of its own claim"
        )
    return report
