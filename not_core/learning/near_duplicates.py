"""Documents that share much of their wording, grouped so that a split cannot part them."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

SHINGLE = 5
"""Words in a row that make one shingle."""

SIMILAR = 0.5
"""Jaccard similarity of shingle sets from which two documents are near-duplicates."""


def groups(texts: Sequence[str]) -> list[int]:
    """Give each document the smallest index among its near-duplicates and itself.

    Groups are the connected components of "shares at least half of all 5-word shingles". The
    search is exact: of two sets with Jaccard >= t, the rarest ``n - ceil(t n) + 1`` shingles of
    each must meet, so only documents that meet there are compared.

    Source: Chaudhuri et al. (2006), prefix filter; Broder (1997), shingles.
    """
    numbers: dict[str, int] = {}
    sets = [
        frozenset(numbers.setdefault(shingle, len(numbers)) for shingle in _shingles(text))
        for text in texts
    ]
    count = Counter(number for shingles in sets for number in shingles)
    parent = list(range(len(texts)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    holders: dict[int, list[int]] = {}  # shingle -> documents that have it in their prefix
    for here, shingles in enumerate(sets):
        size = len(shingles)
        rarest = sorted(shingles, key=lambda number: (count[number], number))
        prefix = rarest[: size - math.ceil(SIMILAR * size) + 1]
        for there in {there for number in prefix for there in holders.get(number, ())}:
            low, high = sorted((root(here), root(there)))
            if low == high:
                continue
            common = len(shingles & sets[there])
            if common >= SIMILAR * (size + len(sets[there]) - common):
                parent[high] = low
        for number in prefix:
            if count[number] > 1:
                holders.setdefault(number, []).append(here)
    return [root(node) for node in range(len(texts))]


def held(texts: Sequence[str], pool: Sequence[str], words: int) -> list[float]:
    """Which part of the shingles in its first words a pool of documents holds together, by text.

    Documents that share passages need not be near-duplicates: a long one may hold a short one, and
    several may hold a piece each. Formulas that all documents of a kind have count, too.

    Args:
        texts: What is to be read.
        pool: What was learned from.
        words: How many words of a text are read.

    Returns:
        Parts from 0 to 1, in the order of the texts.
    """
    wanted = [{*_shingles(" ".join(_words(text)[:words]))} for text in texts]
    ours = set[str]().union(*wanted)
    there = set[str]().union(*(ours.intersection(_shingles(text)) for text in pool))
    return [len(shingles & there) / len(shingles) for shingles in wanted]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _shingles(text: str) -> Iterator[str]:
    words = _words(text)
    for start in range(max(1, len(words) - SHINGLE + 1)):
        yield " ".join(words[start : start + SHINGLE])
