"""How an organ is trained, as a value."""

import math
from dataclasses import dataclass
from typing import Literal

from not_core.learning.device import Precision
from not_core.manifest import Span, default_learning_rate

Scaffold = Literal["in-situ", "alone", "emulator", "inserted"]
Learns = Literal["layers", "norms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an organ is trained; the defaults are the best of what was tried (decisions 13, 25).

    Attributes:
        scaffold: What stands around the organ in training. ``in-situ``: the whole frozen model.
            ``alone``: nothing, as in the paper. ``emulator``: the model's first and last
            ``context`` layers. ``inserted``: the whole model, the organ between its layers, at
            first changing nothing.
        context: Layers below and above the organ in an emulator.
        learns: ``layers``, or only the ``norms`` in them, for a recovery; an organ's manifest does
            not tell, so an organ is trained by its layers.
        rank: Of the factors that learn in every linear module; None to train the layers whole, or
            their norms.
        tokens: Training tokens, about; records repeat when there are fewer.
        epochs: Passes over the records, instead of ``tokens``.
        seconds: Time to take, set-up included, instead of ``tokens``.
        learning_rate: Peak, reached after ``warmup``, then falling as a cosine to a tenth; None
            for 2e-3 with factors, 1e-3 for whole layers, 5e-3 for norms.
        warmup: Fraction of the budget.
        clip: Largest L2 norm of one step's gradient.
        block_tokens: Longest block, in tokens.
        step_tokens: Room of one step, in tokens; shorter blocks share a step.
        patience: Readings on validation documents without a new best after which training stops;
            there is one before the first step, and ten more in a budget.
        head_sample: The loss sums over the token ids that occur in the records and over so many of
            the others, drawn anew for each step and weighted to stand for all of them; None sums
            over the whole vocabulary. Readings always do.
        scale: Part of what factors learned that stays when training ends; less keeps more of what
            the model could do before. None for 0.9 of an organ that learns in place by factors,
            and for all else for all of it; all of it, too, under privacy and in a recovery.
        precision: Type that the frozen model computes in; ``auto`` for bfloat16 where the device
            multiplies it natively. What learns is kept in float32.
        gradient_checkpointing: Compute activations again instead of keeping them: less memory,
            more time.
        compiled: Compile the layers first (``torch.compile``).
        seed: Of the order of the records and of the factors' first values.
        threads: CPU threads; None for torch's choice. Equal digests need equal threads.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    scaffold: Scaffold = "in-situ"
    context: int = 2
    learns: Learns = "layers"
    rank: int | None = 16
    tokens: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    learning_rate: float | None = None
    warmup: float = 0.05
    clip: float = 1.0
    block_tokens: int = 256
    step_tokens: int = 256
    patience: int = 2
    head_sample: int | None = 2048
    scale: float | None = None
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    compiled: bool = False
    seed: int = 0
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        budgets = [one for one in (self.tokens, self.epochs, self.seconds) if one is not None]
        if len(budgets) != 1 or not 0 < budgets[0] < math.inf:
            raise ValueError("expected one of tokens, epochs and seconds, above 0")
        if (
            min(
                self.context, self.step_tokens, self.patience, 1 if self.rank is None else self.rank
            )
            < 1
        ):
            raise ValueError("expected context, rank, step_tokens and patience >= 1")
        if self.block_tokens < 2 or self.seed < 0 or (self.head_sample or 0) < 0:
            raise ValueError("expected block_tokens >= 2, seed >= 0, head_sample >= 0")
        if self.scale is not None and not (0 < self.scale <= 1 and (self.rank or self.scale == 1)):
            raise ValueError("expected 0 < scale <= 1, and 1 where no factors learn")
        if self.learns == "norms" and self.rank is not None:
            raise ValueError("expected no rank where only norms learn")
        if not (0 < self.peak < 1 and 0 <= self.warmup < 1 and self.clip > 0):
            raise ValueError("expected 0 < learning_rate < 1, 0 <= warmup < 1, clip > 0")

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.learns == "norms":
            return 5e-3
        return default_learning_rate(self.rank)

    @property
    def scaling(self) -> float:
        """The part of what was learned that stays."""
        if self.scale is not None:
            return self.scale
        return 0.9 if self.rank and self.scaffold == "in-situ" else 1.0

    def pace(self, progress: float) -> float:
        """Learning rate as a fraction of its peak when ``progress`` of the budget is used."""
        if progress < self.warmup:
            return progress / self.warmup
        along = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * along))


def default_span(layers: int, rank: int | None) -> Span:
    """The layers to train where none are named; see decisions 12 and 13.

    Factors reach over all layers but the lowest sixth; whole layers, being large, are three, a
    third of the way up.
    """
    if rank is not None:
        return Span(start=layers // 6, stop=layers)
    start = layers // 3
    return Span(start=start, stop=min(start + 3, layers))
