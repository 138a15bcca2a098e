from pathlib import Path

import pytest
import torch
from surgeries import cut_of

from not_core.errors import PlanError
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint


def test_an_organ_can_stand_alone(models: dict[str, Path]) -> None:
    """The paper's wrapper: between the host's embeddings and head, arXiv:2601.13580."""
    host = open_checkpoint(models["llama"])
    organ = cut_of(host, 2, 4)
    model = assemble(plans.Plan(plans.whole("o", 2)), host, {"o": organ.source})
    assert len(model.model.layers) == 2
    for place, layer in enumerate(model.model.layers):
        weight = organ.tensors.read(f"{place}.mlp.up_proj.weight")
        assert torch.equal(layer.mlp.up_proj.weight, weight)


def test_a_source_that_is_not_there_is_named(models: dict[str, Path]) -> None:
    plan = plans.Plan((plans.Layer("host", 0), plans.Layer("absent", 0)))
    with pytest.raises(PlanError, match="absent, which is not there"):
        assemble(plan, open_checkpoint(models["llama"]), {})


def test_a_layer_that_is_not_there_is_named(models: dict[str, Path]) -> None:
    plan = plans.Plan((plans.Layer("host", 0), plans.Layer("host", 6)))
    with pytest.raises(PlanError, match="takes layer 6"):
        assemble(plan, open_checkpoint(models["llama"]), {})
