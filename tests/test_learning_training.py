import shutil
from pathlib import Path

import pytest
import torch
from conftest import save_tokenizer, sentences
from families import all_families, family_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from not_core.errors import PlanError, RecordsError, TrainingError
from not_core.learning.evaluation import read_losses
from not_core.learning.training import Recipe, default_span, train
from not_core.manifest import Span
from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.difference import difference
from not_core.surgery.organ import Label, Organ, describe, extract
from not_core.surgery.tensors import tensor_digest

SPAN = Span(start=2, stop=4)
RECIPE = Recipe(tokens=6_000, learning_rate=1e-2, block_tokens=32, batch_blocks=4, threads=1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_helps_in_the_host_and_touches_nothing_else(
    family: str, models: dict[str, Path]
) -> None:
    host = open_checkpoint(models[family])

    def mapped() -> list[str]:
        return [tensor_digest(host.tensors.read(name, shared=True)) for name in host.names]

    before_bytes = mapped()
    texts = sentences(200, seed=1, topic=(0, 12))
    trained = train(host, SPAN, texts, RECIPE)
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
        Recipe(tokens=300, block_tokens=16, threads=1),
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


@pytest.mark.parametrize("layers", [1, 2, 3, 12, 30])
def test_the_default_span_lies_inside_the_model(layers: int) -> None:
    span = default_span(layers)
    assert 0 <= span.start < span.stop <= layers


@pytest.mark.parametrize(
    "bad", [{"tokens": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"seed": -1}]
)
def test_a_recipe_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Recipe(**bad)


@pytest.mark.parametrize("family", all_families())
def test_every_family_trains_in_place_and_loads_again(family: str, tmp_path: Path) -> None:
    """Experts that are one tensor in memory and many on disk come out as they are stored."""
    folder = family_model(tmp_path / "host", family)
    save_tokenizer(folder)
    host = open_checkpoint(folder)
    recipe = Recipe(tokens=64, block_tokens=16, threads=1, learning_rate=1e-2)
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
    assert changed.changed > changed.tensors / 3
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
