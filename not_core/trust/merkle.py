"""Merkle trees as RFC 9162 has them: proofs that a log holds a leaf, and that it only ever grew.

A tree is asked for by the hashes of ranges of its leaves, ``start`` up to, not including, ``stop``,
counted from 0; who keeps them, and how, is the log's business. Source: RFC 9162, section 2.1.
"""

import hashlib
from collections.abc import Callable, Sequence

EMPTY = hashlib.sha256().digest()
"""Root of a tree without leaves."""

Subtree = Callable[[int, int], bytes]
"""The hash of a range of leaves that a tree of RFC 9162 has as a node."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node over two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def middle(start: int, stop: int) -> int:
    """Where a range of two leaves or more is split: after the largest power of two below it."""
    return start + (1 << (stop - start - 1).bit_length() - 1)


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Prove that a leaf is in the tree of the first ``size`` leaves.

    Raises:
        ValueError: It is not.
    """
    if not 0 <= index < size:
        raise ValueError(f"expected 0 <= index < size, got {index} and {size}")
    start, stop, path = 0, size, []
    while stop - start > 1:
        split = middle(start, stop)
        if index < split:
            path.append(subtree(split, stop))
            stop = split
        else:
            path.append(subtree(start, split))
            start = split
    return path[::-1]


def consistency_path(first: int, second: int, subtree: Subtree) -> list[bytes]:
    """Prove that the tree of ``second`` leaves begins with the ``first`` ones.

    Raises:
        ValueError: It has fewer.
    """
    if not 0 <= first <= second:
        raise ValueError(f"expected 0 <= first <= second, got {first} and {second}")
    if first in (0, second):
        return []
    start, stop, path = 0, second, []
    while stop != first:
        split = middle(start, stop)
        if first <= split:
            path.append(subtree(split, stop))
            stop = split
        else:
            path.append(subtree(start, split))
            start = split
    if start:
        path.append(subtree(start, stop))
    return path[::-1]


def includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path proves that the tree of this root has a leaf.

    Args:
        leaf: The leaf's bytes.
        index: Its place.
        size: Leaves of the tree.
        path: As ``inclusion_path``; a stranger's.
        root: The tree's.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf_hash(leaf)
    for other in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(other, found)
            while not node & 1:  # not endless: it is the last, and that is not 0
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, other)
        node, last = node >> 1, last >> 1
    return last == 0 and found == root


def continues(
    first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether a path proves that a tree begins with all that an earlier one held.

    Args:
        first: Leaves of the earlier tree.
        first_root: Its root.
        second: Leaves of the later tree.
        second_root: Its root.
        path: As ``consistency_path``; a stranger's.

    Source: RFC 9162, section 2.1.4.2.
    """
    if first == second:
        return first_root == second_root and not path
    if first == 0:
        return first_root == EMPTY and not path
    if first > second or not path:
        return False
    whole = first & (first - 1) == 0  # then the earlier root itself is the first node
    nodes = [first_root, *path] if whole else list(path)
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    early = late = nodes[0]
    for other in nodes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            early, late = node_hash(other, early), node_hash(other, late)
            while not node & 1:  # not endless: it is the last, and that is not 0
                node, last = node >> 1, last >> 1
        else:
            late = node_hash(late, other)
        node, last = node >> 1, last >> 1
    return last == 0 and (early, late) == (first_root, second_root)
