"""A search for what must not be found: records' sentences and organ bytes outside their site.

A search that finds nothing proves nothing unless it finds what is there: the same search runs over
the sites' own folders, where it must find everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

WINDOW = 64
"""Bytes in a row of a tensor that count as a leak."""

# Any window of 64 bytes holds one whole block of 32 that begins at a multiple of 32.
BLOCK = WINDOW // 2
DULL = 8
"""A block with fewer different bytes, such as zeros, says nothing about a tensor."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found in one set of files.

    Attributes:
        files: Files searched.
        bytes: Bytes searched.
        sentences: Marked sentences that stand in at least one file.
        organ_blocks: Places at which 32 bytes of a tensor stand, of which any 64 hold some.
    """

    files: int
    bytes: int
    sentences: int
    organ_blocks: int


def search(places: Iterable[Path], sentences: Sequence[str], organs: Sequence[Path]) -> Found:
    """Search files for sentences and for tensor bytes.

    Args:
        places: Files and folders; folders are searched through.
        sentences: Marked sentences, as they stand in records.
        organs: ``organ.safetensors`` files.
    """
    needles = [sentence.encode() for sentence in sentences]
    blocks = _blocks(organs)
    words = np.sort(np.unique(np.frombuffer(b"".join(b[:8] for b in blocks), dtype="<u8")))
    said: set[int] = set()
    files = total = hits = 0
    for path in _files(places):
        data = path.read_bytes()
        files += 1
        total += len(data)
        said |= {i for i, needle in enumerate(needles) if i not in said and needle in data}
        hits += _hits(data, words, blocks)
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


def _hits(data: bytes, words: NDArray[np.uint64], blocks: set[bytes]) -> int:
    """Places in ``data`` at which a block stands: by its first 8 bytes, then by all of it."""
    count = 0
    if not len(words):
        return 0
    for shift in range(8):
        length = (len(data) - shift) // 8
        if length <= 0:
            break
        there = np.frombuffer(data, dtype="<u8", count=length, offset=shift)
        at = np.searchsorted(words, there)
        at[at == len(words)] = 0
        for index in np.flatnonzero(words[at] == there):
            start = shift + 8 * int(index)
            count += data[start : start + BLOCK] in blocks
    return count
