"""How well scores tell members from others: what holds for records as for canaries."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core.canonical import STRICT

FALSE_POSITIVES = 0.01
"""Part of the others that may be taken for members."""
LEAST = math.ceil(1 / FALSE_POSITIVES)
"""Others without whom that part is less than one of them, and nothing can be said of it."""
DIGITS = 4

Part = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Estimate:
    """A part between 0 and 1, with its 95% interval."""

    value: Part
    low: Part
    high: Part


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Membership:
    """How well members are told from others.

    Attributes:
        members: How many members were scored.
        others: How many others were.
        area: Under the receiver operating characteristic: the chance that a member's score is
            higher than another's; 0.5 tells nothing. None if there are none of one kind.
        true_positives: Part of the members found where ``FALSE_POSITIVES`` of the others pass for
            members; the interval is for the threshold that these very others set. None where
            fewer than ``LEAST`` others cannot tell.
    """

    members: int
    others: int
    area: Estimate | None
    true_positives: Estimate | None


def membership(members: Sequence[float], others: Sequence[float]) -> Membership:
    """Measure how well scores tell members from others.

    Args:
        members: Scores of what was learned; higher means rather learned.
        others: Scores of what was not.

    Source: the variance of the area is at most area * (1 - area) / min(members, others), Van
        Dantzig (1951), so Wilson's interval for so few trials holds it, with nothing assumed of
        how scores are distributed; Clopper and Pearson (1934) for the part found; Carlini et al.
        (2022), arXiv:2112.03570, for what to measure.
    """
    found = true = None
    if members and others:
        area = _area(members, others)
        found = _estimate(area, *_wilson(area, min(len(members), len(others))))
        if len(others) >= LEAST:
            may_pass = int(FALSE_POSITIVES * len(others))
            threshold = sorted(others, reverse=True)[may_pass]
            true = proportion(sum(score > threshold for score in members), len(members))
    return Membership(members=len(members), others=len(others), area=found, true_positives=true)


def curve(members: Sequence[float], others: Sequence[float]) -> list[tuple[float, float]]:
    """The receiver operating characteristic: false and true positives at every threshold."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*members, *others}, reverse=True):
        false = sum(score >= threshold for score in others) / len(others)
        points.append((false, sum(score >= threshold for score in members) / len(members)))
    return points


def proportion(hits: int, trials: int) -> Estimate:
    """A part that was counted, with Clopper and Pearson's interval; of no trial, anything."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return _estimate(hits / trials if trials else 0.0, low, high)


def _area(members: Sequence[float], others: Sequence[float]) -> float:
    from scipy.stats import rankdata

    ranks = rankdata([*members, *others])[: len(members)].sum()
    pairs = len(members) * len(others)
    return float((ranks - len(members) * (len(members) + 1) / 2) / pairs)


def _wilson(part: float, trials: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.975)
    middle = (part + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = math.sqrt(part * (1 - part) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return z * -reach + middle, middle + z * reach


def _estimate(value: float, low: float, high: float) -> Estimate:
    """Rounded outwards, so that an interval never promises more than was measured."""
    scale = 10**DIGITS
    return Estimate(
        value=round(value, DIGITS),
        low=max(0.0, math.floor(low * scale) / scale),
        high=min(1.0, math.ceil(high * scale) / scale),
    )
