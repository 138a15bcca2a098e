"""A search for what must not be found: records' sentences and organ bytes outside their site.

A search that finds nothing proves nothing unless it finds what is there: the same search runs over
the sites' own folders, where it must find everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

WINDOW = 64
"""Bytes in a row of a tensor that count as a leak."""

# Any window of 64 bytes holds one whole block of 32 that begins at a multiple of 32.
BLOCK = WINDOW // 2
ENOUGH = 1000
PIECE = 1 << 22
MASK = np.uint64((1 << 26) - 1)
DULL = 8
"""A block with fewer different bytes, such as zeros, says nothing about a tensor."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found in one set of files.

    Attributes:
        files: Files searched.
        bytes: Bytes searched.
        sentences: Marked sentences that stand in at least one file.
        organ_blocks: Places at which 32 bytes of a tensor stand, of which any 64 hold some; in a
            file with many, counting stops at ``ENOUGH``.
    """

    files: int
    bytes: int
    sentences: int
    organ_blocks: int


class Needles:
    """What is searched for: marked sentences, and blocks of organs' tensors.

    Args:
        sentences: As they stand in records.
        organs: ``organ.safetensors`` files.
    """

    def __init__(self, sentences: Sequence[str], organs: Sequence[Path]) -> None:
        self.sentences = [sentence.encode() for sentence in sentences]
        self.blocks = _blocks(organs)
        first = np.frombuffer(b"".join(block[:8] for block in self.blocks), dtype="<u8")
        self.words = np.unique(first)
        # A coarse table first: it dismisses most of a file's words without a search.
        self.coarse = np.zeros(MASK + 1, dtype=bool)
        self.coarse[self.words & MASK] = True


def search(places: Iterable[Path], needles: Needles) -> Found:
    """Search files for sentences and for tensor bytes.

    Args:
        places: Files and folders; folders are searched through.
        needles: What for.
    """
    said: set[int] = set()
    files = total = hits = 0
    for path in _files(places):
        data = path.read_bytes()
        files += 1
        total += len(data)
        said |= {
            i for i, needle in enumerate(needles.sentences) if i not in said and needle in data
        }
        hits += _hits(data, needles)
    return Found(files, total, len(said), hits)


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield place
        else:
            yield from sorted(path for path in place.rglob("*") if path.is_file())


def _blocks(organs: Sequence[Path]) -> set[bytes]:
    """Every block of 32 tensor bytes at a multiple of 32 that is not dull."""
    found: set[bytes] = set()
    for path in organs:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                data = file.get_tensor(name).tobytes()
                found |= {data[i : i + BLOCK] for i in range(0, len(data) - BLOCK + 1, BLOCK)}
    return {block for block in found if len(set(block)) >= DULL}


def _hits(data: bytes, needles: Needles) -> int:
    """Places in ``data`` at which a block stands: by its first 8 bytes, then by all of it."""
    count = 0
    for first in range(0, len(data) if len(needles.words) else 0, PIECE):
        piece = data[first : first + PIECE + BLOCK]
        for shift in range(min(8, max(0, len(piece) - 7))):
            there = np.frombuffer(piece, dtype="<u8", count=(len(piece) - shift) // 8, offset=shift)
            maybe = np.flatnonzero(needles.coarse[there & MASK])
            at = np.searchsorted(needles.words, there[maybe]) % len(needles.words)
            for index in maybe[needles.words[at] == there[maybe]]:
                start = shift + 8 * int(index)
                count += piece[start : start + BLOCK] in needles.blocks
                if count >= ENOUGH:
                    return count
    return count
