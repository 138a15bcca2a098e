"""What steps of DP-SGD cost a privacy unit: epsilon at a delta, by three accountants.

A step samples units by Poisson sampling, clips each one's gradient and adds Gaussian noise; the
neighbouring relation is to add or remove one unit. dp-accounting's privacy loss distribution (PLD)
charges and states: it never understates. Its Rényi accountant (RDP) is looser, and Opacus' (PRV)
is another's work on the same bound: both are there to be compared with.
"""

import math
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

from not_core.errors import PrivacyError
from not_core.manifest import LEAST_DELTA, MOST_EPSILON, MOST_NOISE

Accountant = Literal["pld", "rdp", "prv"]

ACCOUNTANT = f"dp-accounting {version('dp-accounting')}, PLD"
"""What states an epsilon, as a statement names it."""

LEAST_NOISE = 0.01
"""Smallest noise multiplier that is accounted for: less protects nobody."""

INTERVAL, MOST_POINTS = 0.04, 2**21
"""First interval between the losses of a PLD, and most points of one; it is refined by four."""

AGREEMENT = 0.005
"""A PLD is fine enough when the one before, four times as coarse, had so little more epsilon.

Its error falls with the interval, or faster: what is left is a third of this, or less.
"""

PRV_ERROR = 0.0025
"""Error of the PRV accountant, absolute below an epsilon of 1 and relative above."""

ORDERS = (
    *(1 + step / 4 for step in range(1, 40)),
    *range(11, 64),
    *sorted({round(64 * 1.1**step) for step in range(45)}),
)
"""Rényi orders, up to 4,200: small epsilons take high ones."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Steps of the Poisson-sampled Gaussian mechanism, one unit added or removed.

    Attributes:
        sampling_probability: Chance of each unit in each step, > 0, at most 1.
        noise_multiplier: Standard deviation of the noise over the clipping bound, > 0.
        steps: How many of them, at least 1.
    """

    sampling_probability: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sampling_probability <= 1:
            raise PrivacyError(
                f"sampling probability is {self.sampling_probability}, expected more than 0 and at "
                "most 1; choose fewer units a step"
            )
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(
                f"noise multiplier is {self.noise_multiplier}, expected a finite number above 0"
            )
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise PrivacyError(f"{self.steps} steps, expected a whole number from 1")


def epsilon(mechanisms: Sequence[Mechanism], delta: float, accountant: Accountant = "pld") -> float:
    """Epsilon of all mechanisms together, one after the other on the same units.

    Args:
        mechanisms: In any order; of none, the epsilon is 0.
        delta: > 0, < 1.
        accountant: ``pld`` is within 1 % above the least epsilon, from about 0.01 on; ``rdp`` is an
            upper bound; ``prv`` is the upper end of an interval of twice ``PRV_ERROR``.

    Returns:
        An upper bound; infinity where none can be given: it is over ``MOST_EPSILON``, the noise
        under ``LEAST_NOISE``, or the delta under ``LEAST_DELTA``, where rounding would decide.

    Raises:
        PrivacyError: ``delta`` is not between 0 and 1.

    Source: Doroshenko et al. (2022), arXiv:2207.04380 (PLD); Mironov et al. (2019),
        arXiv:1908.10530 (RDP); Gopi et al. (2021), arXiv:2106.02848 (PRV).
    """
    _check_delta(delta)
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[one.sampling_probability, one.noise_multiplier] += one.steps
    merged = tuple(Mechanism(*each, count) for each, count in sorted(steps.items()))
    if not merged:
        return 0.0
    if delta < LEAST_DELTA or min(one.noise_multiplier for one in merged) < LEAST_NOISE:
        return math.inf
    bound = _BOUNDS[accountant](merged, delta)
    return bound if 0 <= bound <= MOST_EPSILON else math.inf  # NaN is no bound


def noise_multiplier(
    epsilon: float, delta: float, sampling_probability: float, steps: int
) -> float:
    """The least noise multiplier whose PLD epsilon is at most ``epsilon``, rounded up to 3 digits.

    Args:
        epsilon: > 0.
        delta: > 0, < 1.
        sampling_probability: > 0, at most 1.
        steps: At least 1.

    Raises:
        PrivacyError: An argument is out of bounds, or no noise up to ``MOST_NOISE`` is enough.
    """
    _check_delta(delta)
    if not 0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon is {epsilon}, expected a finite number above 0")
    if delta < LEAST_DELTA:
        raise PrivacyError(f"delta is {delta}, expected {LEAST_DELTA} or more")

    def enough(noise: float) -> bool:
        return _pld((Mechanism(sampling_probability, noise, steps),), delta) <= epsilon

    high = 1.0
    while not enough(high):
        high *= 2
        if high > MOST_NOISE:
            raise PrivacyError(
                f"no noise multiplier up to {MOST_NOISE:g} gives epsilon {epsilon} at delta "
                f"{delta} over {steps} steps at sampling probability {sampling_probability}; "
                "take fewer steps, fewer units a step, or a larger epsilon"
            )
    while high / 2 >= LEAST_NOISE and enough(high / 2):
        high /= 2
    digits = 2 - math.floor(math.log10(high))
    candidates = [
        float(f"{count}e{-digits}")
        for count in range(math.ceil(high / 2 * 10.0**digits), math.ceil(high * 10.0**digits) + 1)
    ]
    return candidates[bisect_left(candidates[:-1], True, key=enough)]


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta}, expected more than 0 and less than 1")


@lru_cache(maxsize=4096)
def _pld(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    """Pessimistic at every interval; refined until that no longer changes much."""
    least = min(one.noise_multiplier for one in mechanisms)
    reach = 10 / least + 1 / (2 * least**2)  # a step's loss is larger with a chance of e^-50 only
    interval, coarse = INTERVAL, math.inf
    while True:
        fine = float(_composed(mechanisms, interval).get_epsilon_for_delta(delta))
        if fine > MOST_EPSILON or coarse - fine <= AGREEMENT * fine:
            return fine
        coarse, interval = fine, interval / 4
        if reach / interval > MOST_POINTS:
            return fine


def _composed(mechanisms: tuple[Mechanism, ...], interval: float) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    whole = pld.identity(value_discretization_interval=interval)
    for one in mechanisms:
        step = pld.from_gaussian_mechanism(
            one.noise_multiplier,
            value_discretization_interval=interval,
            sampling_prob=one.sampling_probability,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        )
        whole = whole.compose(step.self_compose(one.steps))
    return whole


def _rdp(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    book = RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    for one in mechanisms:
        step = GaussianDpEvent(one.noise_multiplier)
        book.compose(PoissonSampledDpEvent(one.sampling_probability, step), one.steps)
    return float(book.get_epsilon(delta))


def _prv(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    scale = _pld(mechanisms, delta)
    if scale > MOST_EPSILON:
        return math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's at import, and of log(0) where q is 1
        from opacus.accountants import PRVAccountant

        book = PRVAccountant()
        book.history = [
            (one.noise_multiplier, one.sampling_probability, one.steps) for one in mechanisms
        ]
        try:
            return float(book.get_epsilon(delta, eps_error=PRV_ERROR * max(1, scale)))
        except (RuntimeError, ValueError):  # it says so when rounding would decide
            return math.inf


_BOUNDS: dict[Accountant, Callable[[tuple[Mechanism, ...], float], float]] = {
    "pld": _pld,
    "rdp": _rdp,
    "prv": _prv,
}
