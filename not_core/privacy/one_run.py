"""A lower bound on epsilon from one run: how often it was guessed right what was planted.

Source: Steinke, Nasr and Jagielski (2023), "Privacy Auditing with One (1) Training Run",
arXiv:2305.08846, theorem 5.2 and appendix D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

PARTS = (0.125, 0.5, 0.875)
"""Parts of the canaries that are guessed at; the best counts, at a level divided by their number.

A few guesses at the extremes show most where little leaks, many where much does. Never all: coins
do not fall evenly, and what was planted beyond half would be guessed wrong whatever is known.
"""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """How guessing went.

    Attributes:
        canaries: How many there were, planted or not, each by a fair coin of its own.
        made: Of how many it was guessed; of the others nothing was said.
        right: How many guesses were right.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"expected 0 <= right <= made <= canaries, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What guessing shows.

    Attributes:
        epsilon: With the confidence asked for, no mechanism of a smaller one was at work.
        most: What it would have been, had every guess been right: more cannot be shown with so
            many canaries.
        guesses: Those that show it.
    """

    epsilon: float
    most: float
    guesses: Guesses


def guess(scores: Sequence[float], planted: Sequence[bool], made: int) -> Guesses:
    """Guess that the highest scores were planted and the lowest were not, as many of each.

    Args:
        scores: One a canary, higher where it seems to have been learned; finite.
        planted: One coin a canary, to count what was right.
        made: Guesses, rounded down to an even number.
    """
    if len(scores) != len(planted) or not all(map(math.isfinite, scores)):
        raise ValueError("expected one finite score a canary")
    order = sorted(range(len(scores)), key=scores.__getitem__)
    each = made // 2
    right = sum(planted[i] for i in order[len(order) - each :])
    right += sum(not planted[i] for i in order[:each])
    return Guesses(canaries=len(scores), made=2 * each, right=right)


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Chance, at most, of so many right guesses, had the mechanism been (epsilon, delta)-DP.

    Args:
        guesses: How guessing went; how many are made must not have been chosen by the scores.
        epsilon: At least 0.
        delta: From 0 to 1; canaries are added or removed one by one.
    """
    import numpy as np
    from scipy.special import betainc, gammaln

    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"expected epsilon >= 0 and 0 <= delta <= 1, got {epsilon}, {delta}")
    made, right = guesses.made, guesses.right
    if not right:
        return 1.0
    # Of a binomial with the accuracy of randomised response, from its logarithms.
    yes, no = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    tail = betainc(right, made - right + 1, math.exp(yes))
    fewer = np.arange(1, right + 1)
    hits = right - fewer
    ways = gammaln(made + 1) - gammaln(hits + 1) - gammaln(made - hits + 1)
    just_below = np.cumsum(np.exp(ways + hits * yes + (made - hits) * no))
    slack = (just_below / fewer).max()
    return float(min(1.0, tail + 2 * guesses.canaries * delta * slack))


def epsilon_bound(guesses: Guesses, delta: float, level: float) -> float:
    """Largest epsilon, to 1e-4, at which so many right guesses are less likely than ``level``.

    Whatever is DP with a smaller epsilon is so with this one, and is refuted with it.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected 0 < level < 1, got {level}")
    if p_value(guesses, 0.0, delta) >= level:
        return 0.0
    low, high = 0.0, 1.0
    while p_value(guesses, high, delta) < level:
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        if p_value(guesses, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low


def bound(
    scores: Sequence[float],
    planted: Sequence[bool],
    delta: float,
    *,
    confidence: float = CONFIDENCE,
    parts: Sequence[float] = PARTS,
) -> Bound:
    """The best of the bounds that guesses at several parts of the canaries show.

    Args:
        scores: One a canary, higher where it seems to have been learned.
        planted: One coin a canary.
        delta: Of the claim that is put to the test.
        confidence: That the bound is no larger than the mechanism's own epsilon.
        parts: Of the canaries, to guess at; named before anything is seen.
    """
    level = (1 - confidence) / len(parts)
    found, most = [], 0.0
    for part in parts:
        guesses = guess(scores, planted, int(part * len(scores)))
        found.append((epsilon_bound(guesses, delta, level), guesses))
        perfect = Guesses(canaries=len(scores), made=guesses.made, right=guesses.made)
        most = max(most, epsilon_bound(perfect, delta, level))
    epsilon, guesses = max(found, key=lambda one: one[0])
    return Bound(epsilon=epsilon, most=most, guesses=guesses)
