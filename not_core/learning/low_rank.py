"""Low-rank training: a frozen weight W computes as W + left @ right, and only the factors learn.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from not_core.errors import TrainingError

LEFT, RIGHT = "left", "right"


def add_factors(
    layer: torch.nn.Module, rank: int, generator: torch.Generator
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Give every linear module of a layer factors; until they learn, it computes as it did.

    Args:
        layer: Its linear modules are replaced where they stand.
        rank: Columns of ``left`` and rows of ``right``.
        generator: Of the random numbers that one factor begins with; the other begins with zeros.

    Yields:
        Name within the layer of the weight that a factor belongs to, with ``.left`` or ``.right``,
        and the factor; ``left @ right`` has the shape of the weight as it is stored.

    Raises:
        TrainingError: It has no linear module.

    Source: Hu et al. (2021), LoRA, arXiv:2106.09685.
    """
    found = {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }
    if not found:
        raise TrainingError(f"{type(layer).__name__} has no linear module; train it whole")
    for name, module in found.items():
        parent, _, own = name.rpartition(".")
        factored = Factored(module, rank, generator)
        setattr(layer.get_submodule(parent), own, factored)
        yield f"{name}.weight.{LEFT}", factored.left
        yield f"{name}.weight.{RIGHT}", factored.right


class Factored(torch.nn.Module):
    """A linear module, frozen, with factors that learn."""

    def __init__(
        self, module: torch.nn.Linear | Conv1D, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight, self.bias = module.weight, module.bias
        self._by_input = isinstance(module, Conv1D)  # the weight is (inputs, outputs)
        rows, columns = self.weight.shape
        inputs, outputs = (rows, columns) if self._by_input else (columns, rows)
        bound = inputs**-0.5
        start = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        zeros = torch.zeros(outputs, rank)
        left, right = (start.T, zeros.T) if self._by_input else (zeros, start)
        self.left, self.right = (
            torch.nn.Parameter(factor.contiguous().to(self.weight)) for factor in (left, right)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The module's output with ``left @ right`` added to its weight."""
        weight = self.weight if self._by_input else self.weight.T
        flat = x.reshape(-1, x.shape[-1])
        out: torch.Tensor = _Product.apply(flat, weight, self.bias, *self.factors())  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], out.shape[-1])

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What an input is multiplied by: shape ``(inputs, rank)``, then ``(rank, outputs)``."""
        return (self.left, self.right) if self._by_input else (self.right.T, self.left.T)

    def by_factor(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Tensors shaped as ``factors`` under more dimensions, by the parameter that each is of."""
        if self._by_input:
            return {self.left: first, self.right: second}
        return {self.right: first.mT, self.left: second.mT}


class _Product(torch.autograd.Function):
    """``x @ weight + (x @ first) @ second + bias``; keeps only x and the narrow product."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        first: torch.Tensor,
        second: torch.Tensor,
    ) -> torch.Tensor:
        narrow = x @ first
        out = x @ weight if bias is None else torch.addmm(bias, x, weight)
        ctx.save_for_backward(x, weight, first, second, narrow)
        return out.addmm_(narrow, second)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, first, second, narrow = ctx.saved_tensors
        (wide,) = gradients
        back = wide @ second.T
        below = (wide @ weight.T).addmm_(back, first.T) if ctx.needs_input_grad[0] else None
        return below, None, None, x.T @ back, narrow.T @ wide
