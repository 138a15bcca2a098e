"""Blocks that run together: packed into one row that no attention crosses, or side by side.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from not_core.learning.text_blocks import UNSEEN, Block

OPEN = 32
"""Packs that stand open at one time for a later block to fill."""
FILL = 32
"""A row's length is a multiple of it, by tokens that no block sees: what libraries keep for each
length that they have met does not grow without end."""


def pack(blocks: Iterable[int], sizes: Sequence[int], tokens: int) -> list[list[int]]:
    """Put blocks together, first fit, so that each pack holds at most about ``tokens`` tokens.

    Args:
        blocks: Indices into ``sizes``, in the order in which they should be learned.
        sizes: Tokens of each block.
        tokens: Room of a pack; a longer block is a pack of its own.

    Returns:
        Packs in the order in which they were opened.
    """
    packs: list[list[int]] = []
    room: dict[int, int] = {}  # open pack -> tokens that it still has room for
    for block in blocks:
        size = sizes[block]
        place = next((number for number, left in room.items() if left >= size), None)
        if place is None:
            place = len(packs)
            packs.append([])
            room[place] = tokens
            if len(room) > OPEN:
                del room[next(iter(room))]
        packs[place].append(block)
        room[place] -= size
        if room[place] < 2:  # no block is shorter
            del room[place]
    return packs


@dataclass(frozen=True, slots=True)
class Rows:
    """How a model takes several blocks at once.

    Attributes:
        packed: One row for all, where the class keeps packed documents apart; else a row each.
            Rows are filled up on the right, where causal layers cannot see it.
    """

    packed: bool

    def inputs(
        self, blocks: Sequence[Block], device: torch.device
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What the forward pass takes, and what each place should predict.

        Returns:
            Keyword arguments, and labels of shape ``(rows, tokens)``: the next token of the same
            block, ``UNSEEN`` where there is none.
        """
        if self.packed:
            fill = _missing(blocks)
            parts = [*blocks, (0,) * fill]
            rows = {
                "input_ids": [token for part in parts for token in part],
                "position_ids": [place for part in parts for place in range(len(part))],
            }
            after = [token for block in blocks for token in (*block[1:], UNSEEN)]
            labels = torch.tensor([after + [UNSEEN] * fill])
            ids = {name: torch.tensor([row]) for name, row in rows.items()}
            return {name: value.to(device) for name, value in ids.items()}, labels.to(device)
        longest = max(map(len, blocks))
        filled = torch.tensor([(*block, *(UNSEEN,) * (longest - len(block))) for block in blocks])
        labels = torch.nn.functional.pad(filled[:, 1:], (0, 1), value=UNSEEN)
        return {"input_ids": filled.clamp(min=0).to(device)}, labels.to(device)

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Activations of blocks, each ``(tokens, width)``, laid out as ``inputs`` lays out ids."""
        if self.packed:
            return torch.nn.functional.pad(torch.cat(list(parts)), (0, 0, 0, _missing(parts)))[None]
        return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)

    def split(self, rows: torch.Tensor, blocks: Sequence[Block]) -> list[torch.Tensor]:
        """Activations of each block out of those of ``rows``."""
        if self.packed:
            sizes = [len(block) for block in blocks]
            return list(torch.split(rows[0, : sum(sizes)], sizes))
        return [row[: len(block)] for row, block in zip(rows, blocks, strict=True)]


def _missing(parts: Sequence[Sized]) -> int:
    """Tokens that a row of these lacks to a multiple of ``FILL``."""
    return -sum(map(len, parts)) % FILL


def rows_of(model: PreTrainedModel) -> Rows:
    """How a model takes several blocks, found by trying whether packed ones come out as alone.

    Args:
        model: Its layers stand on its embeddings.
    """

    def run(blocks: Sequence[Block]) -> torch.Tensor:
        inputs, _ = Rows(packed=True).inputs(blocks, model.device)
        output: torch.Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
        return output[:, : sum(map(len, blocks))]

    first, second = tuple(range(2, 10)), tuple(range(20, 4, -2))
    with torch.no_grad():
        together, apart = run([first, second]), torch.cat([run([first]), run([second])], dim=1)
    tolerance = 8 * torch.finfo(apart.dtype).eps * apart.abs().amax()
    return Rows(packed=bool((together - apart).abs().amax() <= tolerance))
