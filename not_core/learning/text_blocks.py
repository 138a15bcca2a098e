"""Documents as blocks of token ids, and a model's loss on them.

A block never holds text of two documents.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Block = tuple[int, ...]
UNSEEN = -100


def document_blocks(
    tokenizer: Any, texts: Sequence[str], block_tokens: int, blocks_per_document: int | None
) -> list[list[Block]]:
    """Cut each document into blocks of at most ``block_tokens`` tokens.

    Args:
        tokenizer: A Hugging Face tokenizer.
        texts: Documents.
        block_tokens: Largest block, in tokens, at least 2.
        blocks_per_document: How many blocks of a document are kept; None for all.

    Returns:
        The blocks of each document, in order; the first token of a block is context only, so a
        block of one token, which has nothing to predict, is dropped.
    """
    if block_tokens < 2:
        raise ValueError(f"expected block_tokens >= 2, got {block_tokens}")
    stop = None if blocks_per_document is None else block_tokens * blocks_per_document
    documents = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:stop]
        cuts = (tuple(ids[i : i + block_tokens]) for i in range(0, len(ids), block_tokens))
        documents.append([block for block in cuts if len(block) > 1])
    return documents


def predictions(
    model: "PreTrainedModel", blocks: Sequence[Block]
) -> "tuple[torch.Tensor, torch.Tensor]":
    """What a model expects in each place but the first, and what is there.

    Args:
        model: A causal language model.
        blocks: At least one.

    Returns:
        Logits, shape ``(blocks, longest - 1, vocabulary)``, and token ids, ``(blocks, longest -
        1)``, ``UNSEEN`` where a block has ended, both on the model's device. Padding stands on the
        right, where causal layers cannot see it, so no mask is needed and none slows attention
        down.
    """
    import torch

    longest = max(map(len, blocks))
    labels = torch.full((len(blocks), longest), UNSEEN)
    for row, block in enumerate(blocks):
        labels[row, : len(block)] = torch.tensor(block)
    labels = labels.to(model.device)
    logits = model(input_ids=labels.clamp(min=0), use_cache=False).logits
    return logits[:, :-1], labels[:, 1:]


def token_nats(model: "PreTrainedModel", blocks: Sequence[Block]) -> "torch.Tensor":
    """Negative log-likelihood of each token but the first, in nats, on the model's device.

    Args:
        model: A causal language model.
        blocks: At least one.

    Returns:
        Shape ``(blocks, longest - 1)``, zero where a block has ended.
    """
    return nats(*predictions(model, blocks))


def nats(logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Negative log-likelihood of what ``predictions`` found, in nats, in the labels' shape."""
    import torch

    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        reduction="none",
        ignore_index=UNSEEN,
    ).view(labels.shape)
