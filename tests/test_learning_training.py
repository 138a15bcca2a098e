import itertools
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import save_tokenizer, sentences
from families import all_families, family_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from not_core.errors import PlanError, RecordsError, TrainingError
from not_core.learning import lessons, resumption
from not_core.learning.device import Precision
from not_core.learning.device import precision as precision_of
from not_core.learning.evaluation import read_losses
from not_core.learning.lessons import FIRST_TOKENS, Budget, Lessons
from not_core.learning.low_rank import add_factors
from not_core.learning.packing import FILL, Rows
from not_core.learning.recipe import Recipe, Scaffold, default_span
from not_core.learning.scaffold import Standing
from not_core.learning.scene import Scene
from not_core.learning.stage import Stage
from not_core.learning.text_blocks import token_nats
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.difference import difference
from not_core.surgery.organ import Label, Organ, describe, extract
from not_core.surgery.plan import HOST, whole
from not_core.surgery.tensors import tensor_digest

SPAN = Span(start=2, stop=4)
RECIPE = Recipe(
    rank=None, tokens=6_000, learning_rate=1e-2, block_tokens=32, step_tokens=128, threads=1
)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_helps_in_the_host_and_touches_nothing_else(
    family: str, rank: int | None, precision: Precision, models: dict[str, Path]
) -> None:
    host = open_checkpoint(models[family])

    def mapped() -> list[str]:
        return [tensor_digest(host.tensors.read(name, shared=True)) for name in host.names]

    before_bytes = mapped()
    texts = sentences(200, seed=1, topic=(0, 12))
    trained = train(host, SPAN, texts, replace(RECIPE, rank=rank, precision=precision))
    assert mapped() == before_bytes, "the open mapping was written to"
    assert open_checkpoint(models[family]).weights_digest == host.weights_digest
    manifest = describe(host, SPAN, trained.tensors, Label(name="o"), training=trained.facts)
    organ = Organ(manifest, trained.tensors)
    plan = plans.transplant(6, "o", 2, mode="replace", position=2)
    grafted = assemble(plan, host, {"o": organ.source})
    held_out = sentences(10, seed=2, topic=(0, 12))
    before = read_losses(assemble(plans.identity(6), host, {}), host.tokenizer, held_out)
    after = read_losses(grafted, host.tokenizer, held_out)
    assert after.perplexity < 0.93 * before.perplexity
    stock, changed = assemble(plans.identity(6), host, {}).state_dict(), grafted.state_dict()
    differ = {name for name in stock if not torch.equal(stock[name], changed[name])}
    assert differ
    assert all(
        (part := host.anatomy.layer_of(name)) is not None and 2 <= part[0] < 4 for name in differ
    )


def test_a_part_of_what_was_learned_stays(models: dict[str, Path]) -> None:
    host, texts = open_checkpoint(models["llama"]), sentences(40, seed=1)
    recipe = replace(RECIPE, rank=4, tokens=500, precision="float32")
    whole, half, usual = (
        train(host, SPAN, texts, replace(recipe, scale=scale)).tensors for scale in (1.0, 0.5, None)
    )
    base, learned = extract(host, SPAN), 0
    for name in whole.names():
        stock, full = base.read(name), whole.read(name)
        learned += not torch.equal(full, stock)
        for part, scaled in ((0.5, half), (0.9, usual)):
            expected = stock + part * (full - stock)
            torch.testing.assert_close(scaled.read(name), expected, atol=1e-4, rtol=0)
            assert torch.equal(scaled.read(name), full) == torch.equal(full, stock)
    assert learned


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(models: dict[str, Path]) -> None:
    host, texts = open_checkpoint(models["llama"]), sentences(30, seed=1)
    recipe = Recipe(tokens=500, block_tokens=32, threads=1, seed=3)

    def digest(recipe: Recipe) -> str:
        trained = train(host, SPAN, texts, recipe)
        label = Label(name="o")
        return describe(host, SPAN, trained.tensors, label, training=trained.facts).digest

    assert digest(recipe) == digest(recipe)
    other = Recipe(tokens=500, block_tokens=32, threads=1, seed=4)
    assert digest(other) != digest(recipe)


