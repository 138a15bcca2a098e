"""The clinic experiment on a small model: fair splits, kept cells, a table that hides nothing."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model, sentences

from simulations import results
from simulations.experiments import cells, clinic, clinic_results
from simulations.experiments.clinic import METHODS, Visit, documents, experiment, measure, visits
from simulations.material import domains


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("clinic") / "m", "llama", 4, width=16))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def records(count: int, seed: int, *topic: int) -> list[domains.Record]:
        made = sentences(count, seed, (topic[0], topic[1]))
        # Of three documents each, the last two are near-duplicates.
        return [
            domains.Record(id=str(i), text=text, group=str(i - (i % 3 == 2)))
            for i, text in enumerate(made)
        ]

    monkeypatch.setenv("ORGAN_EXCHANGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(domains.BUILTIN, "abstracts", lambda report: records(90, 1, 0, 25))  # type: ignore[attr-defined]
    monkeypatch.setattr(domains, "general", lambda: records(6, 3, 0, 40))
    monkeypatch.setattr(clinic, "TEST", 4)
    monkeypatch.setattr(clinic, "GENERAL", 2)
    monkeypatch.setattr(clinic, "SIZES", (5, 8))
    monkeypatch.setattr(clinic, "DONOR_TOKENS", 400)
    monkeypatch.setattr(clinic, "QUICK_TOKENS", 400)


def in_process(
    cases: Sequence[Visit],
    model: str,
    out: Path,
    say: Any,
    module: str,
    kept_only: bool,
    **more: Any,
) -> Iterator[dict[str, Any]]:
    """As ``cells.run``, without a process for each."""
    assert module == "simulations.experiments.clinic"
    out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        if not (out / case.file).is_file():
            if kept_only:
                continue
            say(case.file)
            (out / case.file).write_text(json.dumps(measure(case, model)))
        yield json.loads((out / case.file).read_text())


def test_no_document_is_on_two_sides() -> None:
    found = [documents(seed) for seed in range(clinic.SEEDS)]
    assert len({one.test for one in found}) == len({one.hospital for one in found}) == 1
    groups = {
        text: record.group
        for record in domains.BUILTIN["abstracts"](print)
        for text in [record.text]
    }
    sides = [found[0].test, found[0].hospital, tuple(t for one in found for t in one.clinic)]
    for index, side in enumerate(sides):
        for other in sides[index + 1 :]:
            assert not {groups[text] for text in side} & {groups[text] for text in other}
    clinics = [set(one.clinic) for one in found]
    assert [len(one) for one in clinics] == [8, 8, 8]
    assert not clinics[0] & clinics[1] | clinics[1] & clinics[2] | clinics[0] & clinics[2]


def test_every_method_is_measured_once_and_what_loses_is_printed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clinic, "run", in_process)
    said: list[str] = []
    table = experiment(model, tmp_path / "out", said.append, quick=True)
    assert [row["method"] for row in table] == list(METHODS)
    assert len(said) == len(METHODS)
    assert json.loads((tmp_path / "out" / "clinic-quick.json").read_bytes()) == table
    by_name = {row["method"]: row for row in table}
    assert by_name["stock"]["trained tokens"] == by_name["organ"]["trained tokens"] == 0
    assert by_name["stock"]["x organ"] > 1, "the organ taught nothing"
    assert by_name["shared-lora"]["perplexity"] < by_name["stock"]["perplexity"]
    assert {"x lora", "x organ"} <= by_name["organ+all"].keys()
    assert "x lora" not in by_name["lora"]
    said_briefly = clinic_results.brief(table).splitlines()[2:]
    assert [line.split(" | ")[0][2:] for line in said_briefly] == [*clinic_results.WORDS.values()]
    text = (tmp_path / "out" / "clinic-quick.md").read_text()
    for row in table:
        assert f"| {row['method']} |" in text
        if row.get("x organ", 0) > 1:
            assert f"{row['method']} loses to organ" in text
    assert (tmp_path / "out" / "clinic-quick.png").read_bytes().startswith(b"\x89PNG")
    # All that learned had the same documents, and read the same ones before the first step.
    cells = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cells").iterdir()]
    assert {cell["validation_documents"] for cell in cells} == {0, 1}
    first = {
        name: cell["validation"][0]
        for name in ("lora", "low-rank", "organ+organ", "organ+all", "organ+lora", "organ+norms")
        for cell in [json.loads(next((tmp_path / "out" / "cells").glob(f"{name}-5-*")).read_text())]
    }
    assert first["lora"] == pytest.approx(first["low-rank"], rel=1e-4)
    for name in ("organ+all", "organ+lora", "organ+norms"):
        assert first[name] == pytest.approx(first["organ+organ"], rel=1e-4)
    assert first["organ+all"] < first["lora"]
    assert experiment(model, tmp_path / "out", said.append, quick=True) == table
    assert len(said) == len(METHODS), "it measured again"
    for kept in (tmp_path / "out" / "cells").glob("organ+*"):
        kept.unlink()
    some = experiment(model, tmp_path / "out", said.append, quick=True, kept_only=True)
    assert some == [row for row in table if not row["method"].startswith("organ+")]
    assert len(said) == len(METHODS), "it measured though asked not to"


def test_a_measurement_runs_in_a_process_of_its_own(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def ran(words: list[str], **options: Any) -> Any:
        asked.append(words)
        row = measure(Visit(**json.loads(words[3])), words[4])
        return type("Done", (), {"returncode": 0, "stdout": f"x\n{json.dumps(row)}\n"})

    monkeypatch.setattr(cells.subprocess, "run", ran)
    (row,) = cells.run(
        [Visit(method="stock", records=0, seed=0)],
        model,
        tmp_path,
        print,
        module="simulations.experiments.clinic",
    )
    assert asked[0][1:3] == ["-m", "simulations.experiments.clinic"]
    assert row["case"]["method"] == "stock"
    assert str(tmp_path) not in json.dumps(row)


def test_a_file_is_named_by_all_that_decides(model: str) -> None:
    wanted = list(visits(quick=False))
    assert len({visit.file for visit in wanted}) == len(set(wanted))
    one = wanted[1]
    for change in (
        {"seed": 7},
        {"records": 9},
        {"most_tokens": 9},
        {"patience": 9},
        {"passes": 9.0},
    ):
        assert replace(one, **change).file != one.file  # type: ignore[arg-type]


def test_the_table_knows_wins_from_losses_and_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(method: str, records: int, seed: int, scale: float) -> dict[str, Any]:
        losses = [(scale * (50 + 3 * i), 20) for i in range(30)]
        return {
            **asdict(Visit(method=method, records=records, seed=seed)),
            "domain_perplexity": 2.718281828 ** (sum(n for n, _ in losses) / 600),
            "domain_losses": losses,
            "general_perplexity": 10.0,
            "tokens": 5,
            "cpu_seconds": 1.0,
            "peak_mb": 1,
            "validation": [9.0, 8.0] if scale < 1 else [9.0, 9.5, 9.5],
        }

    rows = [row("stock", 0, 0, 1.1)]
    for seed in range(3):
        rows += [row("organ", 0, seed, 1.0)]
        for size in (20, 50):
            rows += [row("lora", size, seed, 1.05), row("organ+all", size, seed, 0.9 - seed / 100)]
    table = clinic_results.summary(rows)
    assert len(table) == 8
    best = next(one for one in table if (one["records"], one["method"]) == (50, "organ+all"))
    assert best["seeds"] == 3
    assert best["x organ"] < 1
    assert best["x organ, seeds"][0] < best["x organ"] < best["x organ, seeds"][1]
    assert best["x organ, documents"][1] < 1
    assert (best["nothing kept"], best["by seed"] == sorted(best["by seed"], reverse=True)) == (
        0,
        True,
    )
    stock = next(one for one in table if one["method"] == "stock")
    assert stock["seeds"] == 1, "beside all, but measured once"
    assert stock["x lora"] > 1
    monkeypatch.setattr(clinic_results, "CLAIMED", "organ+all")
    text = clinic_results.markdown(table)
    assert "- 20 records: organ+all beats LoRA" in text
    assert "stock loses to organ" in text
    assert "organ+all loses" not in text


def test_whoever_is_measured_is_drawn_and_told() -> None:
    assert {*METHODS} == {*clinic_results.STYLE} == {*clinic_results.WORDS}


def test_the_tables_are_those_of_the_kept_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real sizes
    kept = Path(__file__).parent.parent / results.RESULTS / "clinic"
    shutil.copytree(kept / "cells", tmp_path / "cells")
    monkeypatch.setenv("ORGAN_PRECISION", "float32")  # on any machine
    experiment("", tmp_path, print, kept_only=True)
    for name in ("clinic.json", "clinic.md", "clinic.csv"):
        made, there = (folder / name for folder in (tmp_path, kept))
        assert made.read_text(encoding="utf-8") == there.read_text(encoding="utf-8"), (
            "run organ-simulate clinic --out docs/results/clinic --kept-only"
        )
