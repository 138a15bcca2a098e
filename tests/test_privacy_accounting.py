"""Epsilons against accountants and a theorem that are not ours."""

import math
import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from not_core.errors import PrivacyError
from not_core.privacy import accounting
from not_core.privacy.accounting import Mechanism, epsilon, noise_multiplier

DELTA = 1e-6
GRID = [
    (q, sigma, steps)
    for q in (0.004, 0.01, 0.05, 0.2, 1.0)
    for sigma in (0.7, 1.0, 2.0, 6.0)
    for steps in (1, 30, 600)
]
"""60 runs, from nearly no epsilon to more than is stated."""


@cache
def ours(q: float, sigma: float, steps: int) -> float:
    return epsilon([Mechanism(q, sigma, steps)], DELTA)


@pytest.mark.parametrize(("q", "sigma", "steps"), GRID)
def test_epsilon_is_within_a_hundredth_of_a_finer_one(q: float, sigma: float, steps: int) -> None:
    found = ours(q, sigma, steps)
    rough = found if math.isfinite(found) else 500
    book = PLDAccountant(value_discretization_interval=max(2e-5, min(4e-4, rough / 4000)))
    book.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)
    finer = book.get_epsilon(DELTA)
    if finer > 500:
        assert found == math.inf
    else:
        assert found == pytest.approx(finer, rel=0.01, abs=1e-4)
        assert found >= finer * (1 - 1e-3)


@pytest.mark.parametrize(("q", "sigma", "steps"), GRID[::2])
def test_other_accountants_are_never_below(q: float, sigma: float, steps: int) -> None:
    found = ours(q, sigma, steps)
    rdp, prv = (epsilon([Mechanism(q, sigma, steps)], DELTA, how) for how in ("rdp", "prv"))  # type: ignore[arg-type]
    assert rdp >= found * (1 - 1e-3)
    assert prv >= found * (1 - 1e-3)
    assert prv <= found * 1.01 + 0.005


def gaussian_delta(sigma: float, eps: float) -> float:
    """Balle and Wang (2018), theorem 8, at sensitivity 1."""

    def cdf(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    half = 1 / (2 * sigma)
    return cdf(half - eps * sigma) - math.exp(eps) * cdf(-half - eps * sigma)


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (5.0, 40), (30.0, 7), (0.5, 3)])
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_without_sampling_it_is_the_gaussian_mechanisms(
    sigma: float, steps: int, delta: float
) -> None:
    found = epsilon([Mechanism(1.0, sigma, steps)], delta)
    whole = sigma / math.sqrt(steps)
    assert gaussian_delta(whole, found * 1.0001) <= delta  # never understated
    assert gaussian_delta(whole, found * 0.99) > delta  # nor by more than a hundredth overstated


def test_steps_of_one_mechanism_are_merged_and_others_composed() -> None:
    one, other = Mechanism(0.01, 1.0, 300), Mechanism(0.05, 2.0, 100)
    assert epsilon([one, one], DELTA) == ours(0.01, 1.0, 600)
    both = epsilon([one, other], DELTA)
    assert both == epsilon([other, one], DELTA)
    alone = [epsilon([each], DELTA) for each in (one, other)]
    assert max(alone) < both < sum(alone)  # not a maximum, and better than the sum
    assert both <= epsilon([one, other], DELTA, "rdp")
    assert epsilon([one, other], DELTA, "prv") == pytest.approx(both, rel=0.01)


def test_no_mechanism_costs_nothing() -> None:
    assert epsilon([], DELTA) == 0


@pytest.mark.parametrize(
    ("mechanism", "delta"),
    [
        (Mechanism(0.5, 0.001, 10), DELTA),
        (Mechanism(1.0, 0.05, 1000), DELTA),
        (Mechanism(1e-9, 1e-300, 1), DELTA),
        (Mechanism(0.1, 1.0, 10), 1e-15),
    ],
)
@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_what_cannot_be_bounded_is_infinite(
    mechanism: Mechanism, delta: float, accountant: Any
) -> None:
    assert epsilon([mechanism], delta, accountant) == math.inf


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("at", range(3))
def test_numbers_that_make_no_mechanism_are_refused(wrong: float, at: int) -> None:
    good: list[Any] = [0.1, 1.0, 10]
    with pytest.raises(PrivacyError):
        Mechanism(*good[:at], wrong, *good[at + 1 :])


@pytest.mark.parametrize("delta", [math.nan, 0.0, 1.0, -1e-6, math.inf])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([Mechanism(0.1, 1.0, 10)], delta)
    with pytest.raises(PrivacyError, match="delta"):
        noise_multiplier(1.0, delta, 0.1, 10)


def test_half_a_step_and_too_high_a_probability_are_refused() -> None:
    with pytest.raises(PrivacyError, match="whole number"):
        Mechanism(0.1, 1.0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="at most 1"):
        Mechanism(1.01, 1.0, 1)


@pytest.mark.parametrize(
    ("target", "q", "steps"), [(8.0, 0.02, 300), (1.0, 0.01, 100), (0.2, 1.0, 5)]
)
def test_the_noise_that_is_found_is_enough_and_a_little_less_is_not(
    target: float, q: float, steps: int
) -> None:
    noise = noise_multiplier(target, DELTA, q, steps)
    assert noise == float(f"{noise:.3g}")
    assert ours(q, noise, steps) <= target < ours(q, noise * 0.989, steps)


def test_an_epsilon_out_of_reach_is_an_error() -> None:
    with pytest.raises(PrivacyError, match="take fewer steps"):
        noise_multiplier(1e-9, 1e-12, 1.0, 10_000)
    for wrong in (math.nan, 0.0, math.inf):
        with pytest.raises(PrivacyError, match="epsilon"):
            noise_multiplier(wrong, DELTA, 0.1, 10)


@settings(max_examples=5, deadline=None)
@given(q=st.floats(0.001, 1), sigma=st.floats(2, 20), steps=st.integers(1, 50))
def test_more_noise_and_fewer_steps_never_cost_more(q: float, sigma: float, steps: int) -> None:
    found = epsilon([Mechanism(q, sigma, steps)], DELTA)
    assert epsilon([Mechanism(q, sigma * 1.1, steps)], DELTA) <= found * 1.005 + 1e-4
    assert epsilon([Mechanism(q, sigma, steps + 5)], DELTA) >= found * 0.995 - 1e-4


def test_the_accountant_is_named_by_library_and_version() -> None:
    assert re.fullmatch(r"dp-accounting \d+\.\d+(\.\d+)?, PLD", accounting.ACCOUNTANT)


def test_accounting_imports_neither_torch_nor_dp_accounting() -> None:
    code = (
        "import sys, not_core.privacy.accounting, not_core.privacy.statement; "
        "sys.exit(bool({'torch', 'dp_accounting', 'opacus', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
