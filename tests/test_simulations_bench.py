"""The bench's contestants do the same work, and its ratios are of what was measured."""

from pathlib import Path

import pytest
from conftest import sentences

from simulations import arithmetic, bench
from simulations.bench import CONTESTS, Run


@pytest.mark.parametrize("title", list(CONTESTS))
def test_contestants_go_through_the_same_tokens(
    title: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_texts", lambda: sentences(60, seed=1))
    ours, other = CONTESTS[title]
    model = str(models["llama"])
    assert ours(model, 512)() == other(model, 512)() > 0


def test_ratios_are_of_pairs_of_runs() -> None:
    found = {
        one.__name__: [
            Run(seconds=seconds * factor, tokens=100, peak_mb=10 * factor) for seconds in (1, 2, 4)
        ]
        for pair in CONTESTS.values()
        for one, factor in zip(pair, (1, 2), strict=True)
    }
    seen = {"flops_a_token": 1e8, "shares": {"all else": "100%"}}
    table = bench._summary(found, [50.0, 50.0, 50.0], seen)
    for title in CONTESTS:
        row = table[f"{title}, ratio of ours to the other"]
        assert row == {"tokens_a_second": "2.00 (2.00 to 2.00)", "peak_mb": "0.50 (0.50 to 0.50)"}
    # 100 tokens of 1e8 operations in 1, 2 and 4 seconds, of 50e9 a second
    assert table["train_organ.arithmetic"]["part_of_the_machines_rate"] == "0.10 (0.05 to 0.20)"


def test_the_machine_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "SHAPES", ((64, 64, 64),))
    assert arithmetic.machine()["gigaflops"] > 0


def test_arithmetic_is_counted_and_time_is_shared_out() -> None:
    import torch

    a, b = torch.randn(64, 128), torch.randn(128, 32)

    def work() -> int:
        a @ b
        return 64

    found = arithmetic.profile(work)
    assert found["flops_a_token"] == 2 * 128 * 32
    assert "matrix products" in found["shares"]
