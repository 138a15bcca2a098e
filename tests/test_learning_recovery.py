"""Recovery: what learns and what stays, that harm is not kept, and what the lineage says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, sentences, write_jsonl
from families import all_families, family_model
from safetensors.torch import load_file, save_file
from surgeries import cut_of, organ_of, put, shifted
from transformers import AutoModelForCausalLM

from not_core.errors import CheckpointError, OrganError, RecordsError, TrainingError
from not_core.learning.evaluation import read_losses
from not_core.learning.norms import norms_of
from not_core.learning.recipe import Recipe
from not_core.learning.recovery import assembled, places, recover, write
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery import graft as grafts
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.lineage import What, lineage_of
from not_core.surgery.plan import identity

RECIPE = Recipe(rank=4, epochs=3.0, learning_rate=5e-3, block_tokens=32, threads=1)
TEXTS = sentences(6, seed=1, topic=(0, 12))
ALL: tuple[What, ...] = ("organ", "organ-norms", "norms", "all")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(make_model(tmp_path_factory.mktemp("host") / "m", "llama", layers=4))


@pytest.fixture(scope="module")
def graft(host: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two organs apart: one in the place of layer 1, one put in above layer 2: 0 A 2 B 3."""
    out = tmp_path_factory.mktemp("graft") / "g"
    first, second = organ_of(host, 1, 2, "a", shifted(0.02)), organ_of(host, 2, 3, "b")
    return open_checkpoint(put(host, out, (first, "replace", 1), (second, "insert", 3)))


def changed(before: Checkpoint, after: Checkpoint) -> set[str]:
    assert before.names == after.names
    ours, theirs = before.tensor_digests, after.tensor_digests
    return {name for name in before.names if ours[name] != theirs[name]}


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("what", ALL)
def test_what_was_asked_for_learns_and_nothing_else(
    what: What, rank: int | None, graft: Checkpoint, tmp_path: Path
) -> None:
    done = recover(graft, TEXTS, replace(RECIPE, rank=rank), what=what)
    write(graft, done, tmp_path / "out")
    after = open_checkpoint(tmp_path / "out")
    found = changed(graft, after)
    layers = {1, 3} if what.startswith("organ") else set(range(5))
    assert {graft.anatomy.layer_of(name)[0] for name in found} == layers  # type: ignore[index]
    if what.endswith("norms"):
        assert len(found) == 2 * len(layers)
        assert all("norm" in name for name in found)
    elif rank:
        assert not any("norm" in name for name in found)
        assert len(found) == 7 * len(layers)
    else:
        assert len(found) == 9 * len(layers)
    assert (done.facts.training.rank is None) == (rank is None or what.endswith("norms"))
    # What stands on disk is what was measured in memory, and it loads without our code.
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in assembled(graft, done).state_dict().items():
        assert torch.equal(stored[name], tensor), name


def test_recovery_helps_on_the_records_words(graft: Checkpoint) -> None:
    recipe = replace(RECIPE, rank=8, epochs=20.0, patience=20, learning_rate=1e-2)
    done = recover(graft, TEXTS, recipe, what="all", validation=sentences(3, 2, (0, 12)))
    assert done.better
    held_out = sentences(10, seed=3, topic=(0, 12))
    before = read_losses(
        assemble(identity(graft.layers), graft, {}), graft.tokenizer, held_out
    ).perplexity
    after = read_losses(assembled(graft, done), graft.tokenizer, held_out).perplexity
    assert after < 0.95 * before


@pytest.mark.parametrize(
    ("what", "rank", "rate"), [("organ", 4, 0.05), ("organ", None, 0.9), ("norms", None, 0.9)]
)
def test_when_every_step_does_harm_nothing_is_changed(
    what: What, rank: int | None, rate: float, graft: Checkpoint, tmp_path: Path
) -> None:
    """Learn some words and be read on others, at an absurd learning rate."""
    recipe = replace(RECIPE, rank=rank, epochs=30.0, learning_rate=rate, warmup=0.0)
    others = sentences(12, seed=2, topic=(25, 40))
    done = recover(graft, TEXTS, recipe, what=what, validation=others)
    assert done.validation[0] < min(done.validation[1:])
    assert not done.better
    whole = assemble(identity(graft.layers), graft, {})
    read = read_losses(whole, graft.tokenizer, others, block_tokens=32)
    assert done.validation[0] == pytest.approx(read.perplexity, rel=1e-4)
    for name, tensor in assembled(graft, done).state_dict().items():
        assert torch.equal(whole.state_dict()[name], tensor)
    written = write(graft, done, tmp_path / "out")
    assert written.weights == graft.weights_digest
    assert (tmp_path / "out" / "organs.json").read_bytes() == (
        graft.origin / "organs.json"
    ).read_bytes()
    grafts.excise(open_checkpoint(tmp_path / "out"), "unclaimed/b", tmp_path / "less")


