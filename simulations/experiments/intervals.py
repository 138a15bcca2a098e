"""95% intervals of ratios, over seeds or test documents: neither holds both kinds of chance."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from not_core.learning.evaluation import DocumentLoss, Reading, compare

Row = Mapping[str, Any]
Pair = tuple[Row, Row]
"""Measurements of two methods with the same seed."""


def interval(logs: Sequence[float]) -> list[float] | None:
    """95% interval over seeds of exp(mean), by Student's t; None for one seed."""
    if len(logs) < 2:
        return None
    from scipy.stats import t

    half = t.ppf(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return [round(math.exp(fmean(logs) + side * half), 4) for side in (-1, 1)]


def by_documents(pairs: Sequence[Pair], text: str = "domain") -> list[float]:
    """95% interval of a ratio over documents, by a paired bootstrap of losses, means over seeds.

    Args:
        pairs: Measurements, each with another's of the same seed.
        text: Which losses: ``domain`` or ``general``.
    """
    ours, theirs = (_means([pair[side][f"{text}_losses"] for pair in pairs]) for side in (0, 1))
    change = compare(theirs, ours, seed=0)
    return [round(1 + change.low, 4), round(1 + change.high, 4)]


def _means(seeds: Sequence[Sequence[tuple[float, int]]]) -> Reading:
    """Losses of each document, means over seeds."""
    return Reading(
        tuple(
            DocumentLoss(fmean(nats for nats, _ in losses), losses[0][1])
            for losses in zip(*seeds, strict=True)
        )
    )
