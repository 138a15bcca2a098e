"""Training of an organ: its layers learn, all that stands around them is frozen.

The frozen layers below run once for each block; only the organ and what stands above it are in
memory while it learns, in the type that the device multiplies fastest, beside float32 copies of
what learns.
"""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from not_core import canonical
from not_core.errors import TrainingError
from not_core.learning import device as devices
from not_core.learning.evaluation import exponential
from not_core.learning.lessons import Budget, Lessons
from not_core.learning.recipe import Recipe
from not_core.learning.scaffold import Standing, standing
from not_core.learning.text_blocks import Block
from not_core.manifest import NoPrivacy, Privacy, Span, TrainingFacts
from not_core.surgery import compact
from not_core.surgery.assemble import Joined
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.layer_config import fitting_fields
from not_core.surgery.tensors import Held, Tensors

if TYPE_CHECKING:
    import torch

    from not_core.learning.masters import Masters
    from not_core.learning.resumption import Progress, Resumption
    from not_core.learning.scene import Scene

READINGS = 10
"""Readings on validation documents in a budget, after the one before the first step."""
BEST = "best:"


@dataclass(frozen=True, slots=True)
class TrainedOrgan:
    """What training made.

    Attributes:
        tensors: The organ's, in the host's type.
        factors: What they differ by from the host's, if they were trained by factors.
        facts: For the manifest.
        losses: Mean loss of each step, in nats a token; they never leave the site.
        validation: Perplexities on the validation documents, in order; the first is from before
            the first step.
        privacy: What bounds what it may have memorised, for the manifest.
        finished: To be called once it is written: removes the state to go on from, if one is kept.
    """

    tensors: Tensors
    factors: Held | None
    facts: TrainingFacts
    losses: tuple[float, ...]
    validation: tuple[float, ...]
    privacy: Privacy = field(default_factory=NoPrivacy)
    finished: Callable[[], None] = lambda: None


Advance = Callable[[int, float], None]
"""Called after each step with the tokens it read and its loss."""


def train(
    host: Checkpoint,
    span: Span,
    texts: Sequence[str],
    recipe: Recipe,
    *,
    only: Collection[int] | None = None,
    validation: Sequence[str] = (),
    work: Path | None = None,
    advance: Advance = lambda tokens, loss: None,
) -> TrainedOrgan:
    """Train the layers of ``span`` on documents.

    Args:
        host: The base model.
        span: The organ's layers in it.
        texts: Documents.
        recipe: How.
        only: Host layers of the span that learn; None for all.
        validation: Documents to read while training; the best organ on them is kept (before it
            is scaled), which may be the host's own layers.
        work: Private folder, made if need be, for activations and for a state to go on from should
            the process die; None for the system's temporary one, and no state.
        advance: Told of progress.

    Raises:
        PlanError: The span reaches past the model.
        RecordsError: The documents hold no text to learn from.
        TrainingError: The loss is no longer finite, or the recipe does not suit the family or the
            machine.

    Source: Neural Organ Transplantation, arXiv:2601.13580; low-rank factors from Hu et al. (2021),
        LoRA, arXiv:2106.09685.
    """
    started = time.monotonic()
    lessons = Lessons(host.tokenizer, texts, validation, recipe)
    key = {"documents": lessons.documents}  # the other blocks are only read
    with workplace(host, span, lessons.blocks, recipe, only=only, work=work, key=key) as place:
        course = Course(place.scene, place.masters, lessons, recipe, place.kept, advance)
        progress = course.run(started)
        trained = place.outcome(progress)
        place.kept.clear()
    return trained


@dataclass(frozen=True, slots=True)
class Workplace:
    """What training of an organ needs and makes.

    Attributes:
        scene: The model in training.
        masters: What learns.
        kept: State of an earlier process to go on from.
        outcome: Makes the organ of what has been learned, after some progress.
    """

    scene: "Scene"
    masters: "Masters"
    kept: "Resumption"
    outcome: "Callable[[Progress], TrainedOrgan]"


