"""What an organ learns from, in order, and how much of it."""

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from not_core.errors import RecordsError
from not_core.learning.recipe import Recipe
from not_core.learning.text_blocks import Block, document_blocks

SECTION_TOKENS, FIRST_TOKENS = 16_384, 1_024
"""Tokens that are made ready together: at most, and of a budget of time at first."""


class Lessons:
    """Blocks of documents, and the order in which packs of them are learned.

    Args:
        tokenizer: A Hugging Face tokenizer.
        texts: Documents to learn from.
        validation: Documents to read while learning, one block of each.
        recipe: How.

    Attributes:
        blocks: All blocks; packs hold their indices.
        sizes: Tokens of each.
        there: Tokens to learn from.
        validation: Indices of those that are only read.

    Raises:
        RecordsError: There is nothing to learn from, or nothing to read of what is kept back.
    """

    def __init__(
        self, tokenizer: Any, texts: Sequence[str], validation: Sequence[str], recipe: Recipe
    ) -> None:
        documents = document_blocks(tokenizer, texts, recipe.block_tokens, None)
        unseen = document_blocks(tokenizer, validation, recipe.block_tokens, 1)
        self._recipe = recipe
        self.blocks: list[Block] = [block for parts in (*documents, *unseen) for block in parts]
        self.sizes = [len(block) for block in self.blocks]
        starts = list(itertools.accumulate(map(len, documents), initial=0))
        self._documents = [range(*ends) for ends in itertools.pairwise(starts)]
        self.validation = range(starts[-1], len(self.blocks))
        self.there = sum(self.sizes[: starts[-1]])
        if not self.there:
            raise RecordsError("no document has two tokens; bring longer records")
        if validation and not self.validation:
            raise RecordsError(
                "no document that is kept back to choose by has two tokens; bring longer records, "
                "or keep none back"
            )

    @property
    def documents(self) -> list[int]:
        """How many blocks each document to learn from has."""
        return list(map(len, self._documents))

    def tokens(self, pack: Sequence[int]) -> int:
        """Tokens of the blocks of a pack."""
        return sum(self.sizes[number] for number in pack)

    def sections(self, budget: "Budget") -> Iterator[list[list[int]]]:
        """Packs to learn in order, in sections, as many as a budget has room for."""
        section: list[list[int]] = []
        given = last = 0
        for pack in self._packs():
            if not section:
                before, room = given, budget.room(given, last)
            section.append(pack)
            given += self.tokens(pack)
            last = given - before
            if last >= room or given >= budget.tokens:
                yield section
                section = []
            if given >= budget.tokens:
                return

    def _packs(self) -> Iterator[list[int]]:
        """Packs of one pass over the documents, of the next, and so on without end.

        First blocks of all documents, then second, ...: many documents a little teach more than
        few documents whole.
        """
        from not_core.learning.packing import pack

        rng = random.Random(self._recipe.seed)  # noqa: S311 - an order, not a secret
        documents = list(self._documents)
        while True:
            rng.shuffle(documents)
            deepest = max(map(len, documents))
            order = [
                parts[depth]
                for depth in range(deepest)
                for parts in documents
                if depth < len(parts)
            ]
            yield from pack(order, self.sizes, self._recipe.step_tokens)


class Budget:
    """What a recipe allows.

    Args:
        recipe: How an organ is trained.
        there: Tokens to learn from, one pass.
        started: When it began, by ``time.monotonic``.

    Attributes:
        tokens: Training tokens; infinite when time is what ends.
    """

    def __init__(self, recipe: Recipe, there: int, started: float) -> None:
        self._limit, self._started = recipe.seconds, started
        self.tokens = math.inf
        if recipe.seconds is None:
            self.tokens = recipe.tokens or (recipe.epochs or 0) * there

    @property
    def seconds(self) -> float:
        """Time taken so far."""
        return time.monotonic() - self._started

    def room(self, given: int, last: int) -> float:
        """Tokens to make ready next, after so many, the ``last`` of them together.

        Of a budget of time, as many as it seems to leave room for, so that it does not end with
        much that was made ready in vain.
        """
        if self._limit is None:
            return SECTION_TOKENS
        left = given * (self._limit / max(self.seconds, 1e-9) - 1)
        return min(SECTION_TOKENS, max(FIRST_TOKENS, min(2 * last, left)))

    def used(self, tokens: int) -> float:
        """The part of it that is used up after so many tokens; 1 or more at its end."""
        return tokens / self.tokens if self._limit is None else self.seconds / self._limit
