"""Ways to fit a model to private records, side by side on equal terms.

All learn from the same packs of the same blocks in the same order, with AdamW, the same warm-up,
cosine and clipping; what differs is what learns, and in which precision the rest computes.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from not_core.errors import TrainingError
from not_core.learning.device import Precision, threads
from not_core.learning.lessons import Budget, Lessons
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.training import TrainedOrgan, train
from not_core.manifest import Span
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.organ import Label, Organ, describe
from not_core.surgery.plan import Mode, identity, transplant
from simulations.experiments.kept import computes_in

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from not_core.learning.masters import Masters
    from not_core.learning.packing import Rows
    from not_core.learning.resumption import Resumption
    from not_core.learning.text_blocks import Block


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting made and what it took, up to here.

    Attributes:
        model: To measure: in float32, any factors merged.
        tokens: Training tokens.
        trainable: Parameters that learned.
        artefact_bytes: What would be shared.
    """

    model: "Callable[[], PreTrainedModel]"
    tokens: int
    trainable: int
    artefact_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to fit a model.

    Attributes:
        kind: ``none`` leaves it as it is; ``organ`` is ours; ``lora`` is PEFT's; ``full`` trains
            every parameter.
        rank: Of factors; None trains layers whole.
        learning_rate: Peak; None for an organ's default.
        precision: What the frozen model computes in.
        scaffold: Of an organ; see ``Recipe``.
        targets: Of LoRA: PEFT's ``target_modules``.
        span: Layers that learn; None for an organ's default, and for all of LoRA's.
        scale: See ``Recipe``; None for the default of an organ, and for all of anything else.
    """

    kind: Literal["none", "organ", "lora", "full"]
    rank: int | None = 16
    learning_rate: float | None = None
    precision: Precision = "auto"
    scaffold: Literal["in-situ", "alone", "emulator", "inserted"] = "in-situ"
    targets: str | tuple[str, ...] = "all-linear"
    span: tuple[int, int] | None = None
    scale: float | None = None


LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONTESTANTS: dict[str, Contestant] = {
    "stock": Contestant(kind="none"),
    "lora": Contestant(kind="lora", learning_rate=2e-3, precision="float32"),
    "lora-bf16": Contestant(kind="lora", learning_rate=2e-3, precision="bfloat16"),
    "lora-bf16-upper": Contestant(
        kind="lora", learning_rate=2e-3, precision="bfloat16", targets=LINEAR, span=(5, 30)
    ),
    "lora-attention": Contestant(
        kind="lora",
        learning_rate=2e-3,
        precision="float32",
        targets=LINEAR[:4],
    ),
    "full": Contestant(kind="full", rank=None, learning_rate=2e-4, precision="float32"),
    "paper": Contestant(kind="organ", rank=None, scaffold="alone", learning_rate=5e-4),
    "organ-whole": Contestant(kind="organ", rank=None),
    "organ-unscaled": Contestant(kind="organ", scale=1.0),
    "lora-scaled": Contestant(kind="lora", learning_rate=2e-3, precision="float32", scale=0.9),
    "organ": Contestant(kind="organ"),
}


def recipe_of(contestant: Contestant, budget: dict[str, Any], seed: int) -> Recipe:
    """All that a contestant learns by, defaults filled in.

    Args:
        contestant: How.
        budget: ``tokens`` or ``seconds`` of a ``Recipe``.
        seed: Of the order of the documents and of first values.
    """
    return Recipe(
        scaffold=contestant.scaffold,
        rank=contestant.rank,
        learning_rate=contestant.learning_rate,
        precision=contestant.precision,
        scale=contestant.scale if contestant.kind == "organ" else contestant.scale or 1.0,
        seed=seed,
        threads=1,
        device="cpu",
        **budget,
    )


def fit(
    contestant: Contestant,
    host: Checkpoint,
    texts: Sequence[str],
    budget: dict[str, Any],
    seed: int,
) -> Fitted:
    """Fit the model to documents.

    Args:
        contestant: How.
        host: The model.
        texts: Documents.
        budget: ``tokens`` or ``seconds`` of a ``Recipe``.
        seed: Of the order of the documents and of first values.
    """
    started = time.monotonic()
    recipe = recipe_of(contestant, budget, seed)
    if contestant.kind == "none":
        return Fitted(lambda: assemble(identity(host.layers), host, {}, dtype="float32"), 0, 0, 0)
    if contestant.kind == "organ":
        return _organ(contestant, host, texts, recipe)
    return _plain(contestant, host, texts, recipe, started)


def _organ(
    contestant: Contestant, host: Checkpoint, texts: Sequence[str], recipe: Recipe
) -> Fitted:
    span = default_span(host.layers, recipe.rank)
    if contestant.span:
        span = Span(start=contestant.span[0], stop=contestant.span[1])
    return of_organ(host, span, train(host, span, texts, recipe))


def of_organ(host: Checkpoint, span: Span, trained: TrainedOrgan) -> Fitted:
    """What training of an organ made and took."""
    shared = trained.factors or trained.tensors
    forms = [shared.form(name) for name in shared.names()]
    return Fitted(
        lambda: with_organ(host, span, trained),
        trained.facts.tokens,
        sum(form.parameters for form in forms),
        sum(form.bytes for form in forms),
    )


def with_organ(host: Checkpoint, span: Span, trained: TrainedOrgan) -> "PreTrainedModel":
    """The model, in float32, with what was trained in the place for which it was."""
    manifest = describe(host, span, trained.tensors, Label(name="o"), training=trained.facts)
    mode: Mode = "insert" if trained.facts.scaffold == "inserted" else "replace"
    plan = transplant(host.layers, "o", len(span), mode=mode, position=span.start)
    return assemble(plan, host, {"o": Organ(manifest, trained.tensors).source}, dtype="float32")


def _plain(
    contestant: Contestant,
    host: Checkpoint,
    texts: Sequence[str],
    recipe: Recipe,
    started: float,
) -> Fitted:
    """LoRA by PEFT, or every parameter, in a plain loop with the class's own loss."""
    import torch

    from not_core.learning.packing import rows_of

    with threads(recipe.threads):
        torch.manual_seed(recipe.seed)
        model: Any = assemble(identity(host.layers), host, {}, dtype=computes_in(recipe))
        rows, tokens = rows_of(model), 0
        if contestant.kind == "lora":
            model = with_lora(model, contestant)
        model.train()
        learning = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=recipe.peak, weight_decay=0.0, fused=True)
        lessons = Lessons(host.tokenizer, texts, (), recipe)
        budget = Budget(recipe, lessons.there, started)
        for pack in (pack for section in lessons.sections(budget) for pack in section):
            if budget.used(tokens) >= 1:
                break
            tokens += lessons.tokens(pack)
            for group in optimizer.param_groups:
                group["lr"] = recipe.peak * recipe.pace(budget.used(tokens))
            step(model, optimizer, rows, [lessons.blocks[n] for n in pack], recipe.clip)

    def fitted() -> "PreTrainedModel":
        whole: PreTrainedModel = model.to(torch.float32).eval()
        return whole

    return Fitted(
        partial(_merged, contestant, host, model, recipe) if contestant.kind == "lora" else fitted,
        tokens,
        sum(one.numel() for one in learning),
        sum(one.numel() * one.element_size() for one in learning),
    )