@contextmanager
def workplace(
    host: Checkpoint,
    span: Span,
    blocks: Sequence[Block],
    recipe: Recipe,
    *,
    only: Collection[int] | None,
    work: Path | None,
    apart: bool = False,
    key: object = None,
) -> Iterator[Workplace]:
    """Set up the training of an organ on blocks.

    Args:
        host: The base model.
        span: The organ's layers in it.
        blocks: All that will be read.
        recipe: How.
        only: Host layers of the span that learn; None for all.
        work: Private folder; see ``train``.
        apart: Whether each block is a row of its own, even where several could share one.
        key: What else decides the outcome, as JSON data.
    """
    import torch
    import transformers

    from not_core.learning.masters import Masters
    from not_core.learning.resumption import Resumption, sweep
    from not_core.learning.scene import Scene

    if work:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(work)
    device = devices.pick(recipe.device)
    dtype = devices.precision(recipe.precision, device)
    layers = standing(host, span, recipe)
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    with (
        devices.threads(recipe.threads) as threads,
        Scene(
            host,
            layers,
            blocks,
            device=device,
            dtype=dtype,
            folder=work,
            gradient_checkpointing=recipe.gradient_checkpointing,
            compiled=recipe.compiled,
            sample=recipe.head_sample,
            apart=apart,
        ) as scene,
    ):
        torch.manual_seed(recipe.seed)
        if recipe.scaffold == "inserted":
            scene.prepare([0])
            scene.check_silent(0)
        places = range(span.start, span.stop)
        chosen = [place for place in places if only is None or place in only]
        parameters = _parameters(scene, recipe, [index - span.start for index in chosen])
        masters = Masters(parameters, recipe.clip)
        kept = Resumption(
            work,
            canonical.digest(
                {
                    "recipe": asdict(recipe),
                    "span": str(span),
                    "only": chosen,
                    "base": host.weights_digest,
                    "config": fitting_fields(host.config, host.anatomy),
                    "blocks": canonical.sha256(repr(blocks).encode()),
                    "run": [device.type, dtype, threads, libraries],
                    "key": key,
                }
            ),
        )

        def outcome(progress: "Progress") -> TrainedOrgan:
            tensors, factors = _result(host, layers, scene, masters.values(), recipe.scaling)
            facts = TrainingFacts(
                scaffold=recipe.scaffold,
                rank=recipe.rank,
                tokens=progress.tokens,
                steps=len(progress.losses),
                seed=recipe.seed,
                learning_rate=recipe.peak,
                block_tokens=recipe.block_tokens,
                step_tokens=recipe.step_tokens,
                head_sample=recipe.head_sample,
                precision=dtype,
                device=device.type,
                threads=threads,
                libraries=libraries,
            )
            losses, readings = tuple(progress.losses), tuple(progress.readings)
            return TrainedOrgan(tensors, factors, facts, losses, readings)

        yield Workplace(scene, masters, kept, outcome)


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


def _parameters(
    scene: "Scene", recipe: Recipe, chosen: Sequence[int]
) -> "dict[str, torch.nn.Parameter]":
    """What learns in the chosen layers of the organ, by its name in the organ."""
    import torch

    from not_core.learning.low_rank import add_factors
    from not_core.learning.norms import norms_of

    generator = torch.Generator().manual_seed(recipe.seed)

    def learning(layer: torch.nn.Module) -> "Iterable[tuple[str, torch.nn.Parameter]]":
        if recipe.learns == "norms":
            return norms_of(layer)
        if recipe.rank is None:
            return layer.named_parameters()
        return add_factors(layer, recipe.rank, generator)

    return {
        f"{index}.{name}": parameter
        for index in chosen
        for name, parameter in learning(scene.trained[index])
    }


def _result(
    host: Checkpoint,
    layers: Standing,
    scene: "Scene",
    learned: "Mapping[str, torch.Tensor]",
    scale: float,
) -> tuple[Tensors, Held | None]:
    """The organ's tensors in the form that checkpoints store, and its factors if it has any.

    Source: Wortsman et al. (2022), WiSE-FT, arXiv:2109.01903, for the scale.
    """
    import torch

    base = layers.tensors(host)
    if any(name.endswith(compact.LEFT) for name in learned):
        factors = Held(
            {
                name: (value * scale if name.endswith(compact.LEFT) else value).to(torch.float16)
                for name, value in learned.items()
            }
        )
        return compact.Expanded(base, factors), factors
    from transformers.core_model_loading import revert_weight_conversion

    # The class may hold what a checkpoint stores as many tensors, such as experts, as one.
    stack = host.anatomy.layers
    stored = revert_weight_conversion(
        scene.model, {stack + name: value for name, value in learned.items()}
    )
    found = {name.removeprefix(stack): value for name, value in stored.items()}
    held = Held(
        {
            name: value.to(getattr(torch, base.form(name).dtype)).contiguous()
            for name, value in found.items()
        }
    )
    # What did not learn is the host's, bit for bit.
    return Joined(
        {name: (held if name in held.tensors else base, name) for name in base.names()}
    ), None
