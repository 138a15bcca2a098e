from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sentences
from families import all_families, family_model
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from not_core.learning import attention
from not_core.learning.attention import NAME, attend, quicken
from not_core.learning.recipe import Recipe
from not_core.learning.stage import Stage
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.plan import HOST, Layer, identity

PLACES, SCALE = 40, 0.3


class Causal(torch.nn.Module):
    is_causal, num_key_value_groups = True, 3


def heads(rows: int, count: int, width: int = 8) -> torch.Tensor:
    return torch.randn(rows, count, PLACES, width, dtype=torch.bfloat16, requires_grad=True)


def documents(*sizes: int) -> torch.Tensor:
    """What places of packed documents see, shape ``(places, places)``."""
    return torch.block_diag(*(torch.ones(size, size) for size in sizes)).bool().tril()


MASKS = {
    "causal": None,
    "documents": documents(9, 20, 11)[None, None],
    "window": documents(PLACES).triu(-5)[None, None],
    "rows": torch.stack([documents(PLACES), documents(30, 10)])[:, None],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("tile", [8, 16, 128])
@pytest.mark.parametrize(("scale", "most"), [(SCALE, 0.01), (20 * SCALE, 0.05)])
def test_products_attend_as_the_kernel_in_double_precision(
    mask: str, tile: int, scale: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "TILE", tile)
    given = [heads(2, 6), heads(2, 2), heads(2, 2, width=12)]
    exact = [one.detach().double().requires_grad_() for one in given]

    def both(function: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        out, _ = function(Causal(), *inputs, MASKS[mask], scaling=scale)
        torch.manual_seed(1)
        out.backward(torch.randn(out.shape, dtype=torch.float64).to(out.dtype))
        return [out.detach(), *(one.grad for one in inputs if one.grad is not None)]

    found, wanted = both(attend, given), both(sdpa_attention_forward, exact)
    assert len(found) == len(wanted) == 4
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one - other).norm() / other.norm()) < most


def test_no_scores_are_made_of_places_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TILE", 32)
    spans = attention._tiles(documents(32, 40, 40)[None, None])
    assert [(tile.start, span.start, span.stop) for tile, span in spans] == [
        (0, 0, 32),
        (32, 32, 64),
        (64, 32, 96),
        (96, 64, 128),
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"dropout": 1.0},
        {"position_bias": torch.full((1, 6, PLACES, PLACES), -3.0, dtype=torch.bfloat16).tril()},
    ],
)
def test_what_the_plain_case_lacks_is_left_to_the_kernel(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    given = heads(1, 6), heads(1, 2), heads(1, 2)
    found, _ = attend(Causal(), *given, None, scaling=SCALE, **more)
    wanted, _ = sdpa_attention_forward(Causal(), *given, None, scaling=SCALE, **more)
    assert torch.equal(found, wanted)
    plain, _ = attend(Causal(), *given, None, scaling=SCALE)
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("family", all_families())
def test_every_family_computes_the_same_but_for_rounding(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    host = open_checkpoint(family_model(tmp_path, family))
    layers = [Layer(HOST, index) for index in range(host.layers)]
    ids = torch.arange(24)[None]

    def hidden(dtype: str, kernel: bool = False) -> torch.Tensor:
        stage = Stage(host, {}, layers, dtype=dtype, quick=True)
        stage.stack(layers)
        # Classes whose scores are capped, or have sinks, attend in a way of their own.
        assert stage.model.config._attn_implementation in (NAME, "sdpa", "eager")
        if kernel and stage.model.config._attn_implementation == NAME:
            stage.model.set_attn_implementation("sdpa")
        with torch.no_grad():
            out: torch.Tensor = stage.model.base_model(ids, use_cache=False).last_hidden_state
        return out[0].double()

    exact = hidden("float32")
    ours, kernels = (
        (found - exact).norm(dim=1) for found in (hidden("bfloat16"), hidden("bfloat16", True))
    )
    # Of all places the middle one: where a rounding chooses other experts, a place differs more.
    assert ours.median() <= 1.5 * kernels.median() + 1e-3 * exact.norm(dim=1).median()


@pytest.mark.parametrize(
    ("dtype", "able", "used"),
    [("float32", True, "sdpa"), ("bfloat16", False, "sdpa"), ("bfloat16", True, NAME)],
)
def test_only_bfloat16_on_a_processor_that_multiplies_it_attends_by_products(
    dtype: str, able: bool, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    model = llama(tmp_path, dtype)
    quicken(model)
    assert model.config._attn_implementation == used


def test_a_model_that_was_told_how_to_attend_keeps_to_it(tmp_path: Path) -> None:
    model = llama(tmp_path, "bfloat16")
    model.set_attn_implementation("eager")
    quicken(model)
    assert model.config._attn_implementation == "eager"


def llama(folder: Path, dtype: str) -> PreTrainedModel:
    host = open_checkpoint(family_model(folder, "llama"))
    return assemble(identity(host.layers), host, {}, dtype=dtype)


def test_an_organ_learns_the_same_by_products(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(attention, "TILE", 16)
    host, texts = open_checkpoint(models["llama"]), sentences(40, seed=1)
    recipe = Recipe(
        rank=4, tokens=3_000, learning_rate=1e-2, block_tokens=32, precision="bfloat16", threads=1
    )
    found = train(host, Span(start=2, stop=4), texts, recipe).losses
    monkeypatch.setattr(attention, "quicken", lambda model: None)
    wanted = train(host, Span(start=2, stop=4), texts, recipe).losses
    assert found != wanted, "attended in the same way"
    assert found == pytest.approx(wanted, rel=2e-2)
    assert found[-1] < found[0]
