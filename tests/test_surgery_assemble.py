import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from not_core.errors import OutputExistsError, PlanError
from not_core.manifest import Span
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble, write_model
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.organ import Label, Organ, describe, extract

FAMILIES = ("llama", "gpt2")
IDS = torch.tensor([[3, 5, 7, 9, 11, 2, 4]])


def organ_of(folder: Path, start: int, stop: int) -> Organ:
    host, span = open_checkpoint(folder), Span(start=start, stop=stop)
    weights = extract(host, span)
    return Organ(describe(host, span, weights, Label(name="o"), training=None), weights)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_an_organ_put_back_gives_identical_logits(family: str, models: dict[str, Path]) -> None:
    host = open_checkpoint(models[family])
    organ = organ_of(models[family], 2, 4)
    plan = plans.transplant(6, "o", 2, mode="replace", position=2)
    stock = AutoModelForCausalLM.from_pretrained(models[family])
    assert torch.equal(logits(assemble(plan, host, {"o": organ})), logits(stock))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_organ_put_elsewhere_gives_other_logits(family: str, models: dict[str, Path]) -> None:
    host = open_checkpoint(models[family])
    plan = plans.transplant(6, "o", 2, mode="replace", position=3)
    grafted = assemble(plan, host, {"o": organ_of(models[family], 2, 4)})
    stock = AutoModelForCausalLM.from_pretrained(models[family])
    assert not torch.allclose(logits(grafted), logits(stock), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("mode", "layers"), [("replace", 6), ("insert", 8)])
def test_a_written_graft_loads_without_us_and_runs_every_layer(
    family: str, mode: plans.Mode, layers: int, models: dict[str, Path], tmp_path: Path
) -> None:
    host = open_checkpoint(models[family])
    organ = organ_of(models[family], 1, 3)
    plan = plans.transplant(6, "o", 2, mode=mode, position=3)
    write_model(plan, host, {"o": organ}, tmp_path / "grafted")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "grafted")
    assert torch.equal(logits(loaded), logits(assemble(plan, host, {"o": organ})))
    ran = []
    body = loaded.model.layers if family == "llama" else loaded.transformer.h
    for block in body:
        block.register_forward_hook(lambda *_: ran.append(1))
    logits(loaded)
    assert len(ran) == len(body) == layers == loaded.config.num_hidden_layers
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = loaded.generate(IDS, attention_mask=torch.ones_like(IDS), use_cache=True, **greedy)
    plain = loaded.generate(IDS, attention_mask=torch.ones_like(IDS), use_cache=False, **greedy)
    assert cached.shape[1] == IDS.shape[1] + 12
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_identity_plan_keeps_the_digest(
    family: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("not_core.surgery.assemble.SHARD_BYTES", 20_000)
    host = open_checkpoint(models[family])
    write_model(plans.identity(6), host, {}, tmp_path / "copy")
    copy = open_checkpoint(tmp_path / "copy")
    assert len(list((tmp_path / "copy").glob("model-*.safetensors"))) > 2
    assert copy.weights_digest == host.weights_digest
    assert copy.tokenizer_digest == host.tokenizer_digest is not None
    stock = AutoModelForCausalLM.from_pretrained(models[family])
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "copy")), logits(stock)
    )


def test_the_wrapper_runs_the_organ_alone(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    model = assemble(plans.alone("o", 2), host, {"o": organ_of(models["llama"], 2, 4)})
    assert len(model.model.layers) == 2


def test_a_failed_graft_leaves_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    host = open_checkpoint(models["llama"])
    plan = plans.Plan((plans.Layer("host", 0), plans.Layer("absent", 0)))
    with pytest.raises(PlanError, match="not there"):
        write_model(plan, host, {}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_place_is_not_overwritten(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(OutputExistsError):
        write_model(plans.identity(6), open_checkpoint(models["llama"]), {}, tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_lineage_names_every_layer(models: dict[str, Path], tmp_path: Path) -> None:
    organ = organ_of(models["llama"], 0, 1)
    plan = plans.transplant(6, organ.manifest.digest, 1, mode="insert", position=6)
    write_model(
        plan,
        open_checkpoint(models["llama"]),
        {organ.manifest.digest: organ},
        tmp_path / "grafted",
    )
    lineage = json.loads((tmp_path / "grafted" / "organs.json").read_text())
    assert lineage["layers"][-1] == [organ.manifest.digest, 0]
    assert len(lineage["layers"]) == 7