def step(
    model: Any,
    optimizer: "torch.optim.Optimizer",
    rows: "Rows",
    blocks: "Sequence[Block]",
    clip: float,
) -> None:
    """One step of a model's own forward pass, by the mean loss of a pack of blocks.

    Args:
        model: In training mode; what learns are the optimizer's parameters.
        optimizer: Its rate as it is to be in this step.
        rows: How the model takes several blocks.
        blocks: The pack.
        clip: Largest norm of the gradient.

    Raises:
        TrainingError: The loss is not finite.
    """
    import torch

    inputs, labels = rows.inputs(blocks, model.device)
    logits = model(**inputs, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
    if not math.isfinite(loss.item()):
        raise TrainingError("the loss is not finite; lower the learning rate")
    loss.backward()  # type: ignore[no-untyped-call]
    learning = [one for group in optimizer.param_groups for one in group["params"]]
    torch.nn.utils.clip_grad_norm_(learning, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _merged(
    contestant: Contestant, host: Checkpoint, model: Any, recipe: Recipe
) -> "PreTrainedModel":
    """A model's factors, scaled, in the host as it is: not as it was rounded to compute in."""
    from peft import set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    body: Any = assemble(identity(host.layers), host, {}, dtype="float32")
    whole = with_lora(body, contestant)
    set_peft_model_state_dict(whole, adapter(model))
    for module in whole.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(recipe.scaling)
    merged: PreTrainedModel = whole.merge_and_unload().eval()
    return merged


class Whole:
    """Losses of a whole model by its own forward pass, as ``not_core.learning`` asks for them.

    Args:
        body: The model; factors may be put into it later.
        blocks: All blocks that will be asked for.
        rows: How it takes several of them.
    """

    def __init__(self, body: "PreTrainedModel", blocks: "Sequence[Block]", rows: "Rows") -> None:
        self._blocks, self._rows = blocks, rows
        self._model: Any = body

    def prepare(self, numbers: Iterable[int]) -> None:
        """Nothing is done once for each block."""

    def nats(self, numbers: Sequence[int], *, draw: int | None = None) -> "torch.Tensor":
        """Negative log-likelihood of every place that predicts, in nats; never an estimate.

        Returns:
            Shape ``(rows, tokens)``, zero where nothing is predicted.
        """
        import torch

        inputs, labels = self._rows.inputs([self._blocks[n] for n in numbers], self._model.device)
        logits = self._model(**inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), reduction="none"
        ).view(labels.shape)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a course runs: what it asks of a ``Workplace``."""

    scene: Whole
    masters: "Masters"
    kept: "Resumption"


@contextmanager
def lora_place(
    contestant: Contestant,
    host: Checkpoint,
    blocks: "Sequence[Block]",
    recipe: Recipe,
    *,
    apart: bool,
) -> Iterator[tuple[Place, Any]]:
    """The whole model with PEFT's factors in it, set up as ``workplace`` sets up an organ.

    Args:
        contestant: LoRA.
        host: The model.
        blocks: All that will be read.
        recipe: How.
        apart: Whether each block is a row of its own.
    """
    import torch

    from not_core.learning.masters import Masters
    from not_core.learning.packing import Rows, rows_of
    from not_core.learning.resumption import Resumption

    with threads(recipe.threads):
        torch.manual_seed(recipe.seed)
        body = assemble(identity(host.layers), host, {}, dtype=computes_in(recipe))
        model = with_lora(body, contestant)  # its factors are put into the body
        learning = {name: one for name, one in model.named_parameters() if one.requires_grad}
        masters = Masters(learning, recipe.clip)
        rows = Rows(packed=False) if apart else rows_of(body)
        yield Place(Whole(body, blocks, rows), masters, Resumption(None, "")), model


def adapter(model: Any) -> "dict[str, torch.Tensor]":
    """PEFT's state of a model's factors."""
    from peft import get_peft_model_state_dict

    # Left to guess, PEFT asks the hub whether the vocabulary is another one than the base's.
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def with_lora(model: Any, contestant: Contestant) -> Any:
    """A model with PEFT's factors beside its products; only they learn."""
    from peft import LoraConfig, get_peft_model

    rank = contestant.rank or 16
    targets = contestant.targets
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
        layers_to_transform=list(range(*contestant.span)) if contestant.span else None,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
