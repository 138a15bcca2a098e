"""The randomness of private training: from the system's entropy, unknown to anybody.

A public seed would make noise and sampling repeatable, and what can be repeated can be taken away.
"""

import secrets
from typing import TYPE_CHECKING

import numpy as np
from randomgen import ChaCha

if TYPE_CHECKING:
    import torch

GRID = 2.0**-20
"""Spacing of noisy sums, in standard deviations of the noise."""


def fresh() -> np.random.Generator:
    """A generator with a new secret key.

    Source: ChaCha20, Bernstein (2008); a test compares its stream with that of ``cryptography``.
    """
    return np.random.Generator(ChaCha(key=secrets.randbits(256), rounds=20))


def poisson_sample(units: int, probability: float, generator: np.random.Generator) -> list[int]:
    """Indices of units that are drawn, each by its own with the same probability; perhaps none."""
    return [int(one) for one in np.flatnonzero(generator.random(units) < probability)]


def add_noise(total: "torch.Tensor", deviation: float, generator: np.random.Generator) -> None:
    """Add Gaussian noise to a sum, in place.

    It is added in float64 and rounded to a grid that is far coarser than float64 and far finer than
    the noise: the low bits of a sum of floats tell of what was added.

    Args:
        total: Float32, on any device.
        deviation: Standard deviation of the noise.
        generator: As ``fresh`` makes one.

    Source: Mironov (2012), On Significance of the Least Significant Bits for Differential Privacy.
    """
    import torch

    noise = torch.from_numpy(generator.standard_normal(total.numel())).view(total.shape)
    spacing = deviation * GRID
    exact = (total.detach().to("cpu", torch.float64) + noise * deviation) / spacing
    total.copy_(exact.round_() * spacing)
