from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from randomgen import ChaCha
from scipy import stats

from not_core.privacy.randomness import GRID, add_noise, fresh, poisson_sample

UNITS, PROBABILITY, DRAWS = 20, 0.2, 4000


def test_the_stream_is_that_of_chacha20() -> None:
    key = bytes(range(32))
    raw = ChaCha(key=int.from_bytes(key, "little"), rounds=20).random_raw(64)
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(512))
    assert raw.astype("<u8").tobytes() == stream


def test_two_generators_share_nothing() -> None:
    assert not np.intersect1d(
        fresh().integers(2**63, size=1000), fresh().integers(2**63, size=1000)
    ).size


def p_values(draw: Callable[[], list[int]]) -> tuple[float, float]:
    """How well draws agree with independent ones: by their sizes, and by pairs in them."""
    drawn = [draw() for _ in range(DRAWS)]
    sizes = Counter(map(len, drawn))
    edges = [*range(1, 8)]
    seen = [sum(n for size, n in sizes.items() if size <= 1)]
    seen += [sizes[size] for size in edges[1:]] + [
        sum(n for s, n in sizes.items() if s > edges[-1])
    ]
    law = stats.binom(UNITS, PROBABILITY)
    expected = [law.cdf(1), *(law.pmf(size) for size in edges[1:]), law.sf(edges[-1])]
    pairs = Counter(
        (one in found) + (one + 1 in found) for found in drawn for one in range(0, UNITS, 2)
    )
    two = stats.binom(2, PROBABILITY)
    together = DRAWS * UNITS // 2
    return (
        stats.chisquare(seen, np.multiply(expected, DRAWS)).pvalue,
        stats.chisquare(
            [pairs[n] for n in range(3)], [two.pmf(n) * together for n in range(3)]
        ).pvalue,
    )


def test_draws_are_poisson_and_a_shuffle_is_not() -> None:
    generator = np.random.Generator(ChaCha(key=7, rounds=20))
    assert min(p_values(lambda: poisson_sample(UNITS, PROBABILITY, generator))) > 0.001
    rng = np.random.default_rng(7)
    order: list[int] = []

    def shuffled() -> list[int]:
        if not order:
            order.extend(int(one) for one in rng.permutation(UNITS))
        return [order.pop() for _ in range(int(UNITS * PROBABILITY))]

    assert max(p_values(shuffled)) < 1e-12


@pytest.mark.parametrize("deviation", [1e-3, 0.7, 300.0])
def test_noise_is_gaussian_new_each_time_and_on_a_grid(deviation: float) -> None:
    total = torch.full((50_000,), 0.3)
    once, again = total.clone(), total.clone()
    generator = fresh()
    add_noise(once, deviation, generator)
    add_noise(again, deviation, generator)
    assert not torch.equal(once, again)
    noise = (once.double() - 0.3) / deviation
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4
    between = (once - again).double() / deviation / 2**0.5
    assert stats.kstest(between.numpy(), "norm").pvalue > 1e-4
    around_zero = torch.zeros(50_000)
    add_noise(around_zero, deviation, generator)
    near = around_zero[around_zero.abs() < deviation / 8].double() / (deviation * GRID)
    assert len(near) > 1000
    assert float((near - near.round()).abs().max()) < 0.02, "off the grid by more than float32"


def test_nothing_is_drawn_at_times_and_all_with_probability_one() -> None:
    generator = fresh()
    assert poisson_sample(5, 1.0, generator) == [0, 1, 2, 3, 4]
    assert [] in [poisson_sample(3, 0.1, generator) for _ in range(100)]
