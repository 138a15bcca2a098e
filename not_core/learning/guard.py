"""What bounds how much an organ can remember of one unit, as values."""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from not_core.errors import PrivacyError
from not_core.learning.recipe import Recipe
from not_core.manifest import MOST_NOISE, DifferentialPrivacy, Unit
from not_core.privacy import accounting
from not_core.privacy.accounting import Mechanism
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.lineage import lineage_of

LEAST_CLIP = 1e-6
LEAST_EPSILON = 1e-4
"""Smallest that is stated: below it, accountants round."""

Clipping = Literal["loop", "samples", "ghost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """How training is made differentially private.

    Attributes:
        epsilon: Largest; the noise is found for it. Or:
        noise_multiplier: Standard deviation of the noise, in units of ``clip``.
        delta: Probability left out of the bound; below one over the number of units.
        unit: What one gradient is of, and what may be added or removed.
        clip: Largest L2 norm of one unit's gradient.
        units_per_step: Units that a step draws, on average.
        most_blocks_per_unit: Blocks of a unit that make its gradient, drawn anew each time.
        clipping: How the sum of clipped gradients is made; see ``clipping``.
        batch_tokens: Tokens that run at once, which bounds memory; not for ``loop``.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float
    unit: Unit = "record"
    clip: float = 1.0
    units_per_step: int = 8
    most_blocks_per_unit: int = 1
    clipping: Clipping = "loop"
    batch_tokens: int = 1024

    def __post_init__(self) -> None:
        given = [one for one in (self.epsilon, self.noise_multiplier) if one is not None]
        if len(given) != 1:
            raise PrivacyError("expected one of epsilon and noise multiplier; name one")
        if not LEAST_CLIP <= self.clip <= 1 / LEAST_CLIP:
            raise PrivacyError(
                f"clip is {self.clip}; give {LEAST_CLIP:g} to {1 / LEAST_CLIP:g}, which float32 "
                "adds up exactly enough"
            )
        for name, value in (
            ("epsilon or noise multiplier", given[0]),
            ("delta", self.delta),
            ("clip", self.clip),
            ("units a step", self.units_per_step),
            ("blocks a unit", self.most_blocks_per_unit),
        ):
            if not 0 < value < math.inf:
                raise PrivacyError(f"{name} is {value}; give a finite number above 0")
        if (self.noise_multiplier or 0) > MOST_NOISE:
            raise PrivacyError(
                f"noise multiplier is {self.noise_multiplier:g}; give at most "
                f"{MOST_NOISE:g}, which leaves nothing to learn"
            )
        if self.delta >= 1:
            raise PrivacyError(f"delta is {self.delta}; give a probability, such as 1e-6")


@dataclass(frozen=True, slots=True)
class Planned:
    """What a guard comes to for a recipe and a number of units.

    Attributes:
        mechanism: Sampling probability, noise multiplier, steps.
        epsilon: What it costs a unit.
        tokens: Planned, not those drawn: how many were drawn tells of the records.
    """

    mechanism: Mechanism
    epsilon: float
    tokens: int

    def statement(self, guard: Guard) -> DifferentialPrivacy:
        """What the manifest says.

        Raises:
            PrivacyError: A number is beyond what a manifest may state.
        """
        try:
            return DifferentialPrivacy(
                unit=guard.unit,
                sampling_probability=self.mechanism.sampling_probability,
                noise_multiplier=self.mechanism.noise_multiplier,
                clip=guard.clip,
                steps=self.mechanism.steps,
                units_per_step=guard.units_per_step,
                most_blocks_per_unit=guard.most_blocks_per_unit,
                delta=guard.delta,
                epsilon=self.epsilon,
                accountant=accounting.ACCOUNTANT,
            )
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise PrivacyError(
                f"{first['loc'][0]} of {self.mechanism.steps} steps at delta {guard.delta:g} is "
                f"beyond what a manifest may state ({first['msg'].lower()}); choose other numbers"
            ) from None


def plan(guard: Guard, recipe: Recipe, units: int) -> Planned:
    """Find sampling probability, steps and noise.

    The number of units enters rounded to a power of the root of 2, so the sampling probability,
    which the manifest states, does not tell it.

    Raises:
        PrivacyError: Too few units for the guard, no noise is large enough, or the recipe reads
            several units at once: a budget of seconds, or a loss over the ids that occur.
    """
    if recipe.seconds is not None:
        raise PrivacyError("a budget of seconds tells of the records; give tokens or epochs")
    if recipe.head_sample is not None:
        raise PrivacyError("the loss over the ids that occur in all records is not private")
    if recipe.gradient_checkpointing and guard.clipping != "loop":
        raise PrivacyError("activations are computed again under the clipping `loop` only")
    if recipe.compiled:
        raise PrivacyError("private steps are not compiled; train without --compile")
    about = around(units)
    if guard.units_per_step > about:
        raise PrivacyError(
            f"{guard.units_per_step} units a step of about {about:.0f}; draw fewer or bring more"
        )
    if guard.delta * about >= 1:
        raise PrivacyError(
            f"delta {guard.delta:g} allows giving away one of about {about:.0f} units whole; "
            f"expected less than {1 / about:.1g}"
        )
    probability = guard.units_per_step / about
    step = guard.units_per_step * guard.most_blocks_per_unit * recipe.block_tokens
    wanted = recipe.tokens / step if recipe.tokens else (recipe.epochs or 0) / probability
    steps = max(1, round(wanted))
    noise = guard.noise_multiplier
    if guard.epsilon is not None:
        noise = accounting.noise_multiplier(guard.epsilon, guard.delta, probability, steps)
    assert noise is not None  # noqa: S101 - for the type checker: the guard has one of the two
    mechanism = Mechanism(probability, noise, steps)
    epsilon = max(accounting.epsilon([mechanism], guard.delta), LEAST_EPSILON)
    if not math.isfinite(epsilon):
        raise PrivacyError(
            f"{steps} steps with noise multiplier {noise:g} bound nothing at delta "
            f"{guard.delta:g}; take more noise, fewer steps or fewer units a step"
        )
    return Planned(mechanism, epsilon, steps * step)


def check_base(host: Checkpoint) -> None:
    """Check that a model holds nothing that was learned from records before.

    Private training on layers that were trained on the same records without privacy would state an
    epsilon that bounds the last touch only.

    Raises:
        PrivacyError: It holds an organ or a recovery.
    """
    lineage = lineage_of(host)
    if found := (*lineage.organs().values(), *lineage.recoveries()):
        raise PrivacyError(
            f"the model holds {len(found)} organs or recoveries, which an epsilon of this training "
            "would not cover; train on the model before them (organ excise takes them out)"
        )


def around(units: int) -> float:
    """A number of units, rounded to a power of the root of 2."""
    if units < 1:
        raise PrivacyError("no unit to learn from; bring records")
    return float(2 ** (round(2 * math.log2(units)) / 2))
