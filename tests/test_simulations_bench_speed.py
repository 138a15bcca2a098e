"""The bench's contestants do the same work, and its ratios are of what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences

from simulations.benches import arithmetic, bench_speed
from simulations.benches.bench_speed import CONTESTS


@pytest.mark.parametrize("title", list(CONTESTS))
def test_contestants_go_through_the_same_tokens(
    title: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_speed, "_texts", lambda: sentences(60, seed=1))
    ours, other = CONTESTS[title]
    model = str(models["llama"])
    assert ours(model, 512)() == other(model, 512)() > 0


def test_all_is_measured_in_turns_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def child(name: str, model: str, tokens: int) -> dict[str, Any]:
        asked.append(name)
        if name == "rate":
            return {"gigaflops": 50.0}
        if name == "profile":
            return {"flops_a_token": 1e8, "shares": {"all else": "100%"}}
        number, factor = asked.count(name) - 1, 2 if name.endswith(("_by_trainer", "_apart")) else 1
        return {"seconds": (1, 2, 4)[number] * factor, "tokens": tokens, "peak_mb": 10.0 * factor}

    monkeypatch.setattr(bench_speed, "_child", child)
    found = bench_speed.measure("model", tmp_path, 100, 3, lambda line: None)
    assert len(set(asked[:9])) == 9, "contestants take turns"
    assert [row["work"] for row in found["work"]] == list(bench_speed.contests())
    for row in found["work"]:
        assert row["ours, tokens a second"] == "50 (25 to 100)"
        assert row["ratio of tokens a second"] == "2.00 (2.00 to 2.00)"
        assert row["ratio of peak MB"] == "0.50 (0.50 to 0.50)"
    # 100 tokens of 1e8 operations in 1, 2 and 4 seconds, of 50e9 a second
    assert found["arithmetic"][bench_speed.PART] == "0.10 (0.05 to 0.20)"
    assert json.loads((tmp_path / "bench-speed.json").read_bytes()) == found
    page = (tmp_path / "bench-speed.md").read_text()
    assert page == bench_speed.markdown(found)
    assert f"in float32 that is {found['arithmetic'][bench_speed.PART]} of what" in page


def test_what_was_measured_whole_stays_until_all_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(name: str, model: str, tokens: int) -> dict[str, Any]:
        if name == "profile":
            raise KeyboardInterrupt
        return (
            {"seconds": 1, "tokens": tokens, "peak_mb": 1} if name != "rate" else {"gigaflops": 1}
        )

    monkeypatch.setattr(bench_speed, "_child", child)
    (tmp_path / "bench-speed.json").write_text("whole")
    with pytest.raises(KeyboardInterrupt):
        bench_speed.measure("model", tmp_path, 100, 2, lambda line: None)
    assert (tmp_path / "bench-speed.json").read_text() == "whole"
    kept = json.loads((tmp_path / "bench-speed-so-far.json").read_bytes())
    assert {len(runs) for runs in kept["runs"].values()} == {2}


def test_the_machine_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "SHAPES", ((64, 64, 64),))
    assert arithmetic.best_rate()["gigaflops"] > 0


def test_arithmetic_is_counted_and_time_is_shared_out() -> None:
    import torch

    a, b = torch.randn(64, 128), torch.randn(128, 32)

    def work() -> int:
        a @ b
        return 64

    found = arithmetic.profile(work)
    assert found["flops_a_token"] == 2 * 128 * 32
    assert "matrix products" in found["shares"]
