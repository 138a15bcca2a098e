"""The paper's questions, on a small model: asked of real trainings, kept, and answered in full."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import make_model, sentences

from not_core.learning.recipe import Recipe
from not_core.manifest import Span
from not_core.surgery.checkpoint import open_checkpoint
from simulations.experiments import paper
from simulations.experiments.kept import Kept
from simulations.material import domains

LAYERS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("paper") / "m", "llama", LAYERS, width=16))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    def records(seed: int, first: int, last: int) -> list[domains.Record]:
        made = sentences(16, seed, (first, last))
        return [domains.Record(id=str(i), text=text, group=str(i)) for i, text in enumerate(made)]

    made: Mapping[str, list[domains.Record]] = {
        "abstracts": records(1, 0, 20),
        "cases": records(2, 20, 40),
        "weaknesses": records(3, 10, 30),
        "finance": records(4, 5, 25),
    }
    monkeypatch.setattr(
        domains, "BUILTIN", {name: lambda say, rows=rows: rows for name, rows in made.items()}
    )
    monkeypatch.setattr(domains, "general", lambda say: records(5, 0, 40))
    monkeypatch.setattr(paper, "HELD_OUT", 4)
    monkeypatch.setattr(paper, "TRIED", 2)
    monkeypatch.setattr(paper, "GENERAL", 6)


def test_every_position_of_every_organ_is_tried(model: str, tmp_path: Path) -> None:
    said: list[str] = []
    rows = paper.positions(model, tmp_path, 256, 0, said.append)
    ways = ["untrained copy", *paper.WAYS]
    places = {"replace": LAYERS - 2, "insert": LAYERS + 1}  # an organ of three layers
    made = [(way, paper.MADE_THERE, start) for way in paper.WAYS for start in (0, 3)]
    assert [(row["organ"], row["mode"], row["position"]) for row in rows] == [
        *((way, mode, n) for way in ways for mode in paper.MODES for n in range(places[mode])),
        *made,
    ]
    start = LAYERS // 3
    untouched = next(row for row in rows if row["mode"] == "replace" and row["position"] == start)
    assert untouched["organ"] == "untrained copy"
    assert untouched["change"] == "+0.0%", "put back where it came from, it changes nothing"
    trained = next(
        row
        for row in rows
        if row["organ"] == "in place" and row["mode"] == "replace" and row["position"] == start
    )
    assert trained["perplexity"] < untouched["perplexity"]
    assert sum(row["best"] for row in rows) == len(ways) * len(paper.MODES) + len(paper.WAYS)
    assert json.loads((tmp_path / "positions.json").read_bytes()) == rows
    page = (tmp_path / "positions.md").read_text().splitlines()
    for row in (row for row in rows if row["best"]):
        found = f"| {row['organ']} | {row['mode']} | {row['position']} | {row['perplexity']:.2f}, "
        assert sum(line.startswith(found) and row["on others"] in line for line in page) == 1
    again: list[str] = []
    assert paper.positions(model, tmp_path, 256, 0, again.append) == rows
    assert [line for line in said if line not in again] == [
        line for line in said if "training" in line
    ]


def test_organs_are_tried_on_all_domains_and_in_a_tuned_base(model: str, tmp_path: Path) -> None:
    rows = paper.transfer(model, tmp_path, 2048, 0, lambda line: None)
    base = [row for row in rows if row["recipient"] == "base"]
    tuned = [row for row in rows if row["recipient"] == "base tuned on finance"]
    texts = [*domains.BUILTIN, "general"]
    assert [row["text"] for row in base] == [text for text in texts for _ in range(6)]
    assert len(tuned) == 3 * 4
    own = {row["text"]: row for row in base if row["organ of"] == row["text"]}
    assert all(own[text]["with"] < own[text]["without"] for text in texts)
    replaced = [row for row in tuned if "added" not in row["organ of"]]
    for row in replaced:  # what was tuned below an organ stays
        (same,) = (one for one in base if all(one[key] == row[key] for key in ("text", "organ of")))
        assert row["with"] != same["with"], row
    without = {row["text"]: row["without"] for row in base}
    assert next(row for row in tuned if row["text"] == "finance")["without"] < without["finance"]
    assert json.loads((tmp_path / "transfer.json").read_bytes()) == rows
    page = (tmp_path / "transfer.md").read_text()
    assert all(f"{row['with']:.2f}, {row['change']} |" in page for row in rows)
    assert page.count("\n| base tuned on finance | ") == 5
    assert not list(tmp_path.glob("*/tuned")), "the tuned base is gone"


def test_what_is_added_is_what_the_organ_changed(model: str, tmp_path: Path) -> None:
    host, texts = open_checkpoint(model), sentences(16, seed=1)
    recipe = Recipe(rank=None, tokens=256, threads=1, device="cpu")
    organ = Kept(tmp_path, host, print).organ(
        "o", "abstracts", Span(start=2, stop=5), texts, recipe
    )
    other = open_checkpoint(make_model(tmp_path / "other", "llama", LAYERS, width=16, seed=1))
    unchanged, changed = (paper._added(organ, host, one) for one in (host, other))
    for index, layer in host.source.layers.items():
        for rest, name in layer.items() if index in range(2, 5) else ():
            key = f"{index - 2}.{rest}"
            made, before, tuned = (
                organ.tensors.read(key),
                host.tensors.read(name),
                other.tensors.read(name),
            )
            torch.testing.assert_close(unchanged.tensors.read(key), made)
            torch.testing.assert_close(
                changed.tensors.read(key) - tuned, made - before, atol=1e-6, rtol=1e-4
            )
            assert rest.endswith("norm.weight") or not torch.equal(before, tuned)


def test_a_tuned_base_must_be_noticed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "check", lambda organ, host, allow=frozenset(): None)
    with pytest.raises(ValueError, match="expected a tuned base to differ"):
        paper.transfer(model, tmp_path, 256, 0, lambda line: None)


def test_encoders_are_refused_by_name_with_the_reason(tmp_path: Path) -> None:
    rows = paper.encoders(tmp_path)
    assert [row["family"] for row in rows] == list(paper.REFUSED)
    for row in rows:
        reason = "is an encoder" if row["family"] in {"bert", "roberta"} else "encoder-decoder"
        assert row["family"] in row["refused"]
        assert reason in row["refused"]
