"""A signed statement of differential privacy, held against its own numbers."""

from dataclasses import dataclass

from not_core.errors import PrivacyError
from not_core.manifest import DifferentialPrivacy
from not_core.privacy.accounting import Mechanism, epsilon

TOLERANCE, SLACK = 0.01, 0.005
"""An epsilon may be recomputed so much larger than it is claimed, relative and absolute.

The accountants' own errors, which are on the safe side, take about half of it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Epsilons that follow from a statement's other numbers, by two accountants."""

    pld: float
    prv: float


def check(statement: DifferentialPrivacy) -> Recomputed:
    """Recompute the epsilon of a statement, by dp-accounting's PLD and by Opacus' PRV.

    It proves that the stated numbers belong together, and no more: not that the donor sampled,
    clipped and added noise as it states.

    Raises:
        PrivacyError: The claim is understated by either accountant.
    """
    stated = Mechanism(statement.sampling_probability, statement.noise_multiplier, statement.steps)
    most = statement.epsilon * (1 + TOLERANCE) + SLACK
    found = Recomputed(
        pld=epsilon([stated], statement.delta), prv=epsilon([stated], statement.delta, "prv")
    )
    if max(found.pld, found.prv) > most:
        raise PrivacyError(
            f"the organ claims epsilon {statement.epsilon:g} at delta {statement.delta:g}, its own "
            f"numbers give {found.pld:.4g} (PLD) and {found.prv:.4g} (PRV); "
            "do not use it, and tell its donor"
        )
    return found
