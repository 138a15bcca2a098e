"""Attention in bfloat16 on a processor, by matrix products.

There torch's own kernel took a fifth of an organ's training, most of it not for multiplication, and
as long for what a mask hides as for what it shows. Products, some places at a time and only with
those that one of them sees, take half of that and less of packed documents.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from not_core.learning.device import multiplies_bfloat16
from not_core.learning.packing import FILL

NAME = "organ-exchange-products"
OTHERS = ("position_bias", "cache", "softcap", "s_aux")
"""What only torch's kernel, or none, can do."""
TILE = 128
"""Places whose scores are held at once."""


def quicken(model: PreTrainedModel) -> None:
    """Let a model attend by products where that is quicker and its class lets one choose.

    Args:
        model: On its device, in its type. It computes the same but for rounding.
    """
    native = model.device.type == "cpu" and multiplies_bfloat16(model.device)
    if native and model.dtype == torch.bfloat16 and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # which places are seen is no constant
def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers asks for it; what is not the plain case is left to torch's kernel.

    Args:
        module: The layer's attention.
        query: Shape ``(rows, heads, places, width)``.
        key: The same, with as many heads or some part of them.
        value: As ``key``, of any width.
        attention_mask: True where a place sees another, last two dimensions ``(places, places)``;
            None for all, or, in causal attention, for those up to itself.
        more: ``scaling``, ``is_causal`` and what the plain case does not have.

    Returns:
        Shape ``(rows, places, heads, width)``.
    """
    places = query.shape[2]
    plain = (
        query.dtype == torch.bfloat16
        and 1 < places == key.shape[2]
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and not more.get("dropout")
        and all(more.get(name) is None for name in OTHERS)
    )
    if not plain:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return out, None
    seen = attention_mask
    if seen is None:
        seen = torch.ones(1, 1, places, places, dtype=torch.bool)
        causal = more.get("is_causal")
        if getattr(module, "is_causal", True) if causal is None else causal:
            seen = seen.tril()
    scale = query.shape[-1] ** -0.5 if more.get("scaling") is None else more["scaling"]
    out = _Attention.apply(query, key, value, seen, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
    """``softmax(scale * query @ key.mT) @ value`` over what is seen; keeps no weights."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        seen: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, seen)
        ctx.scale, ctx.tiles = scale, _tiles(seen)
        key, value = (repeat_kv(one, query.shape[1] // one.shape[1]) for one in (key, value))
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        for tile, span in ctx.tiles:
            weights = _weights(query[:, :, tile], key[:, :, span], seen[:, :, tile, span], scale)
            out[:, :, tile] = weights @ value[:, :, span]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, narrow, low, seen = ctx.saved_tensors
        groups = query.shape[1] // narrow.shape[1]
        key, value = (repeat_kv(one, groups) for one in (narrow, low))
        (out,) = gradients
        by_query, by_key, by_value = (torch.zeros_like(one) for one in (query, key, value))
        for tile, span in ctx.tiles:
            weights = _weights(
                query[:, :, tile], key[:, :, span], seen[:, :, tile, span], ctx.scale
            )
            by_weight = out[:, :, tile] @ value[:, :, span].mT
            by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
            by_score.mul_(ctx.scale)
            by_query[:, :, tile] = by_score @ key[:, :, span]
            by_key[:, :, span] += by_score.mT @ query[:, :, tile]
            by_value[:, :, span] += weights.mT @ out[:, :, tile]
        found = (
            one.view(len(one), -1, groups, *one.shape[2:]).sum(dim=2) if groups > 1 else one
            for one in (by_key, by_value)
        )
        return by_query, *found, None, None


def _tiles(seen: torch.Tensor) -> list[tuple[slice, slice]]:
    """Places, some at a time, and the span from the first to the last that one of them sees.

    Spans begin and end at multiples of ``FILL``, for the reason that rows do.
    """
    by_any = seen.flatten(0, 1).any(dim=0)
    found = []
    for start in range(0, len(by_any), TILE):
        tile = slice(start, start + TILE)
        columns = by_any[tile].any(dim=0).nonzero()[:, 0].tolist() or [0]
        first, last = columns[0] // FILL * FILL, columns[-1] // FILL * FILL + FILL
        found.append((tile, slice(first, last)))
    return found


def _weights(
    query: torch.Tensor, key: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    """How much of each place the places of a tile take; the last dimension sums to one."""
    left, right = query.flatten(0, 1), key.flatten(0, 1).mT
    scores = left.new_empty(*left.shape[:2], right.shape[2])
    torch.baddbmm(scores, left, right, beta=0, alpha=scale, out=scores)
    scores = scores.view(*query.shape[:2], *scores.shape[1:])
    return scores.masked_fill_(~seen, torch.finfo(scores.dtype).min).softmax(-1)
