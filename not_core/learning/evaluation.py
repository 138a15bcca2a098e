"""Perplexity on held-out documents, and what may be concluded from a difference.

Perplexity is token-weighted over documents; intervals resample documents, because the tokens of
one document are not independent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from not_core.errors import RecordsError
from not_core.learning.text_blocks import Block, document_blocks, token_nats

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RESAMPLES = 2000
LARGEST = 709.0
"""Nats whose exponential a float still holds."""
BATCH_TOKENS = {"cpu": 1, "mps": 4096, "cuda": 16_384}
"""Padded tokens in one batch; a CPU gains nothing from batches and pays for them in memory."""


@dataclass(frozen=True, slots=True)
class DocumentLoss:
    """Summed negative log-likelihood of one document, in nats, and the tokens it is over."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class Reading:
    """Losses of a model on documents, in their order."""

    losses: tuple[DocumentLoss, ...]

    def __repr__(self) -> str:
        read = f"{len(self.losses)} documents, {self.tokens} tokens"
        return f"perplexity {self.perplexity:.4g} ({read})"

    @property
    def tokens(self) -> int:
        """Predicted tokens in all documents."""
        return sum(loss.tokens for loss in self.losses)

    @property
    def perplexity(self) -> float:
        """exp(total nats / total tokens); infinite where that is too large for a float."""
        return exponential(sum(loss.nats for loss in self.losses) / self.tokens)


@dataclass(frozen=True, slots=True, repr=False)
class Change:
    """Relative change of perplexity, after / before - 1, with its 95% interval."""

    change: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.change:+.1%}, 95% interval {self.low:+.1%} to {self.high:+.1%}"


def read_losses(
    model: "PreTrainedModel",
    tokenizer: Any,
    texts: Sequence[str],
    *,
    block_tokens: int = 256,
    blocks_per_document: int | None = 1,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Reading:
    """Measure a model on documents.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: Its tokenizer.
        texts: Held-out documents.
        block_tokens: Documents are read in blocks of at most this many tokens.
        blocks_per_document: Blocks read of each document; None for all.
        advance: Called with the number of tokens just read.

    Raises:
        RecordsError: No document has two tokens.
    """
    documents = document_blocks(tokenizer, texts, block_tokens, blocks_per_document)
    return read_blocks(model, documents, advance=advance)


def read_blocks(
    model: "PreTrainedModel",
    documents: Sequence[Sequence[Block]],
    *,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Reading:
    """Measure a model on documents that are cut into blocks of token ids already.

    Raises:
        RecordsError: No document has two tokens.
    """
    import torch

    tally = Tally(documents)
    with torch.inference_mode():
        for batch in batches(documents, model.device):
            tally.add(batch, token_nats(model, [block for _, block in batch]))
            advance(sum(len(block) for _, block in batch))
    return tally.reading()


Batch = Sequence[tuple[int, Block]]
"""Blocks that are read together, each with the index of its document."""


def batches(documents: Sequence[Sequence[Block]], device: "torch.device") -> list[Batch]:
    """Blocks in batches that pad little and suit a device.

    Raises:
        RecordsError: No document has two tokens.
    """
    blocks = sorted(
        ((index, block) for index, parts in enumerate(documents) for block in parts),
        key=lambda entry: (-len(entry[1]), entry[0]),
    )
    if not blocks:
        raise RecordsError("no document has two tokens; bring longer held-out documents")
    tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["mps"])
    found: list[Batch] = []
    start = 0
    while start < len(blocks):
        size = max(1, tokens // len(blocks[start][1]))
        found.append(blocks[start : start + size])
        start += size
    return found


class Tally:
    """Losses by document, added up batch by batch."""

    def __init__(self, documents: Sequence[Sequence[Block]]) -> None:
        self._documents = documents
        self._nats = [0.0] * len(documents)

    def add(self, batch: Batch, nats: "torch.Tensor") -> None:
        """Add the losses of a batch, shape ``(blocks, tokens)``, in nats."""
        sums = nats.double().sum(dim=1)
        for (index, _), loss in zip(batch, sums.tolist(), strict=True):
            self._nats[index] += loss

    def reading(self) -> Reading:
        """What has been added, for each document that has blocks."""
        return Reading(
            tuple(
                DocumentLoss(total, sum(len(block) - 1 for block in parts))
                for total, parts in zip(self._nats, self._documents, strict=True)
                if parts
            )
        )


def compare(before: Reading, after: Reading, seed: int) -> Change:
    """Paired bootstrap over documents of the relative change of perplexity.

    Args:
        before: Losses without the organ.
        after: Losses with it, on the same documents.
        seed: Of the resampling.

    Returns:
        The change and its 95% interval: percentiles of the bootstrap, expanded as Student's t
        expands the normal, because plain percentiles are too narrow for few documents. One
        document has no spread: its interval is unbounded, and so is that of an infinite change.

    Raises:
        ValueError: The readings are not of the same documents.

    Source: Efron and Tibshirani (1993), section 13.3; Hesterberg (2015), "What teachers should
        know about the bootstrap", section 5.3 (expanded percentile interval).
    """
    import numpy as np

    if [loss.tokens for loss in before.losses] != [loss.tokens for loss in after.losses]:
        raise ValueError("expected two readings of the same documents")
    delta = np.array([b.nats - a.nats for a, b in zip(before.losses, after.losses, strict=True)])
    tokens = np.array([loss.tokens for loss in before.losses])
    change = exponential(float(delta.sum() / tokens.sum())) - 1
    if len(tokens) < 2 or change == math.inf:
        return Change(change, -1.0, math.inf)

    def changes(drawn: Any) -> Any:
        nats = delta[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
        return np.expm1(np.minimum(nats, LARGEST))

    return Change(change, *resampled(len(tokens), changes, seed))


def exponential(nats: float) -> float:
    """exp(nats): a perplexity, or a ratio of two; infinite where that is too large for a float."""
    return math.exp(nats) if nats <= LARGEST else math.inf


def resampled(count: int, statistic: Callable[[Any], Any], seed: int) -> tuple[float, float]:
    """95% interval of a statistic over documents, by the bootstrap that ``compare`` describes.

    Args:
        count: Documents; at least two.
        statistic: Takes numbers of documents, shape ``(resamples, count)``, and returns what was
            found with each row of them, shape ``(resamples,)``.
        seed: Of the resampling.
    """
    import numpy as np

    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    tail = _expanded_tail(count)
    low, high = np.quantile(statistic(drawn), [tail, 1 - tail])
    return float(low), float(high)


def _expanded_tail(count: int) -> float:
    """Tail probability that makes a 95% percentile interval as wide as Student's t would."""
    normal = NormalDist()
    z, free = normal.inv_cdf(0.975), count - 1
    # Cornish-Fisher expansion of the t quantile; within 0.2% from 5 degrees of freedom on.
    t = (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )
    return normal.cdf(-math.sqrt(count / free) * t)
