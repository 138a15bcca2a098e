"""One run of training: steps to the end of a budget, readings of validation documents."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from not_core.errors import TrainingError
from not_core.learning.evaluation import exponential
from not_core.learning.lessons import Budget, Lessons
from not_core.learning.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from not_core.learning.masters import Masters
    from not_core.learning.resumption import Progress, Resumption

READINGS = 10
"""Readings on validation documents in a budget, after the one before the first step."""
BEST = "best:"

Advance = Callable[[int, float], None]
"""Called after each step with the tokens it read and its loss."""


class Losses(Protocol):
    """A model in training, by the losses of blocks that are given by index: see ``Scene``."""

    def prepare(self, numbers: Iterable[int]) -> None:
        """Do for blocks what is done once for each."""

    def nats(self, numbers: Sequence[int], *, draw: int | None = None) -> "torch.Tensor":
        """Negative log-likelihood of every place that predicts, in nats; see ``Scene.nats``."""


class Course:
    """One run of training, of any model and whatever in it learns.

    Args:
        scene: The model.
        masters: What learns.
        lessons: Documents to learn from and to read.
        recipe: Budget, pace and patience.
        kept: State of an earlier process to go on from.
        advance: Told of progress.
    """

    def __init__(
        self,
        scene: Losses,
        masters: "Masters",
        lessons: Lessons,
        recipe: Recipe,
        kept: "Resumption",
        advance: Advance,
    ) -> None:
        self._scene, self._masters, self._lessons = scene, masters, lessons
        self._recipe, self._kept, self._advance = recipe, kept, advance
        self._best: dict[str, torch.Tensor] = {}

    def run(self, started: float) -> "Progress":
        """Learn until the budget is used up, or validation has got no better for long.

        Goes on from where an earlier process was cut off.
        """
        from not_core.learning.resumption import Progress

        progress = Progress()
        if found := self._kept.load():
            progress, state = found
            self._masters.load(state)
            self._best = {
                name.removeprefix(BEST): value
                for name, value in state.items()
                if name.startswith(BEST)
            }
            self._advance(progress.tokens, progress.losses[-1])
        self._progress, done = progress, len(progress.losses)
        budget = Budget(self._recipe, self._lessons.there, started - progress.seconds)
        for section in self._lessons.sections(budget):
            self._scene.prepare(itertools.chain(*section))  # as before it was cut off, bit for bit
            section, done = section[done:], max(0, done - len(section))
            for pack in section:
                used = budget.used(progress.tokens)
                # One step in however little time.
                if used >= 1 and progress.losses:
                    break
                if self._lessons.validation and used * READINGS >= len(progress.readings):
                    self._read()
                if self._stale:
                    break
                after = budget.used(progress.tokens + self._lessons.tokens(pack))
                self._step(pack, self._recipe.peak * self._recipe.pace(after))
                progress.seconds = budget.seconds
                if self._kept.due:
                    best = {BEST + name: value for name, value in self._best.items()}
                    self._kept.save(progress, self._masters.state() | best)
            if budget.used(progress.tokens) >= 1 or self._stale:
                break
        if self._lessons.validation:
            if not self._stale:
                self._read()
            self._masters.load(self._best)
        return progress

    def _step(self, pack: Sequence[int], learning_rate: float) -> None:
        size = self._lessons.tokens(pack)
        draw = self._recipe.seed + len(self._progress.losses)
        loss = self._scene.nats(pack, draw=draw).sum() / (size - len(pack))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is not finite at step {len(self._progress.losses) + 1}; "
                "lower the learning rate"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._masters.step(learning_rate)
        self._progress.tokens += size
        self._progress.losses.append(value)
        self._advance(size, value)

    @property
    def _stale(self) -> bool:
        """Whether the last readings were all worse than one before them."""
        readings, patience = self._progress.readings, self._recipe.patience
        return len(readings) > patience and min(readings[-patience:]) > min(readings)

    def _read(self) -> None:
        import torch

        held, readings = self._lessons.validation, self._progress.readings
        self._scene.prepare(held)
        with torch.no_grad():
            nats = sum(float(self._scene.nats([number]).sum()) for number in held)
        readings.append(exponential(nats / (self._lessons.tokens(held) - len(held))))
        if readings[-1] == min(readings):
            self._best = self._masters.values()
