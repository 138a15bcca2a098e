"""What composed mechanisms cost, by dp-accounting's privacy loss distributions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Steps of the Poisson-sampled Gaussian mechanism; neighbours differ by one unit.

    Attributes:
        sampling_probability: Probability that a unit is in a step's batch.
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        steps: Number of steps.
    """

    sampling_probability: float
    noise_multiplier: float
    steps: int


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of the composition of ``mechanisms`` at ``delta``, rounded up."""
    import dp_accounting
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for one in mechanisms:
        step = dp_accounting.PoissonSampledDpEvent(
            one.sampling_probability, dp_accounting.GaussianDpEvent(one.noise_multiplier)
        )
        accountant.compose(step, one.steps)
    return float(accountant.get_epsilon(delta))
