"""The loss over a large vocabulary, in pieces: the logits of a batch never lie whole in memory.

Imported by what measures and trains, inside its functions, because it needs torch to be imported.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from not_core.learning.text_blocks import UNSEEN

PIECE = 128
"""Tokens whose logits are held at once."""


class Head:
    """Negative log-likelihoods of what a model predicts.

    Where the class does more to its logits than one product, such as capping them, its own logits
    are used, whole.

    Args:
        model: A causal language model; its head is taken as frozen.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._plain: bool | None = None

    def nats(self, labels: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Negative log-likelihood of each label, in nats, zero where it is ``UNSEEN``.

        Args:
            labels: What each place should predict, shape ``(rows, tokens)``.
            inputs: What the model's forward pass takes.

        Returns:
            Shape ``(rows, tokens)``, float32.
        """
        if self._plain is None:
            self._plain = self._is_plain(inputs)
        if not self._plain:
            logits = self._model(**inputs, use_cache=False).logits
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                labels.flatten(),
                reduction="none",
                ignore_index=UNSEEN,
            ).view(labels.shape)
        hidden = self._model.base_model(**inputs, use_cache=False).last_hidden_state
        head: Any = self._model.get_output_embeddings()
        flat = hidden.reshape(-1, hidden.shape[-1])
        nats: torch.Tensor = _Loss.apply(  # type: ignore[no-untyped-call]
            flat, head.weight, head.bias, labels.flatten()
        )
        return nats.view(labels.shape)

    def _is_plain(self, inputs: dict[str, Any]) -> bool:
        """Whether the logits are the head's product and no more, tried on the last place."""
        head: Any = self._model.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            return False
        with torch.no_grad():
            hidden = self._model.base_model(**inputs, use_cache=False).last_hidden_state
            if hidden.shape[-1] != head.in_features:
                return False
            logits = self._model(**inputs, use_cache=False, logits_to_keep=1).logits
            return bool(torch.allclose(logits[:, -1], head(hidden[:, -1:])[:, -1]))


class _Loss(torch.autograd.Function):
    """Cross-entropy of a product; the gradient is made beside the loss, piece by piece."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        nats = torch.zeros(len(labels), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(labels), PIECE):
            part = slice(start, start + PIECE)
            kept, there = labels[part] >= 0, labels[part].clamp(min=0)[:, None]
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            top = logits.amax(dim=1, keepdim=True)
            truth = logits.gather(1, there)
            powers = logits.sub_(top).exp_()
            total = powers.sum(dim=1, keepdim=True)
            nats[part] = torch.where(kept, (total.log() + top - truth)[:, 0], 0)
            if gradient is not None:
                powers.div_(total).scatter_add_(1, there, torch.full_like(truth, -1.0))
                torch.mm(powers.to(hidden.dtype), weight, out=gradient[part])
                gradient[part].mul_(kept[:, None])
        ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None, None
