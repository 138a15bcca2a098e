"""A signed statement of differential privacy, held against its own numbers."""

import math
from dataclasses import dataclass

from not_core.errors import PrivacyError
from not_core.manifest import DifferentialPrivacy
from not_core.privacy.accounting import Accountant, Mechanism, epsilon

ACCOUNTANTS: tuple[Accountant, Accountant] = ("pld", "prv")

TOLERANCE, SLACK, PRV_SLACK = 0.01, 1e-4, 0.005
"""An epsilon may be recomputed so much larger than it is claimed, relative and absolute.

The accountants' own errors, which are on the safe side, take about half of it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Epsilons that follow from a statement's other numbers, by two accountants.

    ``prv`` is None where that accountant gives no number, as for very small sampling
    probabilities; which refutes nothing.
    """

    pld: float
    prv: float | None


def check(statement: DifferentialPrivacy) -> Recomputed:
    """Recompute the epsilon of a statement, by dp-accounting's PLD and by Opacus' PRV.

    It proves that the stated numbers belong together, and no more: not that the donor sampled,
    clipped and added noise as it states.

    Raises:
        PrivacyError: The claim is understated by either accountant.
    """
    stated = Mechanism(statement.sampling_probability, statement.noise_multiplier, statement.steps)
    about = statement.units_per_step / statement.sampling_probability
    if statement.delta * about >= 1:
        raise PrivacyError(
            f"delta {statement.delta:g} allows giving away one of its about {about:.0f} units "
            "whole; do not use the organ, and tell its donor"
        )
    pld, prv = (epsilon([stated], statement.delta, one) for one in ACCOUNTANTS)
    most = statement.epsilon * (1 + TOLERANCE)
    known = math.isfinite(prv)
    if pld > most + SLACK or (known and prv > most + PRV_SLACK):
        raise PrivacyError(
            f"the organ claims epsilon {statement.epsilon:g} at delta {statement.delta:g}, its own "
            f"numbers give {pld:.4g} (PLD) and {prv:.4g} (PRV); do not use it, and tell its donor"
        )
    return Recomputed(pld=pld, prv=prv if known else None)
