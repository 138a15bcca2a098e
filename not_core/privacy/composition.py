"""The most charged among units whose histories of mechanisms differ."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from not_core.privacy.accounting import Mechanism

Epsilon = Callable[[Sequence[Mechanism], float], float]
"""Composed epsilon of mechanisms at a delta."""

History = tuple[Mechanism, ...]


def worst(histories: Iterable[Iterable[Mechanism]], delta: float, epsilon: Epsilon) -> float:
    """Largest composed epsilon of histories; 0 without any, infinite where one is not a number.

    A history that is part of another costs no more, so only those that no other holds are composed.
    """
    values = (epsilon(history, delta) for history in _largest(map(_merged, histories)))
    return max((value if value >= 0 else math.inf for value in values), default=0.0)


def _merged(history: Iterable[Mechanism]) -> Counter[tuple[float, float]]:
    """Steps by sampling probability and noise multiplier; the order does not matter."""
    steps: Counter[tuple[float, float]] = Counter()
    for one in history:
        steps[one.sampling_probability, one.noise_multiplier] += one.steps
    return steps


def _largest(histories: Iterable[Counter[tuple[float, float]]]) -> list[History]:
    kept: list[Counter[tuple[float, float]]] = []
    for history in sorted(histories, key=Counter.total, reverse=True):
        if history and not any(history <= other for other in kept):
            kept.append(history)
    return [
        tuple(Mechanism(*which, steps) for which, steps in sorted(history.items()))
        for history in kept
    ]
