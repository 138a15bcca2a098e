"""Compositions that are measured together read as whole models do."""

from pathlib import Path

import pytest
from families import LAYERS, family_model
from surgeries import organ_of, shifted

from not_core.errors import RecordsError
from not_core.learning.evaluation import read_blocks
from not_core.learning.readings import read_plans
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.plan import Graft, Plan

DOCUMENTS = [[(3, 5, 7, 9, 11, 2, 4, 8), (9, 8, 7)], [(12, 13, 14, 15, 16)]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_oss", "qwen3_moe"])
def test_organs_of_several_donors_read_as_alone(family: str, tmp_path: Path) -> None:
    host = open_checkpoint(family_model(tmp_path, family))
    sources = {
        name: organ_of(host, 2, 4, change=shifted(size)).source
        for name, size in (("a", 0.02), ("b", 0.05))
    }
    put = {name: plans.transplant(LAYERS, name, 2, mode="replace", position=2) for name in sources}
    wanted: dict[str, Plan] = {
        **put,
        "both": plans.compose(
            LAYERS,
            [
                Graft(organ="a", count=2, mode="replace", position=2),
                Graft(organ="b", count=2, mode="insert", position=LAYERS),
            ],
        ),
        "nothing": plans.identity(LAYERS),
        "shorter": Plan(plans.identity(LAYERS).layers[:2]),
    }
    if family in {"gemma3_text", "gpt_oss", "qwen3_moe"}:  # their kinds of layers take turns
        del wanted["shorter"]
    found = read_plans(host, sources, wanted, DOCUMENTS)
    assert found.before == read_blocks(assemble(plans.identity(LAYERS), host, {}), DOCUMENTS)
    for name, plan in wanted.items():
        assert found.after[name] == read_blocks(assemble(plan, host, sources), DOCUMENTS), name
    assert found.after["nothing"] == found.before
    assert found.after["a"] != found.after["b"] != found.before


def test_no_text_is_an_error(tmp_path: Path) -> None:
    host = open_checkpoint(family_model(tmp_path, "gpt2"))
    with pytest.raises(RecordsError, match="two tokens"):
        read_plans(host, {}, {"host": plans.identity(LAYERS)}, [[]])
