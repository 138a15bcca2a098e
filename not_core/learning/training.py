"""Training of an organ in place: the whole frozen model around it, only its layers learning.

The scaffold is the host itself, so what stands above the organ in training is what stands above
it in the recipient (``docs/decisions``).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from not_core.errors import RecordsError, TrainingError
from not_core.learning import device as devices
from not_core.learning.text_blocks import Block, document_blocks, token_nats
from not_core.manifest import Span, TrainingFacts
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.plan import cut, identity
from not_core.surgery.tensors import Held

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an organ is trained.

    Attributes:
        tokens: Training tokens, about; records are repeated only when there are fewer.
        learning_rate: Peak, reached after ``warmup`` of the steps, then cosine to a tenth.
        block_tokens: Longest block, in tokens.
        batch_blocks: Blocks in one step.
        warmup: Fraction of the steps.
        clip: Largest L2 norm of one step's gradient.
        seed: Of the order of the blocks; nothing else is random.
        threads: CPU threads; None for torch's choice. Equal digests need equal threads.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    tokens: int = 16_384
    learning_rate: float = 1e-3
    block_tokens: int = 256
    batch_blocks: int = 1
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if min(self.tokens, self.batch_blocks) < 1 or self.block_tokens < 2 or self.seed < 0:
            raise ValueError("expected tokens, batch_blocks >= 1, block_tokens >= 2, seed >= 0")
        if not (0 < self.learning_rate < 1 and 0 <= self.warmup < 1 and self.clip > 0):
            raise ValueError("expected 0 < learning_rate < 1, 0 <= warmup < 1, clip > 0")


@dataclass(frozen=True, slots=True)
class TrainedOrgan:
    """What training made.

    Attributes:
        tensors: The organ's, on the CPU, in the host's type.
        facts: For the manifest.
        losses: Mean loss of each step, in nats a token; they never leave the site.
    """

    tensors: Held
    facts: TrainingFacts
    losses: tuple[float, ...]


def default_span(layers: int) -> Span:
    """Three layers, a third of the way up; see ``docs/decisions/0001-train-in-place.md``."""
    start = layers // 3
    return Span(start=start, stop=min(start + 3, layers))


Advance = Callable[[int, float], None]
"""Called after each step with the tokens it read and its loss."""


def train(
    host: Checkpoint,
    span: Span,
    texts: Sequence[str],
    recipe: Recipe,
    *,
    advance: Advance = lambda tokens, loss: None,
) -> TrainedOrgan:
    """Train the layers of ``span`` on documents, in place.

    Raises:
        PlanError: The span reaches past the model.
        RecordsError: The documents hold no text to learn from.
        TrainingError: The loss is no longer finite.

    Source: Neural Organ Transplantation, arXiv:2601.13580, with the whole host as scaffold.
    """
    import torch
    import transformers

    cut(host.layers, span)
    schedule = _schedule(host.tokenizer, texts, recipe)
    device = devices.pick(recipe.device)
    with devices.threads(recipe.threads) as threads:
        torch.manual_seed(recipe.seed)
        model = assemble(identity(host.layers), host, {}).to(device)
        parameters = _trainable(model, host, span)
        losses = _descend(model, list(parameters.values()), schedule, recipe, advance)
    weights = _as_stored(model, host, span, parameters)
    facts = TrainingFacts(
        scaffold="in-situ",
        tokens=sum(len(block) for batch in schedule for block in batch),
        steps=len(schedule),
        seed=recipe.seed,
        learning_rate=recipe.learning_rate,
        block_tokens=recipe.block_tokens,
        batch_blocks=recipe.batch_blocks,
        device=device.type,
        threads=threads,
        libraries={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    return TrainedOrgan(Held(weights), facts, tuple(losses))


def _schedule(tokenizer: Any, texts: Sequence[str], recipe: Recipe) -> list[list[Block]]:
    """Batches of about ``recipe.tokens`` tokens: first blocks of all documents, then second, ...

    Many documents a little teach more than few documents whole.
    """
    documents = document_blocks(tokenizer, texts, recipe.block_tokens, None)
    rng = random.Random(recipe.seed)  # noqa: S311 - an order, not a secret
    rng.shuffle(documents)
    deepest = max(map(len, documents), default=0)
    blocks = [parts[i] for i in range(deepest) for parts in documents if i < len(parts)]
    if not blocks:
        raise RecordsError("no document has two tokens; bring longer records")
    chosen: list[Block] = []
    total = 0
    while total < recipe.tokens:
        for block in blocks:
            chosen.append(block)
            total += len(block)
            if total >= recipe.tokens:
                break
    size = recipe.batch_blocks
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def _trainable(
    model: "PreTrainedModel", host: Checkpoint, span: Span
) -> "dict[str, torch.nn.Parameter]":
    """Freeze all but copies of the span's parameters; these by their names."""
    model.requires_grad_(False)
    chosen = {}
    for name, parameter in model.named_parameters():
        part = host.anatomy.layer_of(name)
        if part and span.start <= part[0] < span.stop:
            parameter.data = parameter.data.clone()  # shared with the host's file until now
            parameter.requires_grad_(True)
            chosen[name] = parameter
    return chosen


def _as_stored(
    model: "PreTrainedModel",
    host: Checkpoint,
    span: Span,
    parameters: "dict[str, torch.nn.Parameter]",
) -> "dict[str, torch.Tensor]":
    """The trained tensors under an organ's names, in the form that checkpoints store.

    The class may hold what a checkpoint stores as many tensors, such as experts, as one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    held = {name: parameter.detach().to("cpu") for name, parameter in parameters.items()}
    stored = revert_weight_conversion(model, held)
    return {
        f"{part[0] - span.start}.{part[1]}": tensor.contiguous()
        for name, tensor in stored.items()
        if (part := host.anatomy.layer_of(name))
    }


def _descend(
    model: "PreTrainedModel",
    parameters: "list[torch.nn.Parameter]",
    schedule: Sequence[Sequence[Block]],
    recipe: Recipe,
    advance: Advance,
) -> list[float]:
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    losses = []
    for step, batch in enumerate(schedule):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _pace(step, len(schedule), recipe.warmup)
        predicted = sum(len(block) - 1 for block in batch)
        loss = token_nats(model, batch).sum() / predicted
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is not finite at step {step + 1}; lower the learning rate"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        advance(sum(map(len, batch)), losses[-1])
    return losses


def _pace(step: int, steps: int, warmup: float) -> float:
    """Learning rate at a step as a fraction of its peak: linear up, cosine down to a tenth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    along = (step - rise) / max(1, steps - rise)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * along))