def test_training_of_an_organ_reads_before_its_first_step_too(host: Checkpoint) -> None:
    recipe = replace(RECIPE, rank=None, epochs=30.0, learning_rate=0.9, warmup=0.0)
    span = Span(start=1, stop=3)
    trained = train(host, span, TEXTS, recipe, validation=sentences(4, 2, (25, 40)))
    plain = cut_of(host, 1, 3).tensors
    for name in plain.names():
        assert torch.equal(trained.tensors.read(name), plain.read(name))


def test_the_lineage_tells_of_a_recovery_and_gives_all_back(
    host: Checkpoint, graft: Checkpoint, tmp_path: Path
) -> None:
    first = recover(graft, TEXTS, RECIPE)
    write(graft, first, tmp_path / "one")
    one = open_checkpoint(tmp_path / "one")
    lineage = lineage_of(one)
    facts = lineage.recoveries()[first.facts.digest]
    assert facts == first.facts
    assert (facts.what, facts.layers, facts.graft) == ("organ", (1, 3), graft.weights_digest)
    assert facts.privacy.mechanism == "none"
    assert lineage.tenants() == lineage_of(graft).tenants()
    assert places(one, "organ") == (1, 3)
    with pytest.raises(OrganError, match="tuned since by recovery"):
        grafts.excise(one, "unclaimed/a", tmp_path / "x")
    grafts.excise(one, "recovery", tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    assert back.weights_digest == graft.weights_digest
    assert (back.origin / "organs.json").read_bytes() == (graft.origin / "organs.json").read_bytes()
    # A second one lies over the first, which then holds until the second is gone.
    second = recover(one, TEXTS, RECIPE, what="norms")
    write(one, second, tmp_path / "two")
    two = open_checkpoint(tmp_path / "two")
    with pytest.raises(OrganError, match="2 organs in this model are called recovery"):
        grafts.excise(two, "recovery", tmp_path / "x")
    with pytest.raises(OrganError, match=f"by recovery {second.facts.digest[:12]}"):
        grafts.excise(two, first.facts.digest, tmp_path / "x")
    grafts.excise(two, second.facts.digest[:12], tmp_path / "one-again")
    assert open_checkpoint(tmp_path / "one-again").weights_digest == one.weights_digest
    grafts.excise(back, "unclaimed/a", tmp_path / "less")
    grafts.excise(open_checkpoint(tmp_path / "less"), "unclaimed/b", tmp_path / "host")
    assert open_checkpoint(tmp_path / "host").weights_digest == host.weights_digest
    assert not (tmp_path / "host" / "organs.json").exists()


def test_an_organ_put_in_after_a_recovery_comes_out_alone(
    host: Checkpoint, graft: Checkpoint, tmp_path: Path
) -> None:
    write(graft, recover(graft, TEXTS, RECIPE, what="all"), tmp_path / "tuned")
    tuned = open_checkpoint(tmp_path / "tuned")
    third = organ_of(host, 0, 1, "c", shifted(0.1))
    out = tmp_path / "more"
    put(tuned, out, (third, "replace", 0), allow=frozenset({"base"}))
    more = open_checkpoint(out)
    grafts.excise(more, "unclaimed/c", tmp_path / "back")
    assert open_checkpoint(tmp_path / "back").weights_digest == tuned.weights_digest


def test_without_the_layers_before_a_recovery_stays(graft: Checkpoint, tmp_path: Path) -> None:
    write(graft, recover(graft, TEXTS, RECIPE), tmp_path / "out", keep_replaced=False)
    assert not (tmp_path / "out" / "replaced").exists()
    with pytest.raises(OrganError, match="were not kept"):
        grafts.excise(open_checkpoint(tmp_path / "out"), "recovery", tmp_path / "x")


def test_the_same_records_and_seed_give_the_same_recovery(graft: Checkpoint) -> None:
    one, same = (recover(graft, TEXTS, RECIPE).facts for _ in range(2))
    other = recover(graft, TEXTS[1:], RECIPE).facts
    assert one.digest == same.digest != other.digest


def test_what_cannot_be_recovered_is_refused(
    host: Checkpoint, graft: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(OrganError, match="no organ is in"):
        recover(host, TEXTS, RECIPE)
    with pytest.raises(RecordsError, match="two tokens"):
        recover(graft, ["the"], RECIPE)
    with pytest.raises(ValueError, match="in-situ"):
        recover(graft, TEXTS, replace(RECIPE, scaffold="alone"))
    with pytest.raises(ValueError, match="no rank"):
        replace(RECIPE, learns="norms")
    write(graft, recover(graft, TEXTS, RECIPE, what="organ-norms"), tmp_path / "edited")
    stored = load_file(tmp_path / "edited" / "model.safetensors")
    stored["model.norm.weight"][0] += 1
    save_file(stored, tmp_path / "edited" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="was changed after"):
        recover(open_checkpoint(tmp_path / "edited"), TEXTS, RECIPE)


@pytest.mark.parametrize("family", all_families())
def test_the_norms_of_every_family_are_found(family: str, tmp_path: Path) -> None:
    host = open_checkpoint(family_model(tmp_path / "host", family))
    model = assemble(identity(host.layers), host, {})
    layer: Any = model.get_submodule(host.anatomy.layers + "2")
    found = dict(norms_of(layer))
    assert set(found) == {name for name, _ in layer.named_parameters() if _is_norm(name)}
    assert all(parameter.dim() == 1 for parameter in found.values())


def _is_norm(name: str) -> bool:
    """By their names, which the code does not go by."""
    module = name.rpartition(".")[0].rpartition(".")[2]
    return "norm" in module or module.startswith("ln_")


def test_a_layer_without_norms_is_refused() -> None:
    with pytest.raises(TrainingError, match="no norm that learns"):
        list(norms_of(torch.nn.Linear(2, 2)))


def test_the_command_recovers_a_graft_and_excise_undoes_it(
    organ: Callable[..., dict[str, Any]],
    call: Callable[..., tuple[int, str, str]],
    graft: Checkpoint,
    host: Checkpoint,
    tmp_path: Path,
) -> None:
    records = write_jsonl(tmp_path / "r.jsonl", sentences(20, seed=1, topic=(0, 12)))
    out = tmp_path / "out"
    told = organ(
        *("recover", graft.origin, "--data", records, "--out", out, "--what", "organ"),
        *("--rank", 4, "--epochs", 2, "--threads", 1),
    )
    assert (told["records"], told["validation_records"]) == (16, 4)
    assert (told["privacy"], told["layers"], told["note"]) == ("none", [1, 3], None)
    assert min(told["validation"]) < told["validation"][0]
    seen = organ("inspect", out)
    assert (seen["lineage"], seen["weights"]) == ("current", told["weights"])
    assert {name: one["layers"] for name, one in seen["organs"].items()} == {
        "unclaimed/a": [1],
        "unclaimed/b": [3],
    }
    (one,) = seen["recoveries"].values()
    assert (one["what"], one["layers"], one["privacy"]) == ("organ", [1, 3], "none")
    assert '"mechanism":"none"' in (out / "organs.json").read_text()
    assert json.loads((out / "organs.json").read_text())["weights"] == told["weights"]
    back = organ("excise", out, "--organ", "recovery", "--out", tmp_path / "back")
    assert back["weights"] == graft.weights_digest
    code, _, err = call("excise", out, "--organ", "unclaimed/a", "--out", tmp_path / "x")
    assert (code, "take that out first" in " ".join(err.split())) == (1, True)
    for model, data, match in (
        (host.origin, records, "no organ is in"),
        (graft.origin, tmp_path / "none.jsonl", "no file or folder"),
        (graft.origin, write_jsonl(tmp_path / "1.jsonl", TEXTS[:1]), "none is left to train on"),
    ):
        code, _, err = call("recover", model, "--data", data, "--out", tmp_path / "x")
        assert (code, match in " ".join(err.split())) == (1, True), err
        assert not (tmp_path / "x").exists()
    code, _, err = call("recover", graft.origin, "--data", records, "--out", out)
    assert (code, "exists" in err) == (1, True)
    code, _, _ = call(
        *("recover", graft.origin, "--data", records, "--out", tmp_path / "x"),
        *("--tokens", 5, "--epochs", 1),
    )
    assert code == 2
