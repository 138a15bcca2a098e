from pathlib import Path

import pytest
import torch
from surgeries import cut_of, logits
from transformers import AutoModelForCausalLM

from not_core.errors import PlanError
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint

FAMILIES = ("llama", "gpt2")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_organ_put_back_gives_identical_logits(family: str, models: dict[str, Path]) -> None:
    host = open_checkpoint(models[family])
    organ = cut_of(host, 2, 4)
    plan = plans.transplant(6, "o", 2, mode="replace", position=2)
    stock = AutoModelForCausalLM.from_pretrained(models[family])
    assert torch.equal(logits(assemble(plan, host, {"o": organ.source})), logits(stock))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_organ_put_elsewhere_gives_other_logits(family: str, models: dict[str, Path]) -> None:
    host = open_checkpoint(models[family])
    plan = plans.transplant(6, "o", 2, mode="replace", position=3)
    grafted = assemble(plan, host, {"o": cut_of(host, 2, 4).source})
    stock = AutoModelForCausalLM.from_pretrained(models[family])
    assert not torch.allclose(logits(grafted), logits(stock), atol=1e-3)


def test_the_wrapper_runs_the_organ_alone(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    model = assemble(plans.alone("o", 2), host, {"o": cut_of(host, 2, 4).source})
    assert len(model.model.layers) == 2


def test_a_source_that_is_not_there_is_named(models: dict[str, Path]) -> None:
    plan = plans.Plan((plans.Layer("host", 0), plans.Layer("absent", 0)))
    with pytest.raises(PlanError, match="absent, which is not there"):
        assemble(plan, open_checkpoint(models["llama"]), {})


def test_a_layer_that_is_not_there_is_named(models: dict[str, Path]) -> None:
    plan = plans.Plan((plans.Layer("host", 0), plans.Layer("host", 6)))
    with pytest.raises(PlanError, match="takes layer 6"):
        assemble(plan, open_checkpoint(models["llama"]), {})
