"""``evaluate``, ``compare`` and ``audit``: how a model reads, and what an organ gives away."""

import os
from collections.abc import Callable
from pathlib import Path

from not_core.learning import audit as audits
from not_core.learning import device as devices
from not_core.learning.evaluation import Change, Reading, read_losses
from not_core.learning.evaluation import compare as compare_readings
from not_core.learning.records import read_records
from not_core.privacy.report import AuditReport
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.organ import read_manifest
from not_core.surgery.plan import identity
from not_core.verbs.facts import StrPath


def evaluate(
    model: StrPath,
    data: StrPath,
    *,
    text_field: str = "text",
    block_tokens: int = 256,
    whole_documents: bool = False,
    limit: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    advance: Callable[[int, int], None] = lambda tokens, total: None,
) -> Reading:
    """Measure a model's token-weighted perplexity on held-out records, by document.

    Args:
        model: Model folder, .gguf file or hub id.
        data: Held-out records; see ``train``.
        text_field: Field that holds a record's text.
        block_tokens: Longest block read, in tokens.
        whole_documents: Whether all blocks of a document are read, not the first only.
        limit: Read at most so many records.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        threads: CPU threads; None for torch's choice.
        advance: Told of the tokens just read, and of how many there are at most.

    Returns:
        The losses; ``compare`` says whether two such readings surely differ.

    Raises:
        CheckpointError: The model cannot be read.
        RecordsError: The records cannot be read, or no document has two tokens.
    """
    host = open_checkpoint(os.fspath(model))
    texts = read_records(Path(data), text_field)[:limit]
    total = len(texts) * block_tokens
    with devices.threads(threads):
        body = assemble(identity(host.layers), host, {}).to(devices.pick(device))
        return read_losses(
            body,
            host.tokenizer,
            texts,
            block_tokens=block_tokens,
            blocks_per_document=None if whole_documents else 1,
            advance=lambda read: advance(read, total),
        )


def compare(before: Reading, after: Reading, *, seed: int = 0) -> Change:
    """Say how perplexity changed between two readings of the same documents, and how surely.

    Args:
        before: As ``evaluate`` gives it.
        after: Of the same documents.
        seed: Of the resampling.

    Returns:
        The relative change, and its 95% interval by a paired bootstrap over documents; where the
        interval lies below 0, ``after`` is surely better.

    Raises:
        ValueError: The readings are not of the same documents.
    """
    return compare_readings(before, after, seed)


def audit(organ: StrPath, *, report: StrPath | None = None) -> AuditReport:
    """Read what the audit of an organ found, if it is the one that the organ's manifest names.

    Args:
        organ: Organ folder.
        report: The audit's report; None for the one beside the organ.

    Raises:
        OrganError: The organ was not audited, or this is no report of its audit.
        FormatError: It is not a report of a version that this program reads.
    """
    folder = Path(organ)
    kept = audits.beside(folder) if report is None else Path(report)
    return audits.read_report(kept, read_manifest(folder))
