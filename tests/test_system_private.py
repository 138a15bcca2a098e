"""Private training as an operator sees it, and what is left of a process that dies."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, write_jsonl

from not_core.privacy.ledger import standalone

Call = Callable[..., tuple[int, str, str]]
DP = ("--dp-epsilon", 8, "--dp-delta", 1e-3, "--dp-units-per-step", 4, "--tokens", 4096)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "records.jsonl", sentences(40, seed=1))


@pytest.mark.parametrize("trials", [5, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_kill_at_any_moment_loses_no_charge_and_no_organ(
    trials: int, models: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        [
            *(sys.executable, Path(__file__).with_name("killed_training.py")),
            *(models["llama"], records, tmp_path, "7", str(trials)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == trials
    stages = set()
    for trial in found:
        killed, ended = trial["killed"], trial["ended"]
        charged = {one["run"] for one in killed["charges"]}
        for state in killed["states"]:
            assert state["steps"] == 0 or state["run"] in charged, (
                "it learned before it was charged"
            )
        assert not killed["organ"] or [one["result"] for one in killed["charges"]] != [""]
        assert not killed["organ"] or len(killed["partial"]) == 3, "a part of an organ was left"
        stages.add(
            "organ" if killed["organ"] else "steps" if any(one["steps"] for one in killed["states"])
            else "charged" if charged else "nothing"
        )  # fmt: skip
        assert trial["again"] == (1 if killed["organ"] else 0), trial["errors"]
        assert ended["organ"]
        (charge,) = ended["charges"]
        assert charge["result"]
        assert charged <= {charge["run"]}, "a charge was lost"
        if killed["organ"] and killed["states"]:
            assert trial["more"] == 0, "what was paid for comes out again, and is not charged again"
            assert trial["after"]["charges"] == ended["charges"]
        else:
            assert trial["more"] == 1, "a second organ would pass the bound"
            assert "bound" in trial["errors"]
            assert trial["after"]["charges"] == ended["charges"]
    assert {"nothing", "steps"} <= stages, f"killed at {stages} only"


def test_an_organ_is_charged_says_so_and_a_second_is_refused(
    organ: Callable[..., dict[str, Any]],
    call: Call,
    models: dict[str, Path],
    records: Path,
    tmp_path: Path,
) -> None:
    words = ("train", "--model", models["llama"], "--data", records, *DP, "--threads", 1)
    ledger = ("--ledger", tmp_path / "ledger")
    told = organ(*words, *ledger, "--out", tmp_path / "organ")
    assert re.fullmatch(r"epsilon (7\.\d+|8) at delta 0.001 a record", told["privacy"])
    seen = organ("inspect", tmp_path / "organ")
    assert seen["privacy"] == told["privacy"]
    (charge,) = organ("ledger", tmp_path / "ledger")["charges"]
    assert (charge["units"], charge["unit"], charge["state"]) == (40, "record", "settled")
    renamed = records.rename(tmp_path / "renamed.jsonl")
    code, _, err = call(*words[:4], renamed, *words[5:], *ledger, "--out", tmp_path / "second")
    assert code == 1
    assert "bound" in err
    assert not (tmp_path / "second").exists()
    assert len(standalone(tmp_path / "ledger").reservations()) == 1


def test_a_subject_is_a_unit(
    organ: Callable[..., dict[str, Any]], models: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"text": text, "who": n % 20} for n, text in enumerate(sentences(60, seed=1))]
    data = tmp_path / "r.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = organ(
        *("train", "--model", models["gpt2"], "--data", data, *DP, "--unit-field", "who"),
        *("--max-blocks-per-unit", 3, "--dp-clipping", "ghost", "--rank", 0, "--span", "2:4"),
        *("--ledger", tmp_path / "ledger", "--out", tmp_path / "organ", "--threads", 1),
    )
    assert told["privacy"].endswith("a subject")
    (charge,) = organ("ledger", tmp_path / "ledger")["charges"]
    assert (charge["units"], charge["unit"]) == (20, "subject")


def test_a_recovery_is_charged_and_says_so(
    organ: Callable[..., dict[str, Any]], models: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    ledger = ("--ledger", tmp_path / "ledger", "--dp-bound", 100)
    host = models["llama"]
    organ("extract", "--model", host, "--span", "2:4", "--out", tmp_path / "organ")
    organ("transplant", tmp_path / "organ", "--into", host, "--mode", "insert", "--position", 4,
          "--out", tmp_path / "graft")  # fmt: skip
    told = organ(
        *("recover", tmp_path / "graft", "--data", records, *DP, *ledger, "--threads", 1),
        *("--rank", 4, "--out", tmp_path / "recovered"),
    )
    assert "at delta 0.001 a record" in told["privacy"]
    assert (told["records"], told["validation"]) == (45, [])  # 40, rounded as in the manifest
    (one,) = organ("inspect", tmp_path / "recovered")["recoveries"].values()
    assert one["privacy"] == told["privacy"]
    (charge,) = organ("ledger", tmp_path / "ledger")["charges"]
    assert (charge["label"], charge["state"]) == ("recovery", "settled")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--dp-epsilon", "nan"), 1, "epsilon or noise multiplier is nan"),
        (("--dp-epsilon", "inf"), 1, "epsilon or noise multiplier is inf"),
        (("--dp-epsilon", 0), 1, "epsilon or noise multiplier is 0"),
        (("--dp-epsilon", -1), 1, "epsilon or noise multiplier is -1"),
        (("--dp-noise-multiplier", "nan"), 1, "noise multiplier is nan"),
        (("--dp-epsilon", 1, "--dp-noise-multiplier", 1), 1, "one of"),
        (("--dp-epsilon", 1, "--dp-delta", 0.5), 1, "giving away one"),
        (("--dp-epsilon", 1, "--dp-bound", "nan"), 1, "bound"),
        (("--dp-epsilon", 1, "--budget", "5s"), 1, "seconds"),
        (("--dp-epsilon", 1, "--validation", 0.2), 2, "validation"),
        (("--unit-field", "who"), 2, "unit-field"),
    ],
)
def test_what_protects_nobody_is_refused_before_anything_is_charged(
    options: tuple[object, ...],
    code: int,
    words: str,
    call: Call,
    models: dict[str, Path],
    records: Path,
    tmp_path: Path,
) -> None:
    found, _, err = call(
        *("train", "--model", models["llama"], "--data", records, *options),
        *("--ledger", tmp_path / "ledger", "--out", tmp_path / "organ"),
    )
    assert found == code, err
    assert words in " ".join(err.split())
    assert not (tmp_path / "organ").exists()
    assert not standalone(tmp_path / "ledger").reservations()
