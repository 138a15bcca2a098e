"""Lineages and set-aside layers made to deceive: refused with a typed error, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family_model
from safetensors.torch import load_file, save_file
from surgeries import organ_of, put, shifted

from not_core import canonical
from not_core.errors import CheckpointError, FormatError, PlanError
from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.lineage import lineage_of
from not_core.surgery.tensors import tensor_digest

ASIDE = Path("replaced/layers.safetensors")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(family_model(tmp_path_factory.mktemp("host") / "m", "qwen2"))


@pytest.fixture(scope="module")
def two(host: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graft of two organs, each in the place of two layers."""
    a, b = (organ_of(host, at, at + 2, name, shifted(0.1)) for at, name in ((0, "a"), (3, "b")))
    out = tmp_path_factory.mktemp("graft") / "two"
    return put(host, out, (a, "replace", 0), (b, "replace", 3))


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "two"))


def lay_aside(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    stored = load_file(folder / ASIDE)
    change(stored)
    save_file(stored, folder / ASIDE)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads((folder / "organs.json").read_text())
    change(said)
    (folder / "organs.json").write_bytes(canonical.encode(said))


def declare(folder: Path) -> None:
    """Make the lineage say of what is set aside what the file says."""
    edit(
        folder,
        lambda said: said.update(
            aside=[
                {
                    "name": name,
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "sha256": tensor_digest(tensor),
                }
                for name, tensor in sorted(load_file(folder / ASIDE).items())
            ]
        ),
    )


def poisoned(stored: dict[str, torch.Tensor]) -> None:
    """Beside the layers that were replaced, one that stands: layer 2 of the host."""
    for name in [name for name in stored if name.startswith("root.1.")]:
        stored[name.replace("root.1.", "root.2.")] = torch.full_like(stored[name], 9.0)


def refused(folder: Path, error: type[Exception], match: str) -> None:
    out = folder.with_name("out")
    with pytest.raises(error, match=match):
        graft.excise(open_checkpoint(folder), "unclaimed/a", out)
    assert not out.exists()


def test_a_layer_that_stands_is_not_taken_from_what_was_set_aside(copy: Path) -> None:
    lay_aside(copy, poisoned)
    refused(copy, CheckpointError, r"disagree about root\.2\.")
    declare(copy)
    refused(copy, CheckpointError, r"nothing lies over root\.2\.\S+, which is said to be set aside")


@pytest.mark.parametrize("layer", [0, 4])
def test_one_flipped_bit_in_what_was_set_aside_is_refused(copy: Path, layer: int) -> None:
    """Whether it comes back now, or is carried on for the other organ."""
    name = f"root.{layer}.mlp.up_proj.weight"
    lay_aside(copy, lambda stored: stored[name].view(torch.int32)[0, 0].bitwise_xor_(1))
    refused(copy, CheckpointError, rf"{name} in {ASIDE} is not the tensor that organs\.json")


def test_what_was_set_aside_in_another_shape_is_refused(copy: Path) -> None:
    name = "root.0.mlp.up_proj.weight"
    lay_aside(copy, lambda stored: stored.update({name: stored[name].reshape(-1)}))
    refused(copy, CheckpointError, "is not the tensor that")


def test_without_what_was_set_aside_the_host_gives_it_back(copy: Path, host: Checkpoint) -> None:
    shutil.rmtree(copy / "replaced")
    out = copy.with_name("out")
    graft.excise(open_checkpoint(copy), "unclaimed/a", out, root=host)
    written = graft.excise(open_checkpoint(out), "unclaimed/b", out.with_name("host"))
    assert written.weights == host.weights_digest


@pytest.mark.parametrize("name", ["replaced", str(ASIDE)])
def test_links_to_what_was_set_aside_are_refused(copy: Path, tmp_path: Path, name: str) -> None:
    shutil.move(copy / name, tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    refused(copy, CheckpointError, "is a link that leads elsewhere")


def first_organ(said: dict[str, Any]) -> str:
    return str(said["layers"][0]["source"])


def spurious(said: dict[str, Any]) -> None:
    said["sources"]["f" * 64] = said["sources"][first_organ(said)]


def renamed_root(said: dict[str, Any]) -> None:
    said["sources"]["root"]["organ"] = "x/y"


def doubled(said: dict[str, Any]) -> None:
    """Two layers of an organ that are not alike, said to be one."""
    said["layers"][1] = said["layers"][0] | {"beneath": said["layers"][1]["beneath"]}


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no entries": (
        lambda said: said["sources"]["root"].update(entries={}),
        "root has not one entry a layer of each of",
    ),
    "few entries": (
        lambda said: said["sources"]["root"]["entries"].update(layer_types=["full_attention"] * 2),
        "root has no layer",
    ),
    "other entries": (
        lambda said: said["sources"]["root"]["entries"].update(hidden_size=[1] * 6),
        "root has not one entry a layer of each of",
    ),
    "many entries": (
        lambda said: said["sources"]["root"]["entries"].update(layer_types=["x"] * 5000),
        r"not valid at sources\.root\.entries",
    ),
    "index": (lambda said: said["layers"][2].update(index=9000), "root has no layer 9000"),
    "index beneath": (
        lambda said: said["layers"][0]["beneath"].update(index=6),
        "root has no layer 6",
    ),
    "same layer twice": (
        lambda said: said["layers"].__setitem__(2, said["layers"][5]),
        "layer 5 of root stands in two places",
    ),
    "standing and beneath": (
        lambda said: said["layers"][0]["beneath"].update(index=2),
        "layer 2 of root stands in two places",
    ),
    "unlike layers of an organ": (doubled, "is not the same in all its places"),
    "no source": (lambda said: said["sources"].pop(first_organ(said)), "disagree about"),
    "no root": (lambda said: said["sources"].pop("root"), "disagree about root"),
    "unused source": (spurious, "disagree about ffff"),
    "root that is an organ": (renamed_root, "root is neither the root nor one organ"),
    "nameless organ": (
        lambda said: said["sources"][first_organ(said)].update(organ=None),
        "is neither the root nor one organ",
    ),
    "root from elsewhere": (
        lambda said: said["sources"]["root"].update(start=4000),
        "root starts at 4000",
    ),
    "number of layers": (lambda said: said["layers"].pop(), "was changed after"),
    "many layers": (lambda said: said.update(layers=said["layers"] * 1000), "not valid at layers"),
    "tensor twice": (lambda said: said["aside"].append(said["aside"][0]), "set aside twice"),
    "tensor of nothing": (lambda said: said["aside"][0].update(name="root"), "nothing lies over"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lineage_that_contradicts_itself_is_refused(copy: Path, lie: str) -> None:
    change, message = LIES[lie]
    edit(copy, change)
    with pytest.raises((CheckpointError, FormatError), match=message):
        lineage_of(open_checkpoint(copy))


def test_a_lineage_too_large_to_be_one_is_not_read(copy: Path) -> None:
    with (copy / "organs.json").open("wb") as file:
        file.truncate(40 << 30)  # sparse
    with pytest.raises(FormatError, match="more than 33554432 bytes"):
        lineage_of(open_checkpoint(copy))


def test_an_organ_stands_in_two_places_and_a_layer_of_the_host_does_not(
    host: Checkpoint, tmp_path: Path
) -> None:
    organ = organ_of(host, 0, 1, change=shifted(0.1))
    out = put(host, tmp_path / "out", (organ, "insert", 1), (organ, "replace", 1))
    graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "back")
    assert open_checkpoint(tmp_path / "back").weights_digest == host.weights_digest
    twice = plans.Plan((*plans.whole(plans.HOST, 6), plans.Layer(plans.HOST, 5)))
    with pytest.raises(PlanError, match="takes layer 5 of the host 2 times"):
        graft.transplant(twice, host, {}, tmp_path / "twice")
