"""Gradients by unit: Opacus' hooks, with samplers for the modules that it does not know.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.grad_sample.utils import register_grad_sampler, register_norm_sampler
from transformers.pytorch_utils import Conv1D

from not_core.errors import PrivacyError
from not_core.learning.low_rank import Factored

Samples = dict[torch.nn.Parameter, torch.Tensor]


class _PerUnit:
    """Takes all rows of a unit for one sample.

    Attributes:
        rows: Rows of the batch.
        blocks: Rows of each unit.
    """

    rows: int = 0
    blocks: int = 0

    def rearrange_grad_samples(self, *, module: torch.nn.Module, **more: Any) -> Any:
        """Activations and what came back, a unit in each entry of their first dimension.

        Raises:
            PrivacyError: The module does not see the batch's rows apart.
        """
        activations, back = super().rearrange_grad_samples(module=module, **more)  # type: ignore[misc]
        if len(back) != self.rows or back.dim() < 3:
            raise unsuited(module, "sees tokens of several records as one row")
        own: Any = module
        own.max_batch_len = self.rows // self.blocks
        return [self._folded(one) for one in activations], self._folded(back)

    def _folded(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(len(rows) // self.blocks, -1, *rows.shape[2:])


class _SampleHooks(_PerUnit, GradSampleHooks):  # type: ignore[misc]
    pass


class _GhostHooks(_PerUnit, GradSampleHooksFastGradientClipping):  # type: ignore[misc]
    pass


def hooks(model: torch.nn.Module, *, ghost: bool) -> Any:
    """Opacus' hooks on a model, a sampler for every kind of module that learns.

    Args:
        model: In it, what learns requires gradients.
        ghost: Whether they find norms only.

    Raises:
        PrivacyError: There is no sampler for a kind.
    """
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if not any(one.requires_grad for one in own.values()):
            continue
        kind = type(module)
        if kind not in GradSampleHooks.GRAD_SAMPLERS:
            if not _is_norm(module, own):
                raise unsuited(module, "has no sampler of gradients by record")
            register_grad_sampler(kind)(_norm_samples)
        # Read by the hooks; in these modules it changes nothing else.
        module.training = True
    made = _GhostHooks if ghost else _SampleHooks
    return made(model, loss_reduction="sum", strict=False)


def _is_norm(module: torch.nn.Module, own: dict[str, torch.nn.Parameter]) -> bool:
    return (
        "norm" in type(module).__name__.lower()
        and own.keys() <= {"weight", "bias"}
        and all(one.dim() == 1 for one in own.values())
    )


def unsuited(module: torch.nn.Module, why: str) -> PrivacyError:
    """The refusal of a module."""
    return PrivacyError(
        f"{type(module).__name__} {why}; choose the clipping `loop`, which suits every family"
    )


@register_grad_sampler(Factored)  # type: ignore[untyped-decorator]
def _factored_samples(
    module: Factored, activations: list[torch.Tensor], back: torch.Tensor
) -> Samples:
    x, (first, second) = activations[0], module.factors()
    before = torch.einsum("uni,unr->uir", x, back @ second.T)
    after = torch.einsum("unr,uno->uro", x @ first, back)
    return module.by_factor(before, after)


@register_grad_sampler(Conv1D)  # type: ignore[untyped-decorator]
def _conv1d_samples(module: Any, activations: list[torch.Tensor], back: torch.Tensor) -> Samples:
    found: Samples = {}
    if module.weight.requires_grad:
        found[module.weight] = torch.einsum("uni,uno->uio", activations[0], back)
    if module.bias.requires_grad:
        found[module.bias] = back.sum(dim=1)
    return found


@register_norm_sampler(Conv1D)  # type: ignore[untyped-decorator]
def _conv1d_norms(module: Any, activations: list[torch.Tensor], back: torch.Tensor) -> Samples:
    found: Samples = {}
    if module.weight.requires_grad:
        inside = torch.einsum("uni,umi->unm", activations[0], activations[0])
        outside = torch.einsum("uno,umo->unm", back, back)
        found[module.weight] = (inside * outside).sum(dim=(1, 2)).clamp(min=0).sqrt()
    if module.bias.requires_grad:
        found[module.bias] = back.sum(dim=1).norm(dim=1)
    return found


def _norm_samples(
    module: torch.nn.Module, activations: list[torch.Tensor], back: torch.Tensor
) -> Samples:
    """Of a norm that is linear in its weight, which scales its output at 1 less that at 0."""
    own = dict(module.named_parameters(recurse=False))
    found: Samples = {}
    if own["weight"].requires_grad:
        with torch.no_grad():
            one, none = (
                torch.func.functional_call(
                    module, {**own, "weight": torch.full_like(own["weight"], value)}, activations[0]
                )
                for value in (1.0, 0.0)
            )
        found[own["weight"]] = ((one - none) * back).flatten(1, -2).sum(dim=1)
    if "bias" in own and own["bias"].requires_grad:
        found[own["bias"]] = back.flatten(1, -2).sum(dim=1)
    return found
