"""A recipient's verdict on a transplant, from its own measurements and its own tolerance."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from not_core.learning.evaluation import Change

_SHARE = r"\d{1,9}\.\d%"
_CHANGE = rf"[+-]{_SHARE}"
_DOMAIN = rf"domain perplexity changed by {_CHANGE}, 95% interval {_CHANGE} to {_CHANGE}"
_REASONS = {
    "accepted": re.compile(_DOMAIN),
    "rejected": re.compile(
        "perplexity is not finite with it"
        rf"|{_DOMAIN}: (worse than without it|not surely better than without it"
        rf"|less than the {_SHARE} this site asks for)"
        rf"|general perplexity changed by {_CHANGE}: more than the {_SHARE} this site tolerates"
    ),
}
"""What verdicts give as reasons: words of ours, and numbers with one decimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a recipient asks of an organ.

    Attributes:
        least_gain: Smallest fall of domain perplexity worth a transplant, as a fraction.
        most_forgetting: Largest rise of general perplexity it accepts, as a fraction.
    """

    least_gain: float = 0.02
    most_forgetting: float = 0.10

    def __post_init__(self) -> None:
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"expected 0 <= least_gain < 1, got {self.least_gain}")
        if not self.most_forgetting >= 0:
            raise ValueError(f"expected most_forgetting >= 0, got {self.most_forgetting}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accepted or rejected, and why, in words that hold numbers and nothing of a record."""

    verdict: Literal["accepted", "rejected"]
    reason: str


def explains(verdict: Literal["accepted", "rejected"], reason: str) -> bool:
    """Whether a reason is one that ``judge`` gives for a verdict."""
    return _REASONS[verdict].fullmatch(reason) is not None


def judge(domain: "Change", general: float, tolerance: Tolerance) -> Verdict:
    """Accept an organ only when it surely helps here and does not harm elsewhere.

    Args:
        domain: Change of perplexity on the recipient's held-out records.
        general: Relative change of perplexity on general text.
        tolerance: The recipient's.
    """
    if not all(map(math.isfinite, (domain.change, general))):
        return Verdict("rejected", "perplexity is not finite with it")
    interval = f"95% interval {domain.low:+.1%} to {domain.high:+.1%}"
    if domain.high >= 0:
        return Verdict(
            "rejected",
            f"domain perplexity changed by {domain.change:+.1%}, {interval}: "
            + ("worse than without it" if domain.low > 0 else "not surely better than without it"),
        )
    if domain.change > -tolerance.least_gain:
        return Verdict(
            "rejected",
            f"domain perplexity changed by {domain.change:+.1%}, {interval}: "
            f"less than the {tolerance.least_gain:.1%} this site asks for",
        )
    if general > tolerance.most_forgetting:
        return Verdict(
            "rejected",
            f"general perplexity changed by {general:+.1%}: "
            f"more than the {tolerance.most_forgetting:.1%} this site tolerates",
        )
    return Verdict("accepted", f"domain perplexity changed by {domain.change:+.1%}, {interval}")
