"""Canaries: texts made by chance, about half of them planted among the records to be learned.

Which half is decided by a fair coin for each, from a seed that nobody knows. Each is a unit of its
own, so whoever can tell from an organ which were planted has shown what the organ tells of a unit.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LENGTH = 24
"""Words in a canary: two halves, of which the second is to be recited when the first is given."""
SHORTEST = 3
"""Letters of the shortest word taken; shorter ones join others to tokens too easily."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Texts, and whether each was planted.

    Attributes:
        texts: Never logged, never reported.
        planted: One coin a text.
    """

    texts: tuple[str, ...] = field(repr=False)
    planted: tuple[bool, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.texts or len(self.texts) != len(self.planted):
            raise ValueError("expected one coin a text, and at least one text")

    @property
    def to_plant(self) -> tuple[str, ...]:
        """Those that are to be learned, a unit each."""
        return tuple(text for text, coin in zip(self.texts, self.planted, strict=True) if coin)


def words_of(tokenizer: Any) -> tuple[str, ...]:
    """The whole words among a tokenizer's tokens, in order of the alphabet.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Raises:
        ValueError: It has fewer than two.
    """
    tokens = (tokenizer.decode([number]).strip() for number in range(len(tokenizer)))
    words = {one for one in tokens if one.isascii() and one.isalpha() and len(one) >= SHORTEST}
    if len(words) < 2:
        raise ValueError(f"expected a vocabulary with words, found {len(words)}")
    return tuple(sorted(words))


def make(words: Sequence[str], count: int, seed: bytes, *, length: int = LENGTH) -> Canaries:
    """Canaries of words drawn one by one, each word as likely as any other.

    What a language model learns from one of them is of little use for another.

    Args:
        words: To draw from.
        count: Canaries, planted or not, at least 1.
        seed: Secret, 32 bytes of the system's entropy.
        length: Words in each.

    Returns:
        The same for the same arguments.

    Source: Steinke, Nasr and Jagielski (2023), section 6, arXiv:2305.08846.
    """
    texts, coins = [], []
    for number in range(count):
        drawn = hashlib.shake_256(seed + number.to_bytes(8, "big")).digest(1 + 8 * length)
        coins.append(bool(drawn[0] & 1))
        places = (int.from_bytes(drawn[1 + 8 * i : 9 + 8 * i], "big") for i in range(length))
        texts.append(" ".join(words[place % len(words)] for place in places))
    return Canaries(tuple(texts), tuple(coins))
