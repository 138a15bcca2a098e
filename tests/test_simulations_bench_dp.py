"""Privacy's costs on a small model: one course for both, kept cells, and what loses is said."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import make_model, sentences

from not_core.learning.clipping import Learner, Unit, clipped
from not_core.learning.guard import Clipping
from not_core.learning.recipe import Recipe
from not_core.privacy import randomness
from not_core.surgery.checkpoint import open_checkpoint
from simulations import commands, results
from simulations.experiments import bench_dp, bench_dp_results, compare, documents, quality
from simulations.experiments.bench_dp import cells, measure, private_case
from simulations.experiments.compare import Case
from simulations.experiments.contestants import CONTESTANTS, lora_place
from simulations.material import domains

BLOCKS = [tuple(range(2 + i, 2 + i + size)) for i, size in enumerate((9, 4, 12, 2, 20, 7))]
UNITS: list[Unit] = [[0, 2], [1], [3], [4, 5, 1]]
CLIP = 0.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("private") / "m", "llama", 6, width=16))


@pytest.mark.parametrize("way", get_args(Clipping))
def test_loras_clipped_sum_is_that_of_a_loop_over_units(way: Clipping, model: str) -> None:
    recipe = Recipe(tokens=1, rank=4, precision="float32", threads=1)
    lora = replace(CONTESTANTS["lora"], rank=4)
    with lora_place(lora, open_checkpoint(model), BLOCKS, recipe, apart=True) as (place, body):
        learning = place.masters.parameters
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():  # half of the factors begin with zeros, where the others do nothing
            for one in learning:
                one.add_(torch.randn(one.shape, generator=generator) * 0.05)
        expected = torch.zeros(sum(one.numel() for one in learning))
        for unit in UNITS:
            losses = []
            for number in unit:
                ids = torch.tensor([BLOCKS[number]])
                logits = body(input_ids=ids).logits[0, :-1]
                losses.append(
                    torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
                )
            places = sum(len(BLOCKS[number]) - 1 for number in unit)
            gradients = torch.autograd.grad(torch.stack(losses).sum() / places, learning)
            flat = torch.cat([one.flatten() for one in gradients])
            expected += flat * min(1.0, CLIP / float(flat.norm()))
        learner = Learner(body, place.scene, learning, list(map(len, BLOCKS)))
        total, loss = clipped(way, learner, CLIP, batch_tokens=64).total(UNITS)
    summed = torch.cat([one.flatten() for one in total])
    assert math.isfinite(loss)
    assert float((summed - expected).norm()) <= 1e-5 * float(expected.norm())
    assert 0 < float(expected.norm()) <= len(UNITS) * CLIP


def test_a_file_is_named_by_all_that_decides() -> None:
    one = private_case("abstracts", "organ", 8.0, 4096, 0)
    changed = [
        replace(one, **change)
        for change in (
            {"domain": "cases"},
            {"method": "lora"},
            {"learning_rate": 1.23e-4},
            {"rank": 3},
            {"tokens": 9},
            {"seed": 7},
            {"read": False},
        )
    ]
    for field, value in (
        ("epsilon", 3.0),
        ("delta", 1e-6),
        ("unit", "subject"),
        ("clip", 0.123),
        ("units_per_step", 9),
        ("most_blocks_per_unit", 9),
        ("clipping", "samples"),
        ("batch_tokens", 9),
    ):
        assert getattr(one.guard, field) != value
        changed.append(replace(one, guard=replace(one.guard, **{field: value})))
    assert len({case.file for case in [one, *changed]}) == len(changed) + 1
    assert bench_dp._case(json.loads(json.dumps(asdict(one)))) == one
    wanted = {cell.case for cell in cells(quick=False)}
    assert len({case.file for case in wanted}) == len(wanted)


def test_the_control_is_the_same_course_without_noise(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sentences(40, 1, (0, 25))
    records = [domains.Record(id=str(i), text=text, group=str(i)) for i, text in enumerate(made)]
    monkeypatch.setitem(domains.BUILTIN, "abstracts", lambda report: records)  # type: ignore[attr-defined]
    monkeypatch.setattr(documents, "TEST", 4)
    monkeypatch.setattr(documents, "VALIDATION", 4)
    noisy = private_case("abstracts", "organ", 8.0, 512, 0, read=False)
    control = private_case("abstracts", "organ", 8.0, 512, 0, read=False, noiseless=True)
    row = measure(control, model)
    assert (row["epsilon_spent"], row["mechanism"]["noise_multiplier"]) == (None, 0.0)
    assert bench_dp.Cell("utility", control).tags["epsilon"] == bench_dp_results.NOISELESS
    assert bench_dp.Cell("utility", noisy).tags["epsilon"] == 8.0
    added = torch.zeros(8)
    with bench_dp.without_noise():
        randomness.add_noise(added, 1.0, np.random.default_rng(0))
        assert not added.any()
    randomness.add_noise(added, 1.0, np.random.default_rng(0))
    assert added.any(), "private training is left without noise"


def test_what_the_comparison_has_measured_is_read_and_not_measured_again(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "quality" / "cells"
    kept.mkdir(parents=True)
    made: list[Case] = []

    def collect(cases: Sequence[Case], **how: Any) -> Iterator[dict[str, Any]]:
        made.extend(cases)
        return iter([{"seconds": 1.0, "cpu_seconds": 1.0, "machine": ""}])

    for round_ in quality._rounds(quick=False):
        if round_.domain in bench_dp.DOMAINS:
            list(round_.measure(collect, str))
    files = {case.file for case in made}
    plain = [
        cell.case
        for cell in cells(quick=False)
        if cell.table == "utility" and isinstance(cell.case, Case)
    ]
    assert {case.file for case in plain} <= files, "not as the comparison makes them"
    (kept / plain[0].file).write_text(json.dumps({"base": "this"}))
    assert bench_dp._folder(plain[0].file, "this", tmp_path / "out") == kept
    assert bench_dp._folder(plain[0].file, "another", tmp_path / "out") != kept
    assert bench_dp._folder(plain[0].file, None, tmp_path / "out") == kept
    assert bench_dp._folder(plain[1].file, "this", tmp_path / "out") != kept


def test_any_stop_is_balanced() -> None:
    wanted = list(cells(quick=False))
    utility = [cell.tags for cell in wanted if cell.table == "utility"]
    assert wanted[: len(wanted) - len(utility)] == [c for c in wanted if c.table == "cost"]
    seeds = [tags["seed"] for tags in utility if tags["method"] != "stock"]
    assert seeds == sorted(seeds)
    for seed in range(bench_dp.SEEDS):
        there = [tags for tags in utility if tags["seed"] == seed and tags["method"] != "stock"]
        assert len(there) == 2 * 2 * (4 if seed else 5), "a control with the first seed"


def cost(method: str, clipping: str | None, **more: Any) -> dict[str, Any]:
    return {
        "table": "cost",
        "domain": "abstracts",
        "method": method,
        "epsilon": clipping and 8.0,
        "clipping": clipping,
        "seed": 0,
        "machine": "m",
        "recipe": {
            "rank": 16 if method == "lora" else None,
            "step_tokens": 256,
            "precision": "float32" if method == "lora" else "auto",
        },
        "peak_mb": 1000,
        **more,
    }


def test_costs_are_set_beside_the_same_method_without_privacy() -> None:
    rows = [
        cost("organ", None, tokens=4096, cpu_seconds=32.0),
        cost("lora", None, tokens=4096, cpu_seconds=64.0),
        cost(
            "organ", "ghost", tokens=2000, cpu_seconds=50.0, steps=2, noise_cpu_seconds=0.5,
            peak_mb=1500,
        ),
        cost("lora", "loop", tokens=1000, cpu_seconds=9.0, steps=2, noise_cpu_seconds=0.1)
        | {"machine": "another"},
    ]  # fmt: skip
    plain, _, ghost, loop = bench_dp_results.summary(rows)["cost"]
    assert plain["clipping"] == "none"
    assert plain["tokens a step"] == 256
    assert plain["cpu seconds a step"] == 2.0
    assert plain["tokens a cpu second"] == 128.0
    assert plain["x non-private"] is None
    assert ghost["tokens a step"] == 1000
    assert ghost["cpu seconds a step"] == 25.0
    assert ghost["tokens a cpu second"] == 40.0
    assert ghost["x non-private"] == 3.2
    assert ghost["x peak"] == 1.5
    assert ghost["noise, seconds a step"] == 0.5
    assert ghost["noise, part of a step"] == 0.02
    assert loop["x non-private"] is None, "times of two machines"


def test_costs_say_what_each_computed_in() -> None:
    machine = {"machine": "x86_64 avx512_bf16 amx_bf16"}
    rows = [
        cost("organ", None, tokens=4096, cpu_seconds=32.0),
        cost("organ", None, tokens=4096, cpu_seconds=32.0) | machine,
        cost("lora", None, tokens=4096, cpu_seconds=64.0) | machine,
    ]
    found = bench_dp_results.summary(rows)
    assert [row["frozen part in"] for row in found["cost"]] == ["float32", "bfloat16", "float32"]
    drawn = bench_dp_results.chart(bench_dp_results.summary(rows[1:]))
    assert "organ in bfloat16, LoRA in float32" in drawn.note
    (panel,) = drawn.rows[0]
    assert panel.x.places == ("organ, none, bfloat16", "LoRA, none, float32")


def utility(method: str, epsilon: float | None, seed: int, perplexity: float) -> dict[str, Any]:
    return {
        **cost(method, epsilon and "ghost"),  # type: ignore[arg-type]
        "table": "utility",
        "epsilon": epsilon,
        "seed": seed,
        "tokens": 900 + 100 * seed,
        "domain_perplexity": perplexity,
        "general_perplexity": 20.0 * (1 + seed),
    }


def test_the_table_says_where_privacy_costs_all_that_was_learned(tmp_path: Path) -> None:
    rows = [utility("stock", None, 0, 20.0)]
    for seed, step in enumerate((1.0, 1.02)):
        rows += [
            utility("organ", None, seed, 10.0 * step),
            utility("lora", None, seed, 10.0 * step),
            utility("organ", 8.0, seed, 15.0 * step),
            utility("lora", 8.0, seed, 16.0 * step),
            utility("organ", 1.0, seed, 24.0 * step),
            utility("lora", 1.0, seed, 20.0 * step),
        ]
    found = bench_dp_results.summary(rows)
    table = {(row["method"], row["epsilon"]): row for row in found["utility"]}
    best = table["organ", 8.0]
    assert best["seeds"] == 2
    assert best["tokens"] == 950
    assert best["perplexity"] == pytest.approx(15 * 1.02**0.5, abs=1e-3)
    assert best["general"] == pytest.approx(20 * 2**0.5, abs=1e-3)
    assert best["x LoRA"] == 0.9375
    assert best["x LoRA interval"] == [0.9375, 0.9375], "the same ratio with both seeds"
    assert best["x non-private"] == 1.5
    assert best["x untrained"] == pytest.approx(0.75 * 1.02**0.5, abs=1e-4)
    # Of two values, half the difference is the standard error: 12.706 of it in logarithms.
    reach = math.exp(12.706 * math.log(1.02) / 2)
    middle = 15 * 1.02**0.5
    assert best["perplexity interval"] == pytest.approx([middle / reach, middle * reach], abs=1e-3)
    assert table["lora", 8.0]["x LoRA"] is None
    assert table["stock", "none"]["x untrained"] is None
    against, nothing, lora = found["said"]
    assert against == (
        "abstracts: the private organ beats private LoRA at epsilon 8 (-6.2%, surely); "
        "it does not at 1 (+20.0%, surely)"
    )
    assert "beats the untrained model at epsilon 8" in nothing
    assert "it does not at 1 (+21.2%, surely)" in nothing
    assert lora.endswith("it does not at 1 (+1.0%, perhaps by chance)")
    worst = [row for row in rows if row["epsilon"] != 8.0]
    against_worst, *_ = bench_dp_results.summary(worst)["said"]
    assert "beats private LoRA at no epsilon; it does not at 1 (+20.0%" in against_worst
    text = bench_dp_results.markdown(found)
    assert f"- {against}." in text
    assert "| abstracts | 8.0 | organ | 2 |" in text
    (first,) = bench_dp_results.chart(found).rows[0]
    organ = next(one for one in first.series if one.name == "organ")
    assert first.x.places == ("1", "8", "none")
    assert [point.y for point in organ.points] == [
        table["organ", epsilon]["perplexity"] for epsilon in (1.0, 8.0, "none")
    ]
    assert (organ.points[1].low, organ.points[1].high) == tuple(best["perplexity interval"])


def test_a_quick_run_measures_once_and_says_what_loses(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    def records(count: int, seed: int) -> list[domains.Record]:
        made = sentences(count, seed, (0, 25))
        return [domains.Record(id=str(i), text=text, group=str(i)) for i, text in enumerate(made)]

    def in_process(
        wanted: Sequence[Any], base: str, folder: Path, say: Any, *, module: str, **more: Any
    ) -> Iterator[dict[str, Any]]:
        folder.mkdir(parents=True, exist_ok=True)
        for case in wanted:
            if not (folder / case.file).is_file():
                say(f"measuring {case.file}")
                plain = isinstance(case, Case)
                assert module == f"simulations.experiments.{'compare' if plain else 'bench_dp'}"
                row = compare.measure(case, base) if plain else measure(case, base)
                row["machine"] = "m"
                (folder / case.file).write_text(json.dumps(row))
            yield json.loads((folder / case.file).read_text())

    monkeypatch.setitem(domains.BUILTIN, "abstracts", lambda report: records(90, 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(domains, "general", lambda: records(6, 3))
    monkeypatch.setattr(documents, "TEST", 10)
    monkeypatch.setattr(documents, "VALIDATION", 4)
    for name, value in (("QUICK_TOKENS", 4096), ("COST_TOKENS", 4096), ("run", in_process)):
        monkeypatch.setattr(bench_dp, name, value)
    words = ("bench-dp", "--quick", "--out", tmp_path, "--model", model, "--json")
    code, out, err = call(*words, app=commands.app)
    assert code == 0, err
    found = json.loads(out)
    assert err.count("measuring") == 6
    assert [(row["method"], row["clipping"]) for row in found["cost"]] == [
        ("organ", "none"),
        ("lora", "none"),
        *((method, setting.clipping) for method, setting in bench_dp.SETTINGS.items()),
    ]
    assert all(row["x non-private"] > 0 for row in found["cost"][2:])
    assert [(row["method"], row["epsilon"]) for row in found["utility"]] == [
        ("stock", "none"),
        ("organ", "none"),
        ("lora", "none"),
        ("organ", 8.0),
        ("lora", 8.0),
    ]
    assert len(found["said"]) == 3
    assert json.loads((tmp_path / "bench-dp-quick.json").read_bytes()) == found
    assert (tmp_path / "bench-dp-quick.png").is_file()
    assert not (tmp_path / "bench-dp.json").exists(), "it passes for all of them"
    private = [
        json.loads((tmp_path / "cells" / cell.case.file).read_bytes())
        for cell in cells(quick=True)
        if cell.table == "utility" and not isinstance(cell.case, Case)
    ]
    for row in private:
        assert row["planned_tokens"] >= 4096
        assert row["tokens"] == 40 * row["units"]
        assert row["records"] == 76
        assert 0 < row["epsilon_spent"] <= 8
        assert row["recipe"]["head_sample"] is None
    code, _, err = call(*words, app=commands.app)
    assert code == 0
    assert "measuring" not in err


def test_the_tables_are_those_of_the_kept_measurements(tmp_path: Path) -> None:
    kept = Path(__file__).parent.parent / results.RESULTS
    for name in ("quality", "privacy"):
        shutil.copytree(kept / name / "cells", tmp_path / name / "cells")
    bench_dp.experiment("", tmp_path / "privacy", print, kept_only=True)
    for name in ("bench-dp.json", "bench-dp.md", "bench-dp.csv"):
        made, there = (folder / "privacy" / name for folder in (tmp_path, kept))
        assert made.read_text(encoding="utf-8") == there.read_text(encoding="utf-8"), (
            "run organ-simulate bench-dp --out docs/results/privacy --kept-only"
        )


def test_the_readme_says_of_which_delta_it_is() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    kept = (Path(__file__).parent.parent / results.RESULTS / "privacy" / "cells").glob("*epsilon*")
    deltas = {json.loads(one.read_bytes())["case"]["guard"]["delta"] for one in kept}
    assert deltas == {bench_dp.DELTA}
    assert f"three seeds, δ = {bench_dp.DELTA:.0e} a record".replace("e-0", "e-") in readme
