import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from surgeries import cut_of

from not_core import canonical
from not_core.errors import FormatError, OrganError, OutputExistsError
from not_core.manifest import Span
from not_core.surgery import organ as organs
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.tensors import Held


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    organ = cut_of(open_checkpoint(models["llama"]), 2, 4)
    organs.write_organ(tmp_path / "organ", organ.tensors, organ.manifest)
    return tmp_path / "organ"


def test_an_organ_holds_its_span_and_nothing_else(folder: Path, models: dict[str, Path]) -> None:
    organ = organs.read_organ(folder)
    stock = load_file(models["llama"] / "model.safetensors")
    assert len(organ) == 2
    assert sorted(organ.source.layers) == [0, 1]
    for index, layer in organ.source.layers.items():
        for rest, name in layer.items():
            assert torch.equal(organ.tensors.read(name), stock[f"model.layers.{index + 2}.{rest}"])
    kept = sum(1 for name in stock if name.startswith(("model.layers.2.", "model.layers.3.")))
    assert kept == len(organ.manifest.tensors)


def test_the_manifest_digest_follows_content_only(folder: Path, models: dict[str, Path]) -> None:
    again = organs.describe(
        open_checkpoint(models["llama"]),
        Span(start=2, stop=4),
        organs.read_organ(folder).tensors,
        organs.Label(name="o"),
        training=None,
    )
    assert again.digest == organs.read_manifest(folder).digest
    assert replace(again, name="p").digest != again.digest


def test_the_card_says_that_nothing_private_was_used(folder: Path) -> None:
    assert "No private record was used" in (folder / "README.md").read_text()


def test_claiming_writes_the_donor_once(folder: Path) -> None:
    assert organs.claim(folder, "clinic").donor == "clinic"
    assert organs.read_manifest(folder).organ_id == "clinic/o"
    with pytest.raises(OrganError, match="clinic"):
        organs.claim(folder, "hospital")


def test_a_changed_tensor_is_found(folder: Path) -> None:
    tensors = load_file(folder / "organ.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += 1
    save_file(tensors, folder / "organ.safetensors")
    with pytest.raises(OrganError, match="not the tensor"):
        organs.read_organ(folder)


def test_a_tensor_too_many_or_too_few_is_found(folder: Path) -> None:
    tensors = load_file(folder / "organ.safetensors")
    save_file({**tensors, "9.extra": torch.ones(1)}, folder / "organ.safetensors")
    with pytest.raises(OrganError, match=r"9\.extra"):
        organs.read_organ(folder)
    name = sorted(tensors)[0]
    save_file({n: t for n, t in tensors.items() if n != name}, folder / "organ.safetensors")
    with pytest.raises(OrganError, match="disagree"):
        organs.read_organ(folder)


def test_values_that_are_not_finite_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    host, span = open_checkpoint(models["llama"]), Span(start=0, stop=1)
    cut = organs.extract(host, span)
    weights = Held(
        {name: cut.read(name) for name in cut.names()}
        | {"0.input_layernorm.weight": torch.full((32,), float("nan"))}
    )
    manifest = organs.describe(host, span, weights, organs.Label(name="o"), training=None)
    organs.write_organ(tmp_path / "bad", weights, manifest)
    with pytest.raises(OrganError, match="not finite"):
        organs.read_organ(tmp_path / "bad")


def test_a_symlinked_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "organ.safetensors", tmp_path / "elsewhere")
    (folder / "organ.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OrganError, match="a link that leads elsewhere"):
        organs.read_organ(folder)


def test_an_edited_manifest_is_refused(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(data.replace(b'"v', b' "v', 1) + b"\n")
    with pytest.raises(FormatError, match=r"manifest\.json"):
        organs.read_manifest(folder)


def test_a_folder_that_is_no_organ_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrganError, match="expected an organ folder"):
        organs.read_organ(tmp_path)


def test_nothing_is_written_over(folder: Path) -> None:
    organ = organs.read_organ(folder)
    before = canonical.sha256_file(folder / "organ.safetensors")
    with pytest.raises(OutputExistsError):
        organs.write_organ(folder, organ.tensors, organ.manifest)
    assert canonical.sha256_file(folder / "organ.safetensors") == before
