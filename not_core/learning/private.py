"""Differentially private training of an organ: DP-SGD over units, charged before it begins.

Source: Abadi et al. (2016), Deep Learning with Differential Privacy, arXiv:1607.00133.
"""

import itertools
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from not_core.errors import RecordsError
from not_core.learning.course import Advance
from not_core.learning.guard import Guard, Planned, plan
from not_core.learning.lessons import SECTION_TOKENS
from not_core.learning.recipe import Recipe
from not_core.learning.records import Unit
from not_core.learning.text_blocks import document_blocks
from not_core.learning.training import TrainedOrgan, Workplace, workplace
from not_core.manifest import Span
from not_core.privacy.account import Account
from not_core.privacy.accounting import Mechanism
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.tensors import digest_of

if TYPE_CHECKING:
    import numpy as np

    from not_core.learning.clipping import Clipped
    from not_core.learning.resumption import Progress


@dataclass(frozen=True, slots=True)
class Private:
    """Private records, and on what terms they are learned from.

    Attributes:
        units: Records, or subjects with all of theirs.
        guard: What bounds what one of them adds.
        account: Where it is paid for.
    """

    units: Sequence[Unit]
    guard: Guard
    account: Account


def train_privately(
    host: Checkpoint,
    span: Span,
    private: Private,
    recipe: Recipe,
    *,
    only: Collection[int] | None = None,
    work: Path | None = None,
    advance: Advance = lambda tokens, loss: None,
) -> TrainedOrgan:
    """Train the layers of ``span`` so that what a unit adds to them is bounded.

    A process that died goes on where it was, under the charge that it made. The state that it goes
    on from is kept until ``TrainedOrgan.finished`` is called, so that what was paid for is not lost
    before it is written.

    Args:
        host: The base model.
        span: The organ's layers in it.
        private: What to learn from.
        recipe: How; without a budget of seconds and without ``head_sample``.
        only: Host layers of the span that learn; None for all.
        work: See ``training.train``.
        advance: Told the planned tokens of a step, and the mean loss of the units drawn.

    Raises:
        PlanError: The span reaches past the model.
        PrivacyError: The guard does not suit recipe or units.
        LedgerError: The charge is refused.
        RecordsError: No unit has text to learn from.
        TrainingError: The recipe does not suit the family.
    """
    from not_core.learning.clipping import Learner, clipped

    recipe = replace(recipe, scale=recipe.scale or 1.0)
    guard, account = private.guard, private.account
    planned = plan(guard, recipe, len(private.units))
    stated = planned.statement(guard)  # what cannot be stated is not charged for
    lessons = UnitLessons(host, private.units, recipe)
    with workplace(
        host,
        span,
        lessons.blocks,
        recipe,
        only=only,
        work=work,
        apart=True,  # a unit's activations must not depend, by a rounding, on whom it shares a row
        key={"guard": asdict(guard), "units": list(map(len, lessons.units))},
    ) as place:
        learner = Learner(place.scene.model, place.scene, place.masters.parameters, lessons.sizes)
        way = clipped(guard.clipping, learner, guard.clip, guard.batch_tokens)
        progress = PrivateCourse(place, lessons, way, recipe, guard, planned, advance).go_on(
            account
        )
        trained = place.outcome(progress)
        account.settle(progress.run, digest_of(trained.tensors))
    return replace(trained, privacy=stated, finished=place.kept.clear)


class UnitLessons:
    """Blocks of all units, and which are whose."""

    def __init__(self, host: Checkpoint, units: Sequence[Unit], recipe: Recipe) -> None:
        texts = [text for unit in units for text in unit.texts]
        documents = iter(document_blocks(host.tokenizer, texts, recipe.block_tokens, None))
        owned = [[block for _ in unit.texts for block in next(documents)] for unit in units]
        self.blocks = [block for blocks in owned for block in blocks]
        if not self.blocks:
            raise RecordsError("no document has two tokens; bring longer records")
        self.sizes = [len(block) for block in self.blocks]
        starts = itertools.accumulate(map(len, owned), initial=0)
        self.units = [range(*ends) for ends in itertools.pairwise(starts)]

    def draws(
        self, mechanism: Mechanism, steps: int, most: int, generator: "np.random.Generator"
    ) -> Iterator[list[list[list[int]]]]:
        """What each step learns from, in sections: blocks of the units that it draws."""
        from not_core.privacy.randomness import poisson_sample

        section: list[list[list[int]]] = []
        tokens = 0
        for step in range(steps):
            drawn = poisson_sample(len(self.units), mechanism.sampling_probability, generator)
            owned = [self.units[unit] for unit in drawn if self.units[unit]]
            section.append(
                [[int(one) for one in generator.permutation(blocks)[:most]] for blocks in owned]
            )
            tokens += sum(self.sizes[block] for unit in section[-1] for block in unit)
            if tokens >= SECTION_TOKENS or step == steps - 1:
                yield section
                section, tokens = [], 0


@dataclass(frozen=True, slots=True)
class PrivateCourse:
    """One run of private training."""

    place: Workplace
    lessons: UnitLessons
    clipped: "Clipped"
    recipe: Recipe
    guard: Guard
    planned: Planned
    advance: Advance

    def go_on(self, account: Account) -> "Progress":
        """Charge, and learn until all steps are done; from where a process was cut off."""
        from not_core.learning.resumption import Progress
        from not_core.privacy import randomness

        kept, masters = self.place.kept, self.place.masters
        progress = Progress(run=secrets.token_hex(32))
        if found := kept.load():
            progress, state = found
            masters.load(state)
        else:
            kept.save(progress, masters.state())  # its name, before it is charged
        account.reserve(progress.run, self.planned.mechanism)
        if progress.losses:
            self.advance(progress.tokens, progress.losses[-1])
        generator = randomness.fresh()
        left = self.planned.mechanism.steps - len(progress.losses)
        most = self.guard.most_blocks_per_unit
        for section in self.lessons.draws(self.planned.mechanism, left, most, generator):
            self.place.scene.prepare(block for step in section for unit in step for block in unit)
            for units in section:
                self._step(units, progress, generator)
                if kept.due:
                    kept.save(progress, masters.state())
        kept.save(progress, masters.state())
        return progress

    def _step(
        self, units: Sequence[list[int]], progress: "Progress", generator: "np.random.Generator"
    ) -> None:
        from not_core.privacy import randomness

        mechanism = self.planned.mechanism
        total, loss = self.clipped.total(units)
        for one in total:
            randomness.add_noise(one, mechanism.noise_multiplier * self.guard.clip, generator)
            one /= self.guard.units_per_step
        pace = self.recipe.pace((len(progress.losses) + 1) / mechanism.steps)
        self.place.masters.move(total, self.recipe.peak * pace)
        tokens = self.planned.tokens // mechanism.steps
        progress.tokens += tokens
        progress.losses.append(loss)
        self.advance(tokens, loss)
