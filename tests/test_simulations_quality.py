"""The comparison: equal terms, what is kept, and what the table and the aims say of it."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, sentences
from transformers import AutoModelForCausalLM

from not_core.errors import ExchangeError, FormatError
from not_core.learning.evaluation import read_losses
from not_core.learning.lessons import Budget, Lessons
from not_core.surgery.checkpoint import open_checkpoint
from simulations import commands, results
from simulations.experiments import cells, compare, documents, frontier, quality
from simulations.experiments.cells import run
from simulations.experiments.compare import Case
from simulations.experiments.contestants import CONTESTANTS, fit
from simulations.experiments.quality import CORE, controls
from simulations.experiments.quality_results import NAMES, brief, markdown, summary, targets
from simulations.material import domains


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("quality") / "m", "llama", 6, width=16))


MODULE = compare.__name__


def row(name: str, perplexity: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    losses = [(10.0 * perplexity / 15 + number, 10) for number in range(6)]
    return {
        "domain": "abstracts",
        "name": name,
        "budget": 32_000,
        "seed": seed,
        "machine": "m",
        "measured": cells.MEASURED,
        "tokens": 32_000,
        "seconds": 101.0,
        "cpu_seconds": 100.0,
        "peak_mb": 1000,
        "trainable": 5,
        "artefact_bytes": 10_000_000,
        "domain_perplexity": perplexity,
        "general_perplexity": 20.0,
        "domain_losses": losses,
        "general_losses": losses,
        **more,
    }


@pytest.mark.parametrize("name", sorted({*CONTESTANTS} - {"stock"}))
def test_every_contestant_learns(name: str, model: str) -> None:
    torch.manual_seed(0)
    host, texts = open_checkpoint(model), sentences(60, seed=1, topic=(0, 15))
    held_out = sentences(8, seed=2, topic=(0, 15))

    def perplexity(contestant: str, tokens: int) -> tuple[float, Any]:
        fitted = fit(CONTESTANTS[contestant], host, texts, {"tokens": tokens}, 0)
        return read_losses(fitted.model(), host.tokenizer, held_out).perplexity, fitted

    before, stock = perplexity("stock", 1)
    after, fitted = perplexity(name, 2_000)
    assert stock.trainable == stock.artefact_bytes == 0
    assert fitted.tokens >= 2_000
    assert fitted.artefact_bytes >= 2 * fitted.trainable > 0
    assert after != before
    if name != "paper":  # trained alone, it need not help where it is put
        assert after < before


def test_contestants_learn_from_the_same_blocks_in_the_same_order(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, texts = open_checkpoint(model), sentences(40, seed=1)
    learned: list[list[Any]] = []
    planned = Lessons.sections

    def sections(lessons: Lessons, budget: Budget) -> Iterator[list[list[int]]]:
        for section in planned(lessons, budget):
            learned[-1] += [[lessons.blocks[number] for number in pack] for pack in section]
            yield section

    monkeypatch.setattr(Lessons, "sections", sections)
    for name in ("lora", "organ", "full"):
        learned.append([])
        fitted = fit(CONTESTANTS[name], host, texts, {"tokens": 1_000}, 3)
        assert fitted.tokens == sum(len(block) for pack in learned[-1] for block in pack)
    assert learned[0] == learned[1] == learned[2] != []


def test_measurements_of_other_documents_are_not_compared() -> None:
    other = row("organ", 15.3, domain_losses=[(10.0, 10)] * 5)
    with pytest.raises(ExchangeError, match="different domain documents, such as that of organ"):
        summary([row("lora", 15.0), other])


def test_what_chooses_reads_other_general_passages(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        domains.Record(id=str(i), text=text, group=str(i))
        for i, text in enumerate(sentences(40, seed=1))
    ]
    monkeypatch.setattr(domains, "BUILTIN", {"abstracts": lambda report: records})
    monkeypatch.setattr(domains, "general", lambda: records)
    read: dict[str, list[set[str]]] = {"test": [], "validation": []}
    monkeypatch.setattr(documents, "TEST", 10)
    monkeypatch.setattr(documents, "VALIDATION", 5)
    monkeypatch.setattr(compare, "GENERAL", 4)
    for part, found in read.items():
        with monkeypatch.context() as patch:

            def reading(*given: Any, found: list[set[str]] = found, **how: Any) -> Any:
                found.append(set(given[2]))
                return read_losses(*given, **how)

            patch.setattr(cells, "read_losses", reading)
            case = Case(
                domain="abstracts", name="stock", contestant=CONTESTANTS["stock"],
                budget=("tokens", 1), seed=0, part=part,
            )  # fmt: skip
            compare.measure(case, model)
    (test, general), (validation, others) = read["test"], read["validation"]
    assert not test & validation
    assert len(general) == len(others) == 4
    assert not general & others


def test_a_search_gives_lora_as_many_trials(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Case] = []

    def measured(cases: list[Case], *given: Any, **how: Any) -> Iterator[dict[str, Any]]:
        asked.extend(cases)
        return iter([row(cases[0].name, 15.0)])

    monkeypatch.setattr(quality, "run", measured)
    rows = quality.search(model, tmp_path, print)
    assert {one.part for one in asked} == {"validation"}
    tried = {name: [one for one in asked if one.name == name] for name in {o.name for o in asked}}
    ours, lora = tried.pop("organ"), tried.popitem()[1]
    assert not tried
    grids = [
        [(one.contestant.rank, one.contestant.learning_rate, one.contestant.scale) for one in each]
        for each in (ours, lora)
    ]
    assert grids[0] == grids[1], "as many trials for LoRA as for ours"
    assert len(rows) == len(asked) == 2 * len(grids[0])


def test_a_search_that_is_cut_off_leaves_the_whole_one(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(cases: list[Case], *given: Any, **how: Any) -> Iterator[dict[str, Any]]:
        if cases[0].contestant.scale != 1.0:
            raise KeyboardInterrupt
        return iter([row(cases[0].name, 15.0)])

    monkeypatch.setattr(quality, "run", measured)
    (tmp_path / "search.json").write_text("whole")
    with pytest.raises(KeyboardInterrupt):
        quality.search(model, tmp_path, print)
    assert (tmp_path / "search.json").read_text() == "whole"


def test_all_are_measured_in_float32_whatever_the_model_is_in(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "llama", 3, width=16)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    host, texts = open_checkpoint(folder), sentences(8, seed=1)
    for name in ("stock", "lora", "full", "organ", "organ-whole"):
        fitted = fit(CONTESTANTS[name], host, texts, {"tokens": 100}, 0).model()
        assert {one.dtype for one in fitted.parameters()} == {torch.float32}, name


def test_whoever_is_measured_is_told() -> None:
    assert {*CONTESTANTS} <= {*NAMES}


def test_a_chart_can_be_drawn_of_the_first_measurement() -> None:
    frontier.chart(summary([row("stock", 20.0)]))


def test_another_machines_seconds_are_no_budget_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def measured(cases: list[Case], *, kept_only: bool = False) -> Iterator[dict[str, Any]]:
        asked.append((cases[0].name, kept_only))
        return iter([] if kept_only else [row(cases[0].name, 15.0, machine="there")])

    round_ = quality._Round("abstracts", ("lora", "organ"), 32_000, 0, choices=False)
    monkeypatch.setattr(quality, "processor", lambda: "here")
    said: list[str] = []
    assert [one["name"] for one in round_.measure(measured, said.append)] == ["lora", "organ"]
    assert asked == [("lora", False), ("organ-in-the-time-of-lora", True), ("organ", False)]
    assert ["lora of abstracts, seed 0, was timed on another" in line for line in said] == [True]
    monkeypatch.setattr(quality, "processor", lambda: "there")
    assert len(list(round_.measure(measured, said.append))) == 3
    assert len(said) == 1
    monkeypatch.setattr(quality, "OWN", 1.1)  # of a processor that others used, too
    assert len(list(round_.measure(measured, said.append))) == 2
    assert len(said) == 2


def test_an_aim_that_chance_may_have_made_is_not_sure() -> None:
    rows = [
        *(row("lora", 15.0, seed=seed, general_perplexity=20.0) for seed in range(3)),
        *(row("organ", 15.0 + seed, seed=seed, general_perplexity=19.0) for seed in range(3)),
    ]
    met = {
        line.split(" | ")[4]: line.split(" | ")[-1].strip(" |")
        for line in targets(summary(rows)).splitlines()[2:]
    }
    assert met["perplexity on equal tokens"] == "**no**, not surely"
    assert met["general perplexity on equal tokens"] == "yes"
    assert met["CPU seconds on equal tokens, m, 3 seeds"] == "**no**"


def test_a_scale_is_told_in_what_is_kept() -> None:
    def case(name: str) -> Case:
        contestant = CONTESTANTS[name]
        return Case(domain="a", name="x", contestant=contestant, budget=("tokens", 1), seed=0)

    files = {name: case(name).file for name in CONTESTANTS}
    assert len(set(files.values())) == len(CONTESTANTS)
    assert case("organ").recipe["scale"] == 0.9
    assert case("lora-scaled").recipe["scale"] == 0.9
    assert "scale" not in case("lora").recipe, "as it was kept before there was a scale"


def test_the_table_compares_seed_by_seed() -> None:
    rows = [
        row("lora", 15.0),
        row("lora", 16.0, seed=1),
        row("organ", 15.3, cpu_seconds=60.0, peak_mb=500, general_perplexity=19.0),
        row("organ", 16.0, seed=1, cpu_seconds=40.0, peak_mb=700, general_perplexity=19.0),
        row("organ in the time of lora", 14.9, machine="another"),
    ]
    found = {one["method"]: one for one in summary(rows)}
    assert found["organ"]["x LoRA"] == pytest.approx((1.02 * 1.0) ** 0.5, abs=1e-4)
    low, high = found["organ"]["x LoRA interval"]
    assert low < 1 < 1.02 < high, "two seeds say little"
    assert found["organ"]["x cpu"] == pytest.approx((0.6 * 0.4) ** 0.5, abs=1e-4)
    assert found["organ"]["x peak"] == pytest.approx((0.5 * 0.7) ** 0.5, abs=1e-4)
    costs = found["organ"]["beside"]["lora"]["by machine"]["m"]
    assert costs["x cpu interval"][0] < 0.4899 < costs["x cpu interval"][1]
    assert "x cpu" not in found["organ in the time of lora"], "times of two machines"
    assert found["organ in the time of lora"]["x LoRA interval"] is None
    text = markdown(summary(rows))
    assert text.count("\n") == 2 + 3
    assert "| 1.01 |" in text


def test_the_turned_table_says_what_is_surely_lower() -> None:
    wins, nears = ([row("organ in the time of lora", p, seed) for seed in (0, 1)] for p in (14, 15))
    rows = [*(row("lora", 15.0, seed) for seed in (0, 1)), *wins]
    rows += [one | {"domain": "cases"} for one in (*rows[:2], *nears)]
    header, _, lora, organ = brief(summary(rows)).splitlines()
    assert header.startswith(
        "| 32,000 tokens | seeds | abstracts, LoRA 15.00 | cases, LoRA 15.00 |"
    )
    assert lora == "| LoRA | 2 | 1 | 1 | 1.00 | 1.00 | 1.00 | 0.00 |"
    assert organ.startswith("| organ, in LoRA's seconds | 2 | **0.933** (")
    assert "| 1.000 (1.000 to 1.000) | 1.00 |" in organ
    *_, once = brief(summary([rows[0], wins[0]])).splitlines()
    assert "| 1 | 0.933 (" in once, "one seed is never sure"


def test_seconds_are_of_one_kind_of_machine() -> None:
    rows = [
        row("lora", 15.0, machine="old", cpu_seconds=100.0),
        row("organ", 15.3, machine="old", cpu_seconds=90.0),
        *(row("lora", 15.0, seed=seed, machine="new", cpu_seconds=80.0) for seed in (1, 2)),
        *(row("organ", 15.3, seed=seed, machine="new", cpu_seconds=40.0) for seed in (1, 2)),
    ]
    found = {one["method"]: one for one in summary(rows)}
    assert (found["organ"]["x cpu"], found["organ"]["cpu seconds"]) == (0.5, 40.0)
    assert found["lora"]["cpu seconds"] == 80.0
    assert found["organ"]["timed on"] == "new, 2 of 3"
    again = [one for one in rows if one["seed"] < 2]
    assert {one["timed on"] for one in summary(again)} == {"new, 1 of 2"}, "the last of equals"
    assert found["organ"]["x LoRA"] == pytest.approx(1.02)


def test_seconds_are_of_pairs_and_of_one_trainer() -> None:
    rows = [
        row("lora", 15.0, cpu_seconds=100.0),
        row("lora", 15.0, seed=1, cpu_seconds=200.0, machine="another"),
        row("organ", 15.3, cpu_seconds=40.0),
        row("organ", 15.3, seed=1, cpu_seconds=60.0),
        row("lora-bf16", 15.3, cpu_seconds=70.0, measured=1),
    ]
    found = {one["method"]: one for one in summary(rows)}
    assert (found["organ"]["x cpu"], found["organ"]["cpu seconds"]) == (0.4, 40.0)
    assert found["organ"]["timed on"] == "m, 1 of 2"
    assert found["lora-bf16"]["timed on"] == "m, by trainer 1, 1 of 1"
    assert "x cpu" not in found["lora-bf16"]
    assert "m, 1 seed" in targets(summary(rows))


def test_aims_that_are_missed_are_named() -> None:
    rows = [
        row("lora", 15.0),
        row("organ", 15.3, cpu_seconds=60.0, peak_mb=600, general_perplexity=21.0),
        row("organ in the time of lora", 15.1),
    ]
    lines = [line for line in targets(summary(rows)).splitlines()[2:]]
    met = [line.split("|")[-2].strip() for line in lines]
    assert len(lines) == 7
    said = ["yes", "**no**", "**no**", "yes", "**no**", "yes", "**no**"]
    assert met == [f"{one}, one seed" for one in said], "one seed says nothing of chance"
    better = [rows[0], row("organ", 14.0, cpu_seconds=49.0, peak_mb=599)]
    assert "**no**" not in targets(summary(better))


def test_aims_are_judged_beside_each_rival_and_machine() -> None:
    rows = [
        *(row("lora", 15.0, seed=seed, machine=str(seed)) for seed in (0, 1)),
        *(row("lora-bf16", 15.0, seed=seed, machine="1", cpu_seconds=50.0) for seed in (0, 1)),
        row("organ", 15.3, cpu_seconds=60.0, peak_mb=700, machine="0"),
        row("organ", 15.3, seed=1, cpu_seconds=40.0, peak_mb=500, machine="1"),
        row("organ in the time of lora-bf16", 14.9, seed=1, machine="1"),
    ]
    lines = [line.split(" | ")[3:] for line in targets(summary(rows)).splitlines()[2:]]
    met = {(rival, what): end.strip(" |") for rival, what, *_, end in lines}
    assert met["lora", "CPU seconds on equal tokens, 1, 1 seed"] == "yes, one seed"
    assert met["lora", "CPU seconds on equal tokens, 0, 1 seed"] == "**no**, one seed"
    assert met["lora-bf16", "CPU seconds on equal tokens, 1, 1 seed"] == "**no**, one seed"
    assert met["lora-bf16", "perplexity in its seconds, 1, 1 seed"] == "yes, one seed"
    assert met["lora-bf16", "general perplexity in its seconds, 1, 1 seed"] == "yes, one seed"
    other = "CPU seconds on equal tokens, 0, 1 seed"
    assert ("lora-bf16", other) not in met, "times of two machines"
    assert ("lora", "peak memory, 1, 1 seed") in met


def test_a_page_of_all_measurements_stays_until_all_are_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        yield rows[0]
        raise KeyboardInterrupt

    def told(rows: Any) -> Any:
        return cells.tell(tmp_path, "quality", rows, summary, brief, frontier.chart)

    both = [row("lora", 15.0), row("organ", 15.3)]
    with pytest.raises(ExchangeError, match="the same without --kept-only"):
        told(iter(()))
    assert list(tmp_path.iterdir()) == []
    assert told(both) == summary(both)
    page = (tmp_path / "quality.md").read_text()
    monkeypatch.setattr(cells, "SO_FAR_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        told(cut_off(both))
    assert json.loads((tmp_path / "quality.json").read_bytes()) == summary(both)
    assert json.loads((tmp_path / "quality-so-far.json").read_bytes()) == summary(both[:1])
    assert (tmp_path / "quality.md").read_text() == page
    told(both)
    assert sorted(one.suffix for one in tmp_path.iterdir()) == [".csv", ".json", ".md", ".png"]


@pytest.mark.parametrize("command", ["compare", "bench-dp"])
@pytest.mark.parametrize("flag", ["--quick", "--kept-only"])
def test_a_search_stands_alone(
    command: str, flag: str, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = call(command, "--search", flag, "--out", tmp_path, app=commands.app)
    assert code == 2
    assert f"leave out {flag}" in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_not_measured_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(
        domain="abstracts",
        name="stock",
        contestant=CONTESTANTS["stock"],
        budget=("tokens", 1),
        seed=0,
    )
    assert list(run([case], model, tmp_path, print, module=MODULE, kept_only=True)) == []
    kept = {"base": open_checkpoint(model).weights_digest, "measured": 1}
    (tmp_path / case.file).write_text(json.dumps(kept))
    assert list(run([case], model, tmp_path, print, module=MODULE)) == [kept]
    other = make_model(tmp_path / "other", "llama", 6, seed=1, width=16)
    with pytest.raises(ExchangeError, match="another base model; choose another --out"):
        list(run([case], str(other), tmp_path, print, module=MODULE))
    told = run([case], "", tmp_path, print, module=MODULE, needs=["x"], kept_only=True, since=2)
    assert list(told) == [kept], "it takes no package to tell what is kept"
    row = json.dumps({"base": kept["base"]})
    with monkeypatch.context() as patch:
        done = subprocess.CompletedProcess("", 0, stdout=row, stderr="")
        patch.setattr(subprocess, "run", lambda *command, **how: done)
        (again,) = run([case], model, tmp_path, print, module=MODULE, since=2)
    assert again["measured"] == cells.MEASURED
    asked = Case(**{**{f: getattr(case, f) for f in case.__slots__}, "choices": True})
    assert asked.file != case.file
    with pytest.raises(ExchangeError, match="failed"):
        list(run([asked], str(tmp_path / "no-model"), tmp_path, print, module=MODULE))


def test_seconds_of_which_others_had_a_part_are_no_budget(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [domains.Record(id="", text=text, group=text) for text in sentences(20, seed=1)]
    monkeypatch.setattr(domains, "BUILTIN", {"abstracts": lambda report: records})
    monkeypatch.setattr(compare, "fit", lambda *given: time.sleep(0.2))  # waits, as for a core
    contestant = CONTESTANTS["organ"]
    case = Case(
        domain="abstracts", name="organ", contestant=contestant, budget=("seconds", 0.2), seed=0
    )
    with pytest.raises(ExchangeError, match="leave it a core to itself"):
        compare.measure(case, model)


def test_the_question_comes_before_its_controls() -> None:
    rounds = list(quality._rounds(quick=False))
    first = [one for one in rounds if one.seed == 0 and one.tokens == quality.TOKENS]
    assert [one.names for one in first[:4]] == [CORE] * 4
    assert {one.domain for one in first[:4]} == set(quality.DOMAINS)
    assert all(one.choices == (one.seed == 0 and one.tokens == quality.TOKENS) for one in rounds)
    assert {name for one in rounds for name in one.names} == {*CORE, *controls()}
    assert sum("stock" in one.names for one in rounds) == len(quality.DOMAINS)
    assert len(list(quality._rounds(quick=True))) == 1


def test_documents_are_split_alike_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sentences(200, seed=1)
    records = [
        domains.Record(id=str(i), text=text, group=str(i - i % 2 if i < 20 else i))
        for i, text in enumerate(made)
    ]
    monkeypatch.setattr(domains, "BUILTIN", {"abstracts": lambda report: records})
    monkeypatch.setattr(documents, "TEST", 30)
    monkeypatch.setattr(documents, "VALIDATION", 10)
    found = documents.parts("abstracts")
    assert found == documents.parts("abstracts")
    sides = [set(found.train), set(found.validation), set(found.test)]
    assert sum(map(len, sides)) == len(made) == len(set.union(*sides))
    for first, second in zip(made[:20:2], made[1:20:2], strict=True):
        assert any({first, second} <= side for side in sides), "near-duplicates parted"


def test_what_shares_a_passage_with_training_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sentences(60, seed=1)
    passage = " ".join(f"word{number}" for number in range(60))
    texts = [passage + " " + made[0], made[1] + passage + made[2], *made[3:]]
    records = [domains.Record(id=str(i), text=text, group=str(i)) for i, text in enumerate(texts)]
    monkeypatch.setattr(domains, "BUILTIN", {"abstracts": lambda report: records})
    read = []
    for seed in range(12):
        monkeypatch.setattr(documents, "SPLIT_SEED", seed)
        monkeypatch.setattr(documents, "TEST", 20)
        monkeypatch.setattr(documents, "VALIDATION", 10)
        found = documents.parts("abstracts")
        read.append((texts[0] in found.train, texts[0] in found.test, texts[1] in found.train))
        assert not set(found.test) & set(found.train)
    assert (False, True, False) in read, "held out, and so is what it is like"
    assert (False, False, True) in read, "held out, but not read"
    assert (False, True, True) not in read


def test_the_tables_are_those_of_the_kept_measurements(tmp_path: Path) -> None:
    kept = Path(__file__).parent.parent / results.RESULTS
    shutil.copytree(kept / "quality" / "cells", tmp_path / "cells")
    quality.quality("", tmp_path, print, kept_only=True)
    for name in ("quality.json", "quality.md", "quality.csv"):
        made, there = (folder / name for folder in (tmp_path, kept / "quality"))
        assert made.read_text(encoding="utf-8") == there.read_text(encoding="utf-8"), (
            "run organ-simulate compare --out docs/results/quality --kept-only"
        )


def test_the_readme_counts_the_aims_that_are_met() -> None:
    root = Path(__file__).parent.parent
    table = json.loads((root / results.RESULTS / "quality" / "quality.json").read_bytes())
    rows = [line.strip("| ").split(" | ") for line in targets(table).splitlines()[2:]]
    found = [met for _, tokens, method, rival, *_, met in rows
             if (tokens, method, rival) == ("32,000", "organ", "lora")]  # fmt: skip
    met = [one for one in found if one.startswith("yes")]
    unsure = [one for one in met if "not surely" in one]
    assert (
        f"of the {len(found)} aims beside LoRA at 32,000 tokens {len(met)} are met, "
        f"{len(unsure)} of them not surely"
    ) in " ".join((root / "README.md").read_text(encoding="utf-8").split())


def test_the_readmes_tables_are_those_of_the_kept_results(tmp_path: Path) -> None:
    root, readme = Path(__file__).parent.parent, tmp_path / "README.md"
    readme.write_text((root / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert not results.refresh(readme, root), "run make readme"
    for kept, _ in results.TABLES.values():
        (tmp_path / kept).parent.mkdir(parents=True)
        shutil.copy(root / kept, tmp_path / kept)
    quality_json = tmp_path / results.TABLES["quality"][0]
    for bad in ("[", "[{}]"):
        quality_json.write_text(bad)
        with pytest.raises(FormatError, match="run its experiment to its end"):
            results.refresh(readme, tmp_path)
    quality_json.write_text(json.dumps(summary([row("lora", 15.0)])))
    assert results.refresh(readme, tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert "| 32,000 tokens | seeds | abstracts, LoRA 15.00 |" in text
    for name in results.TABLES:
        readme.write_text(text.replace(f"<!-- {name}: make readme -->", ""))
        with pytest.raises(FormatError, match=f"lacks <!-- {name}"):
            results.refresh(readme, tmp_path)
