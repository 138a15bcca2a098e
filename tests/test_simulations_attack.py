import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences

from simulations import commands
from simulations.experiments import attack


def shuffled(domain: str) -> list[list[str]]:
    return [[text] for text in sentences(60, seed=4)]


@pytest.fixture
def cells(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[attack.Attack], dict[str, Any]]:
    """What a measurement on a tiny model says, in this process."""
    monkeypatch.setattr(attack, "shuffled", shuffled)
    return lambda one: attack.measure(one, str(models["llama"]))


def test_a_measurement_is_plain_json_and_repeats(
    cells: Callable[[attack.Attack], dict[str, Any]],
) -> None:
    small = attack.Attack(canaries=12, records=10, passes=2.0)
    one, again = cells(small), cells(small)
    assert json.loads(json.dumps(one)) == one
    for name in ("organ", "scores", "members", "others", "planted"):
        assert one[name] == again[name]
    assert len(one["scores"]) == 12
    assert len(one["members"]) == len(one["others"]) == 10
    assert one["tokens"] >= 2 * 24 * sum(one["planted"])


def test_an_organ_under_a_guard_claims_what_the_guard_keeps(
    cells: Callable[[attack.Attack], dict[str, Any]],
) -> None:
    found = cells(attack.Attack(epsilon=2.0, canaries=40, records=20, passes=2.0))
    assert 1.9 < found["claim"]["epsilon"] <= 2.0
    assert found["claim"]["delta"] == attack.DELTA
    assert found["steps"] == round(2 / (32 / 45.25))


def cell(leak: float) -> dict[str, Any]:
    rng = random.Random(1)
    planted = [rng.random() < 0.5 for _ in range(400)]
    return {
        "organ": "0" * 64,
        "claim": None,
        "planted": planted,
        "scores": [leak * coin + rng.random() for coin in planted],
        "recited": [coin and leak > 0 for coin in planted],
        "before": [False] * 400,
        "members": [leak + rng.random() for _ in range(50)],
        "others": [rng.random() for _ in range(50)],
        "train_cpu_seconds": 1.0,
        "attack_cpu_seconds": 1.0,
    }


def test_the_control_refutes_what_it_can_test_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    leaking = cell(2.0)

    kept = cell(0.0) | {"claim": {"epsilon": 1.0, "delta": 1e-5}}

    def run(wanted: list[attack.Attack], *words: Any, **named: Any) -> Iterator[dict[str, Any]]:
        assert [one.epsilon for one in wanted] == [None, 1.0, 8.0]
        yield from (leaking, kept, kept | {"claim": {"epsilon": 8.0, "delta": 1e-5}})

    monkeypatch.setattr(attack, "run", run)
    words = ("attack", "--out", tmp_path, "--model", "none", "--claims", "1,8", "--json")
    code, out, err = call(*words, app=commands.app)
    assert code == 0, err
    low, high, guarded, loose = json.loads(out)
    assert guarded["verdict"] == "does not contradict"
    assert loose["verdict"] == "too weak to tell"
    assert low["verdict"] == "contradicts the claim"
    assert high["verdict"] == "too weak to tell"
    assert low["epsilon at least"] > 4
    assert low["recited, planted"].startswith("1.00")
    assert low["canaries, found at 1%"].startswith("1.00")
    assert low["records, found at 1%"] == "cannot tell"
    assert (tmp_path / "attack.png").stat().st_size > 10_000
    assert "| no noise | 1.0 |" in (tmp_path / "attack.md").read_text()
    leaking = cell(0.0)
    code, out, err = call(*words, app=commands.app)
    assert json.loads(out)[0]["verdict"] == "does not contradict"
    code, _, err = call("attack", "--out", tmp_path, "--claims", "one", app=commands.app)
    assert code == 2
    assert "such as 1,8" in err


def test_what_decides_a_measurement_names_it() -> None:
    names = {
        one.file
        for one in (
            attack.Attack(),
            attack.Attack(canaries=8),
            attack.Attack(passes=1.0),
            attack.Attack(records=9),
            attack.Attack(seed=1),
            attack.Attack(epsilon=1.0),
            attack.Attack(epsilon=2.0),
        )
    }
    assert len(names) == 7
