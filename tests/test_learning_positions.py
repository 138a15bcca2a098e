"""The scan over positions says what whole models say, and does less."""

from pathlib import Path

import pytest
import torch
from families import LAYERS, all_families, family_model
from surgeries import organ_of, shifted

from not_core.errors import PlanError, RecordsError
from not_core.learning.evaluation import DocumentLoss, Reading, read_blocks
from not_core.learning.positions import ORGAN, Scan, positions, scan
from not_core.learning.text_blocks import token_nats
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint

DOCUMENTS = [
    [(3, 5, 7, 9, 11, 2, 4, 8, 6, 6, 1), (9, 8, 7)],
    [],
    [(12, 13, 14, 15, 16)],
]


@pytest.mark.parametrize("mode", ["replace", "insert"])
@pytest.mark.parametrize("family", all_families())
def test_every_position_reads_as_the_whole_model_does(
    family: str, mode: plans.Mode, tmp_path: Path
) -> None:
    host = open_checkpoint(family_model(tmp_path, family))
    organ = organ_of(host, 1, 3, change=shifted(0.02))
    found = scan(host, organ.source, mode, DOCUMENTS)
    assert list(found.after) == list(positions(LAYERS, 2, mode))
    assert not found.refused
    assert found.before == read_blocks(assemble(plans.identity(LAYERS), host, {}), DOCUMENTS)
    for position, reading in found.after.items():
        plan = plans.transplant(LAYERS, ORGAN, 2, mode=mode, position=position)
        expected = read_blocks(assemble(plan, host, {ORGAN: organ.source}), DOCUMENTS)
        assert reading == expected, position
    assert len({reading.perplexity for reading in found.after.values()}) == len(found.after)


def test_the_layers_below_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = open_checkpoint(family_model(tmp_path, "llama"))
    organ = organ_of(host, 1, 3, change=shifted(0.02))
    ran: list[int] = []

    def counted(model: torch.nn.Module, blocks: list[tuple[int, ...]]) -> torch.Tensor:
        stack = model.get_submodule("model.layers")
        real = [layer for layer in stack if type(layer).__name__ == "LlamaDecoderLayer"]
        hooks = [layer.register_forward_hook(lambda *_: ran.append(1)) for layer in real]
        found = token_nats(model, blocks)  # type: ignore[arg-type]
        for hook in hooks:
            hook.remove()
        return found

    monkeypatch.setattr("not_core.learning.readings.token_nats", counted)
    scan(host, organ.source, "insert", DOCUMENTS)
    batches = 3
    suffixes = sum(2 + LAYERS - position for position in range(LAYERS + 1))
    assert len(ran) == batches * (LAYERS + suffixes)
    assert len(ran) < batches * (LAYERS + (LAYERS + 1) * (LAYERS + 2)) * 0.7


def test_positions_where_it_would_run_otherwise_are_named(tmp_path: Path) -> None:
    host = open_checkpoint(family_model(tmp_path, "gpt2", scale_attn_by_inverse_layer_idx=True))
    organ = organ_of(host, 1, 3, change=shifted(0.02))
    found = scan(host, organ.source, "replace", DOCUMENTS)
    assert list(found.after) == [1]
    assert sorted(found.refused) == [0, 2, 3, 4]
    assert all("attn.scaling" in why for why in found.refused.values())
    plan = plans.transplant(LAYERS, ORGAN, 2, mode="replace", position=1)
    expected = read_blocks(assemble(plan, host, {ORGAN: organ.source}), DOCUMENTS)
    assert found.after[1] == expected
    assert found.best == 1
    nowhere = scan(host, organ_of(host, 0, 1, change=shifted(0.02)).source, "insert", DOCUMENTS)
    with pytest.raises(PlanError, match="fits at no position"):
        nowhere.best  # noqa: B018


@pytest.mark.parametrize(
    ("nats", "best"),
    [
        ({0: 9.0, 2: 4.0, 5: 7.0}, 2),
        ({0: 9.0, 1: 4.0, 3: 4.0}, 1),  # the first of equal ones
        ({0: 9.0, 4: 9.5}, 0),  # the best of those that make it worse
    ],
)
def test_the_best_is_the_lowest(nats: dict[int, float], best: int) -> None:
    before, *after = (
        Reading((DocumentLoss(value, 8), DocumentLoss(1.0, 2))) for value in (5.0, *nats.values())
    )
    assert Scan(before, dict(zip(nats, after, strict=True)), {}).best == best


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    host = open_checkpoint(family_model(tmp_path, "gpt2"))
    with pytest.raises(RecordsError, match="two tokens"):
        scan(host, organ_of(host, 1, 3, change=shifted(0.02)).source, "insert", [[], []])
