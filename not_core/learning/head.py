"""The loss over a large vocabulary, in pieces: the logits of a batch never lie whole in memory.

Imported by what measures and trains, inside its functions, because it needs torch to be imported.
"""

import math
from collections.abc import Iterable
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
        shortlist: Token ids for estimates; see ``nats``. None makes none.
        sample: How many of the other ids an estimate draws.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shortlist: Iterable[int] | None = None,
        sample: int = 0,
    ) -> None:
        self._model = model
        self._plain: bool | None = None
        self._short: _Shortlist | None = None
        ids = sorted(set(shortlist or ()))
        head: Any = model.get_output_embeddings()
        if ids and len(ids) + sample < len(head.weight):
            self._short = _Shortlist(head, ids, sample)

    def nats(self, labels: torch.Tensor, *, draw: int | None = None, **inputs: Any) -> torch.Tensor:
        """Negative log-likelihood of each label, in nats, zero where it is ``UNSEEN``.

        Args:
            labels: What each place should predict, shape ``(rows, tokens)``.
            draw: Number of a draw: the sum over the vocabulary is estimated from the ids of the
                shortlist, which must hold all labels, and from a sample of the others that stands
                for all of them; the same number draws the same. None sums over all ids.
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
        flat, wanted = hidden.reshape(-1, hidden.shape[-1]), labels.flatten()
        weight, bias = head.weight, head.bias
        if draw is not None and self._short:
            weight, bias, wanted = self._short.draw(wanted, draw)
        nats: torch.Tensor = _Loss.apply(flat, weight, bias, wanted)  # type: ignore[no-untyped-call]
        return nats.view(labels.shape)

    def _is_plain(self, inputs: dict[str, Any]) -> bool:
        """Whether the logits are the head's product and no more, tried on the first place."""
        head: Any = self._model.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            return False
        with torch.no_grad():
            hidden = self._model.base_model(**inputs, use_cache=False).last_hidden_state
            if hidden.shape[-1] != head.in_features:
                return False
            first = torch.zeros(1, dtype=torch.long, device=hidden.device)  # the last may be a fill
            logits = self._model(**inputs, use_cache=False, logits_to_keep=first).logits
            return bool(torch.allclose(logits, head(hidden[:, :1])))


class _Shortlist:
    """The head's rows that are always used, and samples of the others, weighted to stand for all.

    Source: Jean et al. (2015), On Using Very Large Target Vocabulary for Neural Machine
        Translation, arXiv:1412.2007; Bengio and Senecal (2008), importance sampling.
    """

    def __init__(self, head: torch.nn.Linear, ids: list[int], sample: int) -> None:
        weight = head.weight.detach()
        self._head, self._sample = head, sample
        known = torch.tensor(ids, device=weight.device)
        others = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        others[known] = False
        self._others = others.nonzero()[:, 0]
        self._known = known
        self._places = torch.full((len(weight),), UNSEEN, device=weight.device)
        self._places[known] = torch.arange(len(ids), device=weight.device)
        self._rows = torch.empty(len(ids) + sample, weight.shape[1]).to(weight)
        self._rows[: len(ids)] = weight[known]
        bias = torch.zeros(len(weight)).to(weight) if head.bias is None else head.bias.detach()
        self._bias = torch.cat([bias[known], bias.new_zeros(sample)])

    def draw(
        self, labels: torch.Tensor, number: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weight and bias of a smaller head, and where in it the labels stand.

        The tensors are overwritten by the next draw.
        """
        count = len(self._known)
        if self._sample:
            generator = torch.Generator().manual_seed(number)
            drawn = torch.randint(len(self._others), (self._sample,), generator=generator)
            ids = self._others[drawn.to(self._others.device)]
            self._rows[count:] = self._head.weight.detach()[ids]
            stands_for = math.log(len(self._others) / self._sample)
            self._bias[count:] = stands_for
            if self._head.bias is not None:
                self._bias[count:] += self._head.bias.detach()[ids]
        there = torch.where(labels >= 0, self._places[labels.clamp(min=0)], UNSEEN)
        return self._rows, self._bias, there


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
