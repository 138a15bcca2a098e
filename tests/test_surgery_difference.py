import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file, save_file
from surgeries import organ_of, put

from not_core.errors import IncompatibleOrganError
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.difference import difference
from not_core.surgery.plan import Mode


@pytest.fixture
def host(models: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(models["llama"])


def grafted(host: Checkpoint, out: Path, mode: Mode, position: int) -> Checkpoint:
    organ = organ_of(host, 0, 2, change=lambda tensor: tensor * 1.5)
    return open_checkpoint(put(host, out, (organ, mode, position)))


def test_a_model_is_the_same_as_itself(host: Checkpoint) -> None:
    found = difference(host, host)
    assert [pair.kind for pair in found.layers] == ["same"] * 6
    assert (found.frame, found.config) == (None, {})


def test_inserted_layers_are_added_and_the_others_stay_the_same(
    host: Checkpoint, tmp_path: Path
) -> None:
    found = difference(host, grafted(host, tmp_path / "out", "insert", 2))
    assert [pair.kind for pair in found.layers] == ["same"] * 2 + ["added"] * 2 + ["same"] * 4
    assert [pair.second for pair in found.layers] == list(range(8))
    back = difference(open_checkpoint(tmp_path / "out"), host)
    assert [pair.kind for pair in back.layers] == ["same"] * 2 + ["removed"] * 2 + ["same"] * 4


def test_replaced_layers_changed_by_as_much_as_they_did(host: Checkpoint, tmp_path: Path) -> None:
    found = difference(host, grafted(host, tmp_path / "out", "replace", 0))
    assert [pair.kind for pair in found.layers] == ["changed"] * 2 + ["same"] * 4
    for pair in found.layers[:2]:
        assert pair.distance is not None
        assert pair.distance.relative == pytest.approx(0.5, rel=1e-6)
        assert pair.distance.changed == pair.distance.tensors == 9
        largest = max(
            host.tensors.read(name).abs().max().item()
            for name in host.source.layer(pair.first or 0).values()
        )
        assert pair.distance.largest == pytest.approx(largest / 2, rel=1e-6)
    assert found.frame is None


def test_one_changed_number_is_found_where_it_is(host: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(host.origin, tmp_path / "copy"))
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.3.mlp.up_proj.weight"][0, 0] += 0.25
    stored["model.norm.weight"][1] = math.nan
    save_file(stored, folder / "model.safetensors")
    found = difference(host, open_checkpoint(folder))
    assert [pair.kind for pair in found.layers] == ["same"] * 3 + ["changed"] + ["same"] * 2
    distance = found.layers[3].distance
    assert distance is not None
    norm = torch.cat([host.tensors.read(n).flatten() for n in host.source.layer(3).values()]).norm()
    assert distance.relative == pytest.approx(0.25 / norm.item(), rel=1e-4)
    assert distance.largest == pytest.approx(0.25, rel=1e-4)
    assert distance.changed == 1
    assert found.frame is not None
    assert math.isnan(found.frame.relative)
    assert math.isnan(found.frame.largest)
    assert found.frame.changed == 1


def test_tensors_of_another_shape_are_named(host: Checkpoint, tmp_path: Path) -> None:
    wide = open_checkpoint(make_model(tmp_path / "wide", "llama", width=64))
    found = difference(host, wide)
    assert found.config["hidden_size"] == (32, 64)
    first = found.layers[0].distance
    assert first is not None
    assert "mlp.up_proj.weight: float32 64x32, float32 128x64" in first.unlike
    assert found.frame is not None
    assert len(found.frame.unlike) == 2


def test_other_families_are_refused_by_name(host: Checkpoint, models: dict[str, Path]) -> None:
    with pytest.raises(IncompatibleOrganError, match="llama, the second of gpt2"):
        difference(host, open_checkpoint(models["gpt2"]))
