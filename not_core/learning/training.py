"""Training of an organ: its layers learn, all that stands around them is frozen.

The frozen layers below run once for each block; only the organ and what stands above it are in
memory while it learns, in the type that the device multiplies fastest, beside float32 copies of
what learns.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from not_core import canonical
from not_core.learning import device as devices
from not_core.learning.course import Advance, Course
from not_core.learning.lessons import Lessons
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
            the process die, which is kept until ``TrainedOrgan.finished`` is called; None for the
            system's temporary one, and no state.
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
        return replace(place.outcome(progress), finished=place.kept.clear)


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
