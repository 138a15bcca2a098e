"""A domain's documents, split once for all: the same for everybody who compares on them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from not_core.learning.near_duplicates import held
from simulations.material import domains
from simulations.material.sources import Report, quiet

TEST, VALIDATION = 80, 40
"""Documents to report on and to choose by, of which ``CLOSE`` drops some."""
SPLIT_SEED = 20_261_124
READ_WORDS = 190
"""About as many words as a block of ``BLOCK_TOKENS`` has, which is what is read of a document."""
CLOSE = 0.25
"""A document of which training documents together have a larger part is not read."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A domain's documents."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def shuffled(domain: str, report: Report = quiet) -> list[list[str]]:
    """A domain's documents by groups of near-duplicates, in the same order for everybody.

    Groups of one come first: many near-duplicates are one opinion.
    """
    records = domains.BUILTIN[domain](report)
    groups = sorted({record.group for record in records})
    random.Random(SPLIT_SEED).shuffle(groups)  # noqa: S311 - a split, not a secret
    members: dict[str, list[str]] = {}
    for record in records:
        members.setdefault(record.group, []).append(record.text)
    order = sorted(groups, key=lambda group: len(members[group]) > 1)
    return [members[group] for group in order]


def parts(domain: str, report: Report = quiet) -> Parts:
    """Split a domain's documents, near-duplicates on one side, the same for everybody.

    Nor is any read of which training documents together hold more than ``CLOSE``, as entries of a
    catalogue do of each other and judgments do of their formulas.
    """
    texts = shuffled(domain, report)
    train = tuple(text for one in texts[TEST + VALIDATION :] for text in one)

    def apart(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
        found = [text for one in groups for text in one]
        shared = held(found, train, READ_WORDS)
        return tuple(text for text, part in zip(found, shared, strict=True) if part <= CLOSE)

    return Parts(train, apart(texts[TEST : TEST + VALIDATION]), apart(texts[:TEST]))
