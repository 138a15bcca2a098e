"""Private fitting of organs and of PEFT's LoRA, in one course, so that only what learns differs.

Both draw, clip, add noise and step by ``not_core.learning``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from not_core.learning.guard import Guard, Planned, plan
from not_core.learning.private import PrivateCourse, UnitLessons
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import Unit
from not_core.learning.training import workplace
from not_core.privacy.account import Uncharged
from not_core.surgery.checkpoint import Checkpoint
from simulations.experiments.contestants import Contestant, Fitted, lora_place, of_organ

if TYPE_CHECKING:
    import torch

    from not_core.learning.clipping import Clipped
    from not_core.learning.resumption import Progress


@dataclass(frozen=True, slots=True)
class FittedPrivately:
    """What private fitting made, and what it took.

    Attributes:
        fitted: The model; its tokens are those that were planned.
        steps: Taken.
        units: Drawn in all of them.
        read: Tokens of what was drawn.
        noise_seconds: Measures CPU seconds of one step's sampling and noise, apart from the course.
    """

    fitted: Fitted
    steps: int
    units: int
    read: int
    noise_seconds: Callable[[], float]


def fit_privately(
    contestant: Contestant, host: Checkpoint, units: Sequence[Unit], guard: Guard, recipe: Recipe
) -> FittedPrivately:
    """Fit the model to units by DP-SGD, charged to nobody.

    Args:
        contestant: An organ, or LoRA.
        host: The model.
        units: Records.
        guard: What bounds what one of them adds.
        recipe: How; without ``head_sample``.
    """
    run = _Run(UnitLessons(host, units, recipe), guard, recipe, plan(guard, recipe, len(units)))
    fitted = (_organ if contestant.kind == "organ" else _lora)(contestant, host, run)
    shapes = [one.shape for one in run.learned]
    return FittedPrivately(
        fitted,
        run.planned.mechanism.steps,
        run.units,
        run.read,
        lambda: _noise_seconds(shapes, len(units), run.planned.mechanism.sampling_probability),
    )


@dataclass(slots=True)
class _Run:
    """One private course, what learned in it, and a count of what it drew."""

    lessons: UnitLessons
    guard: Guard
    recipe: Recipe
    planned: Planned
    units: int = 0
    read: int = 0
    learned: "Sequence[torch.nn.Parameter]" = ()

    def go(self, place: Any, model: "torch.nn.Module") -> "Progress":
        """Learn until all steps are done."""
        from not_core.learning.clipping import Learner, clipped

        self.learned = place.masters.parameters
        learner = Learner(model, place.scene, self.learned, self.lessons.sizes)
        guard = self.guard
        way = clipped(guard.clipping, learner, guard.clip, guard.batch_tokens)
        course = PrivateCourse(
            place,
            self.lessons,
            _Counted(way, self),
            self.recipe,
            guard,
            self.planned,
            lambda tokens, loss: None,
        )
        return course.go_on(Uncharged())


@dataclass(frozen=True, slots=True)
class _Counted:
    """A way to clip that counts what it is given."""

    way: "Clipped"
    run: _Run

    def total(self, units: Sequence[list[int]]) -> "tuple[list[torch.Tensor], float]":
        """As ``Clipped``."""
        self.run.units += len(units)
        self.run.read += sum(self.run.lessons.sizes[number] for unit in units for number in unit)
        return self.way.total(units)


def _organ(contestant: Contestant, host: Checkpoint, run: _Run) -> Fitted:
    span = default_span(host.layers, run.recipe.rank)
    with workplace(
        host, span, run.lessons.blocks, run.recipe, only=None, work=None, apart=True
    ) as place:
        trained = place.outcome(run.go(place, place.scene.model))
    return of_organ(host, span, trained)


def _lora(contestant: Contestant, host: Checkpoint, run: _Run) -> Fitted:
    with lora_place(contestant, host, run.lessons.blocks, run.recipe, apart=True) as (place, model):
        progress = run.go(place, model)
    return Fitted(
        lambda: model.merge_and_unload().eval(),
        progress.tokens,
        sum(one.numel() for one in run.learned),
        sum(one.numel() * one.element_size() for one in run.learned),
    )


def _noise_seconds(shapes: "Sequence[torch.Size]", units: int, probability: float) -> float:
    """CPU seconds to draw units once and to add noise to gradients of these shapes."""
    import torch

    from not_core.privacy import randomness

    generator, began = randomness.fresh(), time.process_time()
    randomness.poisson_sample(units, probability, generator)
    for shape in shapes:
        randomness.add_noise(torch.zeros(shape), 1.0, generator)
    return time.process_time() - began
