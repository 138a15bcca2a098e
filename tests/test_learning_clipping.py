import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tokenizer
from families import all_families, family_model

from not_core.errors import PrivacyError
from not_core.learning.clipping import Learner, Unit, clipped
from not_core.learning.guard import Clipping
from not_core.learning.recipe import Recipe
from not_core.learning.training import Workplace, workplace
from not_core.manifest import Span
from not_core.surgery.checkpoint import open_checkpoint

SPAN = Span(start=2, stop=4)
BLOCKS = [tuple(range(2 + i, 2 + i + size)) for i, size in enumerate((9, 4, 12, 2, 30, 7))]
UNITS: list[Unit] = [[0, 2], [1], [3], [4, 5, 1]]
CLIP = 0.5
Total = Callable[[Sequence[Unit]], tuple[torch.Tensor, float]]

REFUSED = {
    # What cannot be sampled, when layers learn whole and when factors do; `loop` takes all.
    "falcon": ("FalconLinear", "FalconFor"),
    "gpt_oss": ("GptOss", None),
    "mixtral": ("Mixtral", None),
    "opt": ("Linear", "Factored"),
    "qwen3_moe": ("Qwen3Moe", None),
}


def place(folder: Path, rank: int | None, apart: bool) -> Any:
    return workplace(
        open_checkpoint(folder),
        SPAN,
        BLOCKS,
        Recipe(rank=rank, tokens=1, head_sample=None, threads=1),
        only=None,
        work=None,
        apart=apart,
    )


def summing(found: Workplace, way: Clipping, clip: float = CLIP) -> Total:
    """Sums clipped gradients into one vector, beside the mean loss."""
    found.scene.prepare(range(len(BLOCKS)))
    learner = Learner(
        found.scene.model, found.scene, found.masters.parameters, list(map(len, BLOCKS))
    )
    summed = clipped(way, learner, clip, batch_tokens=64)

    def total(units: Sequence[Unit]) -> tuple[torch.Tensor, float]:
        parts, loss = summed.total(units)
        return torch.cat([part.flatten() for part in parts]), loss

    return total


def brute_force(found: Workplace, units: Sequence[Unit], clip: float = CLIP) -> torch.Tensor:
    """The same, from each block's own losses, one unit after another."""
    found.scene.prepare(range(len(BLOCKS)))
    parameters = found.masters.parameters
    whole = torch.zeros(sum(one.numel() for one in parameters))
    for unit in units:
        losses = torch.cat(
            [found.scene.nats([number])[0, : len(BLOCKS[number]) - 1] for number in unit]
        )
        gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
        flat = torch.cat(
            [
                torch.zeros(one.numel()) if gradient is None else gradient.flatten()
                for one, gradient in zip(parameters, gradients, strict=True)
            ]
        )
        whole += flat * min(1.0, clip / float(flat.norm()))
    return whole


@pytest.fixture
def stirred() -> Any:
    """Give factors other values than those they begin with, where half of them do nothing."""

    def stir(found: Workplace) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for one in found.masters.parameters:
                one.add_(torch.randn(one.shape, generator=generator) * 0.05)

    return stir


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("way", ["loop", "samples", "ghost"])
@pytest.mark.parametrize("family", all_families())
def test_the_clipped_sum_is_that_of_a_loop_over_units_or_the_family_is_refused_by_name(
    family: str, way: Clipping, rank: int | None, tmp_path: Path, stirred: Any
) -> None:
    folder = family_model(tmp_path / family, family)
    save_tokenizer(folder)
    refused = None if way == "loop" else REFUSED.get(family, (None, None))[rank is not None]
    with place(folder, rank, apart=way != "loop") as found:
        stirred(found)
        if refused:
            with pytest.raises(PrivacyError, match=refused):
                summing(found, way)(UNITS)
            return
        expected = brute_force(found, UNITS)
        summed, loss = summing(found, way)(UNITS)
    assert math.isfinite(loss)
    assert float((summed - expected).norm()) <= 1e-5 * float(expected.norm())
    assert 0 < float(expected.norm()) <= len(UNITS) * CLIP


@pytest.mark.parametrize("way", ["loop", "samples", "ghost"])
def test_a_unit_moves_the_sum_by_no_more_than_the_clip_however_long_it_is(
    way: Clipping, models: dict[str, Path], stirred: Any
) -> None:
    with place(models["llama"], 4, apart=way != "loop") as found:
        stirred(found)
        units: list[Unit] = [[3], [4], [0, 1, 2, 3, 4, 5]]
        norms = [float(brute_force(found, [unit], clip=1e6).norm()) for unit in units]
        clip = min(norms) / 2
        total = summing(found, way, clip)
        rest, _ = total(UNITS[:2])
        for unit in units:
            changed, _ = total([*UNITS[:2], unit])
            assert float((changed - rest).norm()) == pytest.approx(clip, rel=1e-3)


@pytest.mark.parametrize("way", ["loop", "samples", "ghost"])
def test_no_unit_gives_nothing_and_one_that_is_not_finite_adds_nothing(
    way: Clipping, models: dict[str, Path]
) -> None:
    with place(models["llama"], 4, apart=way != "loop") as found:
        total = summing(found, way)
        nothing, loss = total([])
        assert not nothing.any()
        assert math.isnan(loss)
        alone, _ = total([[4]])
        nats = found.scene.nats

        def broken(numbers: Sequence[int], **more: Any) -> torch.Tensor:
            spoilt = torch.tensor([math.inf if number == 0 else 1.0 for number in numbers])
            rows = nats(numbers, **more)
            return rows * (spoilt[:, None] if len(rows) == len(numbers) else spoilt.max())

        found.scene.nats = broken  # type: ignore[method-assign]
        beside, loss = total([[0], [4]])
        assert torch.allclose(beside, alone, atol=1e-7)
        assert math.isfinite(loss)


def test_ghost_norms_are_refused_in_few_digits(models: dict[str, Path]) -> None:
    recipe = Recipe(rank=None, tokens=1, head_sample=None, threads=1, precision="bfloat16")
    with workplace(
        open_checkpoint(models["llama"]),
        Span(start=2, stop=4),
        BLOCKS,
        recipe,
        only=None,
        work=None,
        apart=True,
    ) as found:
        for way in ("loop", "samples"):
            summing(found, way)
        with pytest.raises(PrivacyError, match="ghost norms in bfloat16"):
            summing(found, "ghost")