def test_an_organ_has_the_same_tensors_as_the_span_it_replaces(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    trained = train(host, SPAN, sentences(4, seed=1), Recipe(tokens=64, threads=1))
    plain = extract(host, SPAN)
    assert trained.tensors.names() == plain.names()
    for name in plain.names():
        assert trained.tensors.form(name) == plain.form(name)
    assert trained.facts.tokens >= 64
    assert trained.facts.threads == 1


def test_few_records_are_repeated_many_are_tasted(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    seen: list[int] = []
    train(
        host,
        SPAN,
        sentences(2, seed=1),
        Recipe(tokens=300, block_tokens=16, step_tokens=16, threads=1),
        advance=lambda tokens, loss: seen.append(tokens),
    )
    assert 300 <= sum(seen) < 316


def test_what_cannot_be_trained_is_refused(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    with pytest.raises(RecordsError, match="two tokens"):
        train(host, SPAN, ["the"], RECIPE)
    with pytest.raises(PlanError, match="has 6 layers"):
        train(host, Span(start=5, stop=8), sentences(3, seed=1), RECIPE)


def test_a_loss_that_is_not_finite_ends_training(models: dict[str, Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(models["llama"], tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.5.mlp.up_proj.weight"][:] = float("inf")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="not finite at step 1"):
        train(open_checkpoint(broken), SPAN, sentences(5, seed=1), RECIPE)


@pytest.mark.parametrize("rank", [None, 16])
@pytest.mark.parametrize("layers", [1, 2, 3, 12, 30])
def test_the_default_span_lies_inside_the_model(layers: int, rank: int | None) -> None:
    span = default_span(layers, rank)
    assert 0 <= span.start < span.stop <= layers


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"tokens": 0},
        {"tokens": 5, "epochs": 1.0},
        {"tokens": 5, "scale": 0.0},
        {"tokens": 5, "scale": 1.1},
        {"tokens": 5, "rank": None, "scale": 0.9},
        {"seconds": math.inf},
        {"tokens": 5, "learning_rate": 0.0},
        {"tokens": 5, "learning_rate": math.nan},
        {"tokens": 5, "rank": 0},
        {"tokens": 5, "seed": -1},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Recipe(**bad)


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("family", all_families())
def test_every_family_trains_in_place_and_loads_again(
    family: str, rank: int | None, tmp_path: Path
) -> None:
    """Experts that are one tensor in memory and many on disk come out as they are stored."""
    folder = family_model(tmp_path / "host", family)
    save_tokenizer(folder)
    host = open_checkpoint(folder)
    recipe = Recipe(rank=rank, tokens=64, block_tokens=16, threads=1, learning_rate=1e-2)
    trained = train(host, SPAN, sentences(4, seed=1), recipe)
    manifest = describe(host, SPAN, trained.tensors, Label(name="o"), training=trained.facts)
    name = manifest.digest
    organ = Organ(manifest, trained.tensors)
    plan = plans.transplant(host.layers, name, 2, mode="replace", position=2)
    graft.transplant(plan, host, {name: organ}, tmp_path / "out")
    found = difference(host, open_checkpoint(tmp_path / "out"))
    kinds = [pair.kind for pair in found.layers]
    assert kinds == ["same", "same", "changed", "changed", "same", "same"]
    assert found.frame is None
    changed = found.layers[2].distance
    assert changed is not None
    # Biases of keys have no gradient in some families, experts that no token chose have none.
    assert changed.changed > changed.tensors / (3 if rank is None else 6)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())


SCAFFOLDS: tuple[Scaffold, ...] = ("in-situ", "alone", "emulator", "inserted")


@pytest.mark.parametrize("scaffold", SCAFFOLDS)
def test_every_scaffold_learns_and_leaves_the_host_alone(
    scaffold: Scaffold, models: dict[str, Path]
) -> None:
    host = open_checkpoint(models["llama"])
    before = host.weights_digest
    recipe = replace(RECIPE, scaffold=scaffold, context=1, tokens=3_000)
    trained = train(host, SPAN, sentences(100, seed=1, topic=(0, 12)), recipe)
    assert trained.facts.scaffold == scaffold
    assert sum(trained.losses[-5:]) < sum(trained.losses[:5])
    assert open_checkpoint(models["llama"]).weights_digest == before


@pytest.mark.parametrize("family", all_families())
def test_an_inserted_organ_changes_nothing_before_it_learns(family: str, tmp_path: Path) -> None:
    folder = family_model(tmp_path / "host", family)
    save_tokenizer(folder)
    host = open_checkpoint(folder)
    recipe = Recipe(
        scaffold="inserted", rank=None, tokens=16, block_tokens=16, threads=1, learning_rate=1e-9
    )
    trained = train(host, SPAN, sentences(4, seed=1), recipe)
    manifest = describe(host, SPAN, trained.tensors, Label(name="o"), training=trained.facts)
    plan = plans.transplant(host.layers, "o", 2, mode="insert", position=2)
    with_organ = assemble(plan, host, {"o": Organ(manifest, trained.tensors).source})
    alone = assemble(plans.identity(host.layers), host, {})
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        found, expected = with_organ(ids).logits, alone(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", all_families())
def test_the_layers_below_replayed_are_the_layers_below(family: str, tmp_path: Path) -> None:
    """Packed or side by side, with and without layers below, losses are those of the model."""
    folder = family_model(tmp_path / "host", family)
    host = open_checkpoint(folder)
    layers = whole(HOST, host.layers)
    blocks = [tuple(range(2, 14)), tuple(range(30, 9, -2)), tuple(range(3, 60, 5))]
    expected = token_nats(assemble(plans.identity(host.layers), host, {}), blocks).sum()
    for below in (0, 1, 5):
        placed = Standing(layers[:below], layers[below : below + 1], layers[below + 1 :])
        cpu = torch.device("cpu")
        with Scene(host, placed, blocks, device=cpu, dtype="float32") as scene:
            scene.prepare([0, 2])
            scene.prepare([1])
            found = scene.nats([0, 1, 2]).sum()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_stage_shares_what_another_holds_outside_its_layers(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    first, second, *_ = whole(HOST, host.layers)
    one = Stage(host, {}, [first], dtype="bfloat16")
    other = Stage(host, {}, [second], dtype="bfloat16", frame=one.frame)
    exact = Stage(host, {}, [second], dtype="float32", frame=one.frame)
    weights = [stage.model.get_input_embeddings().weight for stage in (one, other, exact)]
    assert weights[0].data_ptr() == weights[1].data_ptr()
    assert torch.equal(weights[2], host.tensors.read(host.anatomy.embedding)), "rounded on the way"


def test_rows_have_few_lengths() -> None:
    """Libraries keep what they make for a length: with every length, memory grows without end."""
    rows, cpu = Rows(packed=True), torch.device("cpu")
    found = [rows.inputs([(7,) * size], cpu) for size in range(2, 257)]
    assert {ids["input_ids"].shape[1] for ids, _ in found} == set(range(FILL, 257, FILL))
    assert [int((labels >= 0).sum()) for _, labels in found] == list(range(1, 256))


def test_factors_learn_what_their_product_would(models: dict[str, Path]) -> None:
    """Gradients of the factors agree with those of autograd through the plain formula."""
    torch.manual_seed(0)
    for module in (torch.nn.Linear(6, 4), Conv1D(4, 6)):
        module = module.double()
        holder = torch.nn.Sequential(module)
        generator = torch.Generator().manual_seed(1)
        factors = dict(add_factors(holder, 3, generator))
        left, right = factors["0.weight.left"], factors["0.weight.right"]
        x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.equal(holder(x), module(x)), "factors must change nothing at first"
        with torch.no_grad():
            left.normal_()
            right.normal_()
        weight = module.weight + left @ right
        weight = weight if isinstance(module, Conv1D) else weight.T
        wanted = torch.autograd.grad((x @ weight + module.bias).square().sum(), (x, left, right))
        found = torch.autograd.grad(holder(x).square().sum(), (x, left, right))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("rank", "section"), [(None, 16_384), (4, 16_384), (4, 300)])
def test_training_that_was_killed_goes_on_to_the_same_organ(
    rank: int | None,
    section: int,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lessons, "SECTION_TOKENS", section)
    host, texts = open_checkpoint(models["llama"]), sentences(60, seed=1)
    recipe = replace(RECIPE, rank=rank, tokens=2_000, patience=10)
    validation = sentences(4, seed=9)
    wanted = train(host, SPAN, texts, recipe, validation=validation)
    monkeypatch.setattr(resumption, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(host, SPAN, texts, recipe, validation=validation, work=tmp_path, advance=dies())
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    again: list[int] = []
    found = train(
        host,
        SPAN,
        texts,
        recipe,
        validation=validation,
        work=tmp_path,
        advance=lambda tokens, loss: again.append(tokens),
    )
    assert len(again) < len(wanted.losses), "it began anew"
    assert sum(again) == found.facts.tokens
    assert found.losses == wanted.losses
    assert found.validation == wanted.validation
    for name in wanted.tensors.names():
        assert torch.equal(found.tensors.read(name), wanted.tensors.read(name))
    assert list(tmp_path.iterdir()) == [kept], "the organ is not written yet"
    found.finished()
    assert list(tmp_path.iterdir()) == []


def dies(steps: int = 6) -> Callable[[int, float], None]:
    """Told of progress, and dead after some of it."""
    told = iter(range(1, steps))

    def die(tokens: int, loss: float) -> None:
        if next(told, None) is None:
            raise KeyboardInterrupt

    return die


def test_no_other_training_goes_on_from_a_state(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same blocks, but other ones of them are to learn from, or another model about them."""
    monkeypatch.setattr(resumption, "SAVE_SECONDS", 0.0)
    host, texts = open_checkpoint(models["llama"]), sentences(12, seed=1)
    recipe = replace(RECIPE, tokens=2_000, patience=10, block_tokens=256)  # one a document
    with pytest.raises(KeyboardInterrupt):
        train(host, SPAN, texts[:10], recipe, validation=texts[10:], work=tmp_path, advance=dies())
    (kept,) = tmp_path.iterdir()
    config = dict(host.config) | {"rms_norm_eps": 0.1}
    others = (
        (host, texts[:6], texts[6:]),
        (replace(host, config=config), texts[:10], texts[10:]),
    )
    for base, learned, read in others:
        told: list[int] = []
        train(base, SPAN, learned, recipe, validation=read, work=tmp_path,
              advance=lambda tokens, loss, told=told: told.append(tokens)).finished()  # fmt: skip
        assert told[0] < 300, "it went on from the other's state"
        assert list(tmp_path.iterdir()) == [kept]


def test_a_state_that_nobody_goes_on_from_is_removed_in_time(tmp_path: Path) -> None:
    kept: list[Path] = []
    for key, run in (("a", ""), ("b", ""), ("c", "private")):
        resumption.Resumption(tmp_path, key).save(
            resumption.Progress(tokens=5, run=run), {"x": torch.zeros(2)}
        )
        kept.append(tmp_path / f"training-{key}.safetensors")
    old = time.time() - (resumption.KEPT_DAYS + 1) * 86_400
    for path in (kept[1], kept[2]):
        os.utime(path, (old, old))
    resumption.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [kept[0], kept[2]], "what was paid for stays"


def test_nothing_is_chosen_by_documents_of_which_nothing_can_be_read(
    models: dict[str, Path],
) -> None:
    host, texts = open_checkpoint(models["llama"]), sentences(8, seed=1)
    with pytest.raises(RecordsError, match="kept back to choose by"):
        train(host, SPAN, texts, RECIPE, validation=["the", ""])


def test_validation_stops_in_time_and_keeps_the_best(models: dict[str, Path]) -> None:
    """Few records, many passes: the organ that is kept is the best on the validation part."""
    host = open_checkpoint(models["llama"])
    recipe = Recipe(rank=None, epochs=60.0, learning_rate=2e-2, block_tokens=32, threads=1)
    trained = train(
        host, SPAN, sentences(3, seed=1), recipe, validation=sentences(6, seed=2, topic=(0, 12))
    )
    assert len(trained.validation) < 11, "nothing stopped it"
    assert trained.validation[-1] > min(trained.validation)


def test_a_budget_of_seconds_ends_in_time(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = open_checkpoint(models["llama"])
    clock = SimpleNamespace(monotonic=itertools.count().__next__)  # a second at each look
    monkeypatch.setattr("not_core.learning.training.time", clock)
    monkeypatch.setattr("not_core.learning.lessons.time", clock)

    def steps(seconds: float) -> int:
        recipe = Recipe(rank=4, seconds=seconds, block_tokens=32, threads=1)
        return train(host, SPAN, sentences(50, seed=1), recipe).facts.steps

    assert steps(1) == 1, "one step in however little time"
    assert 1 < steps(30) < steps(60) < 60
    recipe = Recipe(rank=4, seconds=1, block_tokens=32, threads=1)
    with pytest.raises(RecordsError):
        train(host, SPAN, ["the"], recipe)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])  # the last drops out in training mode
def test_activations_that_are_computed_again_are_not_kept(family: str, tmp_path: Path) -> None:
    save_tokenizer(family_model(tmp_path, family))
    host, texts = open_checkpoint(tmp_path), sentences(20, seed=1)
    recipe = replace(RECIPE, tokens=500, rank=4)
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    found = []
    for again in (False, True):
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made = train(host, SPAN, texts, replace(recipe, gradient_checkpointing=again))
        found.append((made.losses, kept))
    assert found[0][0] == found[1][0]
    assert found[1][1] < found[0][1] / 2


def test_a_budget_of_time_makes_little_ready_in_vain(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    recipe = Recipe(rank=4, seconds=100, block_tokens=32, step_tokens=64)
    host = open_checkpoint(models["llama"])
    lessons = Lessons(host.tokenizer, sentences(50, seed=1), (), recipe)
    budget = Budget(recipe, lessons.there, started=0)
    sizes = []
    for section in lessons.sections(budget):
        sizes.append(sum(map(lessons.tokens, section)))
        now += sizes[-1] / 100  # 10,000 tokens in all
        if budget.used(0) >= 1:
            break
    assert sizes[:3] == [pytest.approx(one, abs=64) for one in (1_024, 2_048, 4_096)]
    assert 10_000 <= sum(sizes) <= 10_000 + FIRST_TOKENS + 64


@pytest.mark.filterwarnings("ignore")  # tracing instantiates what is not for that
def test_compiled_layers_learn_the_same(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    compiled: list[torch.nn.Module] = []
    compile_ = torch.nn.Module.compile

    def traced(module: torch.nn.Module) -> None:  # inductor needs a compiler of the machine's
        compiled.append(module)
        compile_(module, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    host, texts = open_checkpoint(models["llama"]), sentences(50, seed=1)
    recipe = replace(RECIPE, tokens=500, rank=4, precision="bfloat16")
    plain = train(host, SPAN, texts, recipe)
    assert not compiled
    again = train(host, SPAN, texts, replace(recipe, compiled=True))
    assert len(compiled) == host.layers - SPAN.start
    assert again.losses == pytest.approx(plain.losses, rel=1e-2)
    assert again.losses[-1] < again.losses[0]


def test_layers_that_do_not_compile_are_refused(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise FileNotFoundError("c++")

    torch.compiler.reset()
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda one: compile_(one, backend=broken))
    host = open_checkpoint(models["llama"])
    with pytest.raises(TrainingError, match=r"do not compile .*train without --compile"):
        train(host, SPAN, sentences(9, seed=1), replace(RECIPE, tokens=100, rank=4, compiled=True))


@pytest.mark.parametrize(
    ("said", "able", "expected"),
    [
        ("bfloat16", {}, "bfloat16"),
        ("float32", {"amx_bf16": True}, "float32"),
        ("auto", {"avx512_bf16": True}, "bfloat16"),
        ("auto", {"amx_bf16": True}, "bfloat16"),
        ("auto", {"avx2": True}, "float32"),
    ],
)
def test_the_precision_is_the_devices_unless_it_is_said(
    said: str, able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORGAN_PRECISION", said)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    cpu = torch.device("cpu")
    assert precision_of("auto", cpu) == expected
    assert precision_of("float32", cpu) == "float32"
    monkeypatch.setenv("ORGAN_PRECISION", "half")
    with pytest.raises(TrainingError, match="neither float32 nor bfloat16"):
        precision_of("auto", cpu)


def test_bfloat16_that_a_gpu_only_emulates_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.delenv("ORGAN_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert precision_of("auto", torch.device("cuda")) == "float32"
