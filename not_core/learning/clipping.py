"""The sum of units' gradients, each clipped to the same norm, in three ways that agree.

``loop``: one unit after another, by plain autograd; right for every family. ``samples``: units side
by side, with a gradient held for each. ``ghost``: units side by side, norms first, then one pass
over losses weighted by them, so that no unit's gradient is ever held.

Imported by what trains, inside its functions, because it needs torch to be imported.

Source: Abadi et al. (2016), Deep Learning with Differential Privacy, arXiv:1607.00133; Li et al.
    (2022), Large Language Models Can Be Strong Differentially Private Learners, arXiv:2110.05679.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from not_core.errors import PrivacyError
from not_core.learning import samplers
from not_core.learning.course import Losses
from not_core.learning.guard import Clipping

Unit = list[int]
"""Blocks of one unit, by index; at least one."""


class Clipped(Protocol):
    """A way to sum clipped gradients."""

    def total(self, units: Sequence[Unit]) -> tuple[list[torch.Tensor], float]:
        """The sum over units of the gradient of a unit's mean loss a token, clipped.

        A unit whose gradient is not finite adds nothing: to stop there would tell of it.

        Returns:
            Float32, shaped as the parameters; and the mean loss of those that add, in nats a token,
            NaN if none does.
        """


@dataclass(frozen=True, slots=True)
class Learner:
    """A model in training, for what clips.

    Attributes:
        model: All of it.
        losses: Its losses of blocks; rows hold one block each, but for ``loop``.
        parameters: What learns, all of it.
        sizes: Tokens of each block.
    """

    model: torch.nn.Module
    losses: Losses
    parameters: Sequence[torch.nn.Parameter]
    sizes: Sequence[int]

    def places(self, unit: Unit) -> int:
        """Tokens of a unit that are predicted."""
        return sum(self.sizes[number] - 1 for number in unit)

    def zeros(self) -> list[torch.Tensor]:
        """A sum of no gradients."""
        return [torch.zeros_like(one, dtype=torch.float32) for one in self.parameters]


def clipped(way: Clipping, learner: Learner, clip: float, batch_tokens: int) -> Clipped:
    """A way to sum clipped gradients.

    Args:
        way: Which.
        learner: The model.
        clip: Largest L2 norm of one unit's gradient.
        batch_tokens: Tokens that run at once; a larger unit runs alone.

    Raises:
        PrivacyError: A module that learns has no sampler of per-unit gradients, or runs in too few
            digits for norms that are never compared with their gradients.
    """
    if way == "loop":
        return _Loop(learner, clip)
    coarse = [one.dtype for one in learner.model.parameters() if one.dtype.itemsize < 4]
    if way == "ghost" and coarse:
        raise PrivacyError(
            f"ghost norms in {str(coarse[0]).removeprefix('torch.')} let gradients pass the bound "
            "by a percent; clip by loop or samples, or train in float32"
        )
    return _Together(way, learner, clip, batch_tokens)


@dataclass(frozen=True, slots=True)
class _Loop:
    learner: Learner
    clip: float

    def total(self, units: Sequence[Unit]) -> tuple[list[torch.Tensor], float]:
        learner, totals = self.learner, self.learner.zeros()
        losses = []
        for unit in units:
            loss = learner.losses.nats(unit).sum() / learner.places(unit)
            _backward(loss)
            gradients = [one.grad for one in learner.parameters]
            for parameter in learner.parameters:
                parameter.grad = None
            there = [one.float() for one in gradients if one is not None]
            norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(there))))
            if not math.isfinite(norm):
                continue
            losses.append(loss.item())
            into = [one for one, given in zip(totals, gradients, strict=True) if given is not None]
            torch._foreach_add_(into, there, alpha=min(1.0, self.clip / max(norm, 1e-12)))
        return totals, _mean(losses)


class _Together:
    def __init__(self, way: Clipping, learner: Learner, clip: float, batch_tokens: int) -> None:
        self._ghost = way == "ghost"
        self._learner, self._clip, self._batch_tokens = learner, clip, batch_tokens
        self._hooks = samplers.hooks(learner.model, ghost=self._ghost)

    def total(self, units: Sequence[Unit]) -> tuple[list[torch.Tensor], float]:
        totals = self._learner.zeros()
        losses: list[float] = []
        for batch in self._batches(units):
            losses += self._add(batch, totals)
        return totals, _mean(losses)

    def _batches(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Units that run at once, like beside like."""
        sizes = self._learner.sizes
        shapes = [(len(unit), max(sizes[number] for number in unit), unit) for unit in units]
        batches: list[list[Unit]] = []
        widest = 0
        for rows, longest, unit in sorted(shapes):
            widest = max(widest, longest)
            if batches and (len(batches[-1]) + 1) * rows * widest <= self._batch_tokens:
                batches[-1].append(unit)
            else:
                batches.append([unit])
                widest = longest
        return batches

    def _add(self, batch: Sequence[Unit], totals: Sequence[torch.Tensor]) -> list[float]:
        """Add a batch's clipped gradients to the totals; returns the units' losses."""
        rows = max(map(len, batch))
        spare = [rows - len(unit) for unit in batch]  # filled with a block that does not count
        numbers = [
            number
            for unit, more in zip(batch, spare, strict=True)
            for number in unit + unit[:1] * more
        ]
        weights = torch.tensor(
            [
                [1 / self._learner.places(unit)] * len(unit) + [0.0] * more
                for unit, more in zip(batch, spare, strict=True)
            ]
        )
        self._hooks.rows, self._hooks.blocks = len(numbers), rows
        self._hooks.enable_hooks()
        try:
            nats = self._learner.losses.nats(numbers).sum(dim=1).view(len(batch), rows)
        except RuntimeError as error:
            if "modified inplace" not in str(error):
                raise
            raise samplers.unsuited(self._learner.model, "changes outputs in place") from None
        losses = (nats * weights.to(nats.device)).sum(dim=1)
        _backward(losses.sum(), retain_graph=self._ghost)
        self._hooks.disable_hooks()
        norms = self._norms()
        if not norms.isfinite().all():
            for parameter in self._learner.parameters:
                _forget(parameter)
            finite = [batch[int(place)] for place in norms.isfinite().nonzero()[:, 0]]
            return self._add(finite, totals) if finite else []
        factors = (self._clip / norms.clamp(min=1e-12)).clamp(max=1)
        if self._ghost:
            for parameter in self._learner.parameters:
                parameter.grad = None
            _backward((losses * factors).sum())
        for parameter, total in zip(self._learner.parameters, totals, strict=True):
            if self._ghost:
                if parameter.grad is not None:
                    total += parameter.grad.float()
            else:
                own: Any = parameter
                total += torch.einsum("u,u...->...", factors, own.grad_sample.float())
            _forget(parameter)
        found: list[float] = losses.tolist()
        return found

    def _norms(self) -> torch.Tensor:
        """Norm of each unit's gradient, shape ``(units,)``."""
        each: list[torch.Tensor] = []
        for parameter in self._learner.parameters:
            own: Any = parameter
            if self._ghost:
                each.append(own._norm_sample.float())
            else:
                each.append(own.grad_sample.float().flatten(1).norm(dim=1))
        norms: torch.Tensor = torch.stack(each).norm(dim=0)
        return norms


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan


def _backward(loss: torch.Tensor, *, retain_graph: bool = False) -> None:
    with warnings.catch_warnings():
        # What the lowest layer reads is frozen, which is none of its hooks' business.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]


def _forget(parameter: torch.nn.Parameter) -> None:
    own: Any = parameter
    own.grad = None
    for name in ("grad_sample", "_norm_sample"):
        if hasattr(own, name):
            setattr(own, name, None)
