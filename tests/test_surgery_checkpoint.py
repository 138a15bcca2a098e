import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from not_core.errors import CheckpointError, UnknownFamilyError
from not_core.surgery import tensors
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.tensors import SafetensorsFiles


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models["llama"], tmp_path / "model"))


def test_opening_reads_no_weights(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "not_core.surgery.tensors.SafetensorsFiles.read",
        lambda self, name, **_: pytest.fail(f"read {name}"),
    )
    checkpoint = open_checkpoint(copy)
    assert checkpoint.layers == 6
    assert checkpoint.tensors.form("model.norm.weight").shape == (32,)
    assert "lm_head.weight" not in checkpoint.names


def test_a_name_that_the_hub_gave_gpt2_is_understood(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """GPT-2 on the hub was saved from the base class, with mask buffers."""
    old = Path(shutil.copytree(models["gpt2"], tmp_path / "old"))
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(old / "model.safetensors").items()
        if name != "lm_head.weight"
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(old).weights_digest == open_checkpoint(models["gpt2"]).weights_digest


def test_one_changed_weight_changes_the_digest(copy: Path) -> None:
    before = open_checkpoint(copy).weights_digest
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-3
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(copy).weights_digest != before


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bert", "bert is an encoder: its layers read the text in both directions"),
        ("roberta", "roberta is an encoder"),
        ("t5", "t5 is an encoder-decoder: its decoder layers also read an encoder's output"),
        ("bart", "bart is an encoder-decoder"),
        ("mamba", "mamba has not been tested"),
        ("vit", "vit is no causal language model"),
        ("nonsense", "nonsense is not known"),
        (None, "None is not known"),
        (["llama"], "not known"),
    ],
)
def test_other_families_are_refused_by_name(copy: Path, family: Any, reason: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model_type"] = family
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownFamilyError, match="starcoder2") as caught:
        open_checkpoint(copy)
    assert reason in str(caught.value)


def test_a_decoder_that_says_it_reads_an_encoder_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    with pytest.raises(UnknownFamilyError, match="llama is an encoder-decoder"):
        open_checkpoint(copy)


def test_nothing_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a model folder nor a hub id"):
        open_checkpoint(tmp_path / "absent")


def test_a_hub_cache_is_read_by_id(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: models["llama"])
    assert open_checkpoint("somebody/tiny").layers == 6


def test_a_tensor_that_is_hashed_in_pieces_has_the_digest_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {
        "matrix": torch.randn(7, 3),
        "short": torch.randn(6, 1, 5).to(torch.bfloat16),
        "row": torch.randn(11),
        "number": torch.tensor(3.0),
        "nothing": torch.zeros(0, 4),
    }
    save_file(held, tmp_path / "some.safetensors")
    read: list[str] = []
    stored = SafetensorsFiles({name: (tmp_path / "some.safetensors", name) for name in held})
    monkeypatch.setattr(tensors, "PIECE_BYTES", 20)
    whole = SafetensorsFiles.read
    monkeypatch.setattr(
        SafetensorsFiles, "read", lambda self, name, **how: read.append(name) or whole(self, name)
    )
    for name, tensor in held.items():
        assert stored.digest(name) == tensors.tensor_digest(tensor), name
    assert read == [], "none was there as a whole"
