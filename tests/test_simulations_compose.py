"""The experiment on compositions, on a small model: what is kept is kept under what decides it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model, sentences

from not_core.learning.evaluation import DocumentLoss, Reading
from simulations.experiments import compose, compose_results
from simulations.experiments.compose import COMPOSITIONS, HIGH, experiment
from simulations.material import domains


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("compose") / "m", "llama", HIGH.stop, width=16))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    def records(seed: int, *topic: int) -> list[domains.Record]:
        made = sentences(12, seed, (topic[0], topic[1]))
        return [domains.Record(id=str(i), text=text, group=str(i)) for i, text in enumerate(made)]

    monkeypatch.setattr(domains, "abstracts", lambda say: records(1, 0, 25))
    monkeypatch.setattr(domains, "cases", lambda say: records(2, 25, 40))
    monkeypatch.setattr(domains, "general", lambda say: records(3, 0, 40))
    monkeypatch.setattr(compose, "HELD_OUT", 4)
    monkeypatch.setattr(compose, "GENERAL", 4)
    monkeypatch.setattr(compose, "THREADS", 1)  # of so small a model, two wait for each other


def run(model: str, out: Path, tokens: int = 64) -> tuple[list[dict[str, Any]], list[str]]:
    said: list[str] = []
    rows = experiment(model, out, tokens, 1, said.append)
    return rows, said


def test_every_composition_is_measured_once(model: str, tmp_path: Path) -> None:
    rows, said = run(model, tmp_path)
    assert [row["composition"] for row in rows] == [one.name for one in COMPOSITIONS]
    assert json.loads((tmp_path / "compose.json").read_bytes()) == rows
    assert [line for line in said if "training" in line] == [
        "seed 0: training medicine at 10:13",
        "seed 0: training law at 10:13",
        "seed 0: training medicine-wide at 3:23",
        "seed 0: training law-wide at 3:23",
        "seed 0: training law-high at 20:23",
    ]
    assert [line for line in said if "measuring" in line] == [
        f"measuring {one.name}" for one in COMPOSITIONS
    ]
    host = rows[0]
    assert {host[f"{name} change"] for name in ("medicine", "law", "general")} == {
        "+0.0% [+0.0%, +0.0%]"
    }
    assert len({(row["medicine"], row["law"], row["general"]) for row in rows}) > 5
    page = (tmp_path / "compose.md").read_text()
    for row in rows:
        line = next(one for one in page.splitlines() if one.startswith(f"| {row['composition']} |"))
        assert f"| {row['law']:.2f} |" in line
    kept = {text: f"{text} gain kept" for text in compose_results.DOMAINS}
    judged = [
        row
        for row in rows
        if row["composition"].startswith("both") and any(key in row for key in kept.values())
    ]
    assert judged, "no organ learned anything"
    for row in judged:
        least = min(row[key] for key in kept.values() if key in row)
        word = "as" if least >= compose_results.AIM else "less than"
        assert f"- {row['composition']}: {least:.0%} at least, {word} aimed at" in page
        for key in (key for key in kept.values() if key in row):
            low, high = row[f"{key}, documents"]
            assert low <= row[key] <= high
    assert page.count(" aimed at") == len(judged)
    shown = compose_results.brief(rows)
    assert [line["composition"] for line in shown] == [one.name for one in COMPOSITIONS]
    for line, row in zip(shown, rows, strict=True):
        assert all((line[key] != "") is (key in row) for key in kept.values())
    alone = {row["composition"] for row in rows if any(key in row for key in kept.values())}
    assert alone - {row["composition"] for row in judged} <= {
        *(name for names in compose.ALONE.values() for name in names.values())
    }
    # A second call does nothing again, and says the same.
    assert run(model, tmp_path) == (rows, [])


def test_what_another_run_left_is_not_passed_off(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "COMPOSITIONS", (*COMPOSITIONS[:2], *COMPOSITIONS[5:6]))
    _, said = run(model, tmp_path)
    more, again = run(model, tmp_path, tokens=1024)  # more than one step
    # All but the host's own readings, which training does not touch.
    assert [line for line in said if line not in again] == ["measuring host"]
    assert more == run(model, tmp_path / "fresh", tokens=1024)[0]
    other = str(make_model(tmp_path / "other", "llama", HIGH.stop, width=16, seed=1))
    assert run(other, tmp_path)[1] == said


def test_a_part_of_a_gain_is_sure_only_where_documents_agree() -> None:
    def reading(*nats: float) -> Reading:
        return Reading(tuple(DocumentLoss(one, 10) for one in nats))

    host, alone = reading(*[30.0] * 8), reading(*[20.0] * 8)
    assert compose.gain_kept(host, alone, reading(*[22.0] * 8), 0) == (0.8, (0.8, 0.8))
    assert compose.gain_kept(host, host, alone, 0) is None, "there is nothing to keep"
    found = compose.gain_kept(host, alone, reading(*[30.0, 14.0] * 4), 0)
    assert found
    part, (low, high) = found
    assert part == 0.8
    assert low < 0.5
    assert high > 1.1
