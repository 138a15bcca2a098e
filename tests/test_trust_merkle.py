"""Merkle trees against Certificate Transparency's values, and every proof of small trees."""

import pytest

from not_core.trust import merkle

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of the first 0 to 8 leaves, as Certificate Transparency's own implementations test them."""

MANY = [bytes([number]) * 3 for number in range(35)]


def subtree(start: int, stop: int, leaves: list[bytes] = MANY) -> bytes:
    """A node by the recursion that RFC 9162 defines it by."""
    if stop - start == 1:
        return merkle.leaf_hash(leaves[start])
    split = merkle.middle(start, stop)
    return merkle.node_hash(subtree(start, split, leaves), subtree(split, stop, leaves))


def root(size: int) -> bytes:
    return subtree(0, size) if size else merkle.EMPTY


def test_roots_are_those_of_certificate_transparency() -> None:
    found = [subtree(0, size, LEAVES).hex() for size in range(1, 9)]
    assert [merkle.EMPTY.hex(), *found] == ROOTS


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 21, 32, 35])
def test_a_path_proves_its_leaf_at_its_place_and_nothing_else(size: int) -> None:
    for index in range(size):
        path = merkle.inclusion_path(index, size, subtree)
        assert merkle.includes(MANY[index], index, size, path, root(size))
        for other in {0, index - 1, index + 1, size - 1, size} - {index}:
            assert not merkle.includes(MANY[index], other, size, path, root(size))
        assert not merkle.includes(b"another", index, size, path, root(size))
        assert not merkle.includes(MANY[index], index, size, path, root(size - 1))
        assert not merkle.includes(MANY[index], index, size, [*path, b""], root(size))
        for dropped in range(len(path)):
            shorter = path[:dropped] + path[dropped + 1 :]
            assert not merkle.includes(MANY[index], index, size, shorter, root(size))


@pytest.mark.parametrize("second", [0, 1, 2, 3, 4, 7, 8, 9, 10, 14, 21, 32, 35])
def test_a_path_proves_that_a_tree_begins_with_an_earlier_one(second: int) -> None:
    for first in range(second + 1):
        path = merkle.consistency_path(first, second, subtree)
        assert merkle.continues(first, root(first), second, root(second), path)
        assert not merkle.continues(first, b"\x00" * 32, second, root(second), path)
        assert not merkle.continues(first, root(first), second, root(second), [*path, b""])
        if first:
            assert not merkle.continues(first, root(first), second, b"\x00" * 32, path)
        for dropped in range(len(path)):
            shorter = path[:dropped] + path[dropped + 1 :]
            assert not merkle.continues(first, root(first), second, root(second), shorter)
        for other in set(range(second + 2)) - {first}:
            assert not merkle.continues(other, root(first), second, root(second), path)


def test_a_later_tree_does_not_prove_an_earlier_one() -> None:
    path = merkle.consistency_path(5, 9, subtree)
    assert not merkle.continues(9, root(9), 5, root(5), path)
    forged = merkle.node_hash(root(3), b"x" * 32)  # any tree of two begins so with one of three
    assert not merkle.continues(3, root(3), 2, forged, [root(3), b"x" * 32])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_path_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="index"):
        merkle.inclusion_path(index, size, subtree)


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3)])
def test_no_path_to_a_tree_that_is_smaller(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="first"):
        merkle.consistency_path(first, second, subtree)
