"""Organs: a folder with ``organ.safetensors``, ``manifest.json`` and a model card.

Reading checks that the three agree; trust in who made them is ``not_core.trust``'s business.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass as pydantic_dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT, Line, Name
from not_core.errors import CheckpointError, FormatError, OrganError
from not_core.manifest import (
    CARD,
    MANIFEST,
    TENSORS,
    BaseFacts,
    Manifest,
    NoPrivacy,
    Positive,
    Span,
    TensorFacts,
    TrainingFacts,
)
from not_core.surgery.anatomy import fitting_fields, per_layer_fields
from not_core.surgery.card import card
from not_core.surgery.checkpoint import (
    Checkpoint,
    dtype_name,
    open_safetensors,
    tensor_digest,
)
from not_core.surgery.plan import cut

if TYPE_CHECKING:
    import torch


Weights = Mapping[int, Mapping[str, "torch.Tensor"]]
"""Layer within the organ -> name within the layer -> tensor."""


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Label:
    """What its maker calls an organ."""

    name: Name
    donor: Name | None = None
    domain: Line = "unspecified"
    licence: Line = "unspecified"
    version: Positive = 1


def make_label(**words: object) -> Label:
    """A label from what a user typed, checked before any work is done.

    Raises:
        FormatError: A name is not of lower-case letters, digits and inner hyphens, or a text is
            longer than a line.
    """
    return canonical.decode(Label, canonical.encode({"donor": None, **words}), "organ label")


@dataclass(frozen=True, slots=True)
class Organ:
    """An organ whose folder has been read and found consistent.

    Attributes:
        manifest: What it says of itself.
        weights: Its tensors.
    """

    manifest: Manifest
    weights: Weights = field(repr=False)

    def __len__(self) -> int:
        return len(self.manifest.span)


def extract(host: Checkpoint, span: Span) -> Weights:
    """Read the tensors of a span of layers, untrained, and nothing else.

    Raises:
        PlanError: The span reaches past the model.
    """
    return {
        new: {rest: host.tensors.read(name) for rest, name in host.layer_names(layer.index).items()}
        for new, layer in enumerate(cut(host.layers, span))
    }


def describe(
    host: Checkpoint,
    span: Span,
    weights: Weights,
    label: Label,
    *,
    training: TrainingFacts | None,
    parents: tuple[str, ...] = (),
) -> Manifest:
    """Make the manifest of an organ from what it is.

    Args:
        host: The base model that it was cut from.
        span: Its layers in the base.
        weights: Its tensors.
        label: Its names.
        training: How it was trained; None for an untrained span.
        parents: Digests of organs that it was made from.
    """
    config, part = host.config, host.anatomy
    architectures = config.get("architectures") or []
    return Manifest(
        name=label.name,
        version=label.version,
        domain=label.domain,
        licence=label.licence,
        donor=label.donor,
        base=BaseFacts(
            family=part.family,
            architecture=str(architectures[0]) if architectures else part.family,
            layers=host.layers,
            config=fitting_fields(config, part),
            layer_config={
                name: config[name][span.start : span.stop]
                for name in per_layer_fields(config, host.layers)
            },
            weights=host.weights_digest,
            tokenizer=host.tokenizer_digest,
        ),
        span=span,
        tensors=tuple(
            TensorFacts(
                name=name,
                dtype=dtype_name(tensor),
                shape=tuple(tensor.shape),
                sha256=tensor_digest(tensor),
            )
            for name, tensor in sorted(_flat(weights).items())
        ),
        training=training,
        privacy=NoPrivacy(),
        parents=parents,
    )


def write_organ(out: Path, weights: Weights, manifest: Manifest) -> None:
    """Write an organ folder, whole or not at all.

    Raises:
        OutputExistsError: ``out`` is taken.
    """
    with atomic.folder(out) as work:
        fill(work, weights, manifest)


def fill(folder: Path, weights: Weights, manifest: Manifest) -> None:
    """Write an organ's files into an empty folder that the caller makes atomic."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in _flat(weights).items()},
        folder / TENSORS,
        metadata={"format": "pt"},
    )
    (folder / MANIFEST).write_bytes(canonical.encode(manifest))
    (folder / CARD).write_text(card(manifest), encoding="utf-8")


def claim(folder: Path, donor: str) -> Manifest:
    """Write a donor's name into the manifest and card of an organ that nobody has claimed yet.

    Raises:
        OrganError: Another site has claimed it.
    """
    manifest = read_manifest(folder)
    if manifest.donor == donor:
        return manifest
    if manifest.donor is not None:
        raise OrganError(
            f"{folder} was given by {manifest.donor}, this identity is {donor}; "
            "only the donor can sign an organ"
        )
    claimed = replace(manifest, donor=donor)
    atomic.write(folder / CARD, card(claimed).encode())
    atomic.write(folder / MANIFEST, canonical.encode(claimed))
    return claimed


def read_manifest(folder: Path) -> Manifest:
    """Read an organ folder's manifest.

    Raises:
        OrganError: There is none.
        FormatError: It is not a manifest of a version that this program reads.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise OrganError(f"no {MANIFEST} in {folder}; expected an organ folder")
    try:
        return canonical.decode(Manifest, path.read_bytes(), MANIFEST)
    except FormatError as error:
        raise FormatError(f"{folder}: {error}") from None


def read_organ(folder: Path) -> Organ:
    """Read an organ folder and check every tensor against the manifest.

    Raises:
        OrganError: A tensor is missing, extra, of another type, shape or content, or not finite.
    """
    manifest = read_manifest(folder)
    path = folder / TENSORS
    if path.is_symlink() or not path.is_file():
        raise OrganError(f"no {TENSORS} in {folder}; expected an organ folder")
    declared = {facts.name: facts for facts in manifest.tensors}
    try:
        file = open_safetensors(path)
    except CheckpointError as error:
        raise OrganError(str(error)) from None
    names = set(file.keys())
    if names != set(declared):
        odd = sorted(names ^ set(declared))[0]
        raise OrganError(f"{TENSORS} and {MANIFEST} disagree about {odd}; get an undamaged copy")
    weights: dict[int, dict[str, torch.Tensor]] = {}
    for name, facts in declared.items():
        if tuple(file.get_slice(name).get_shape()) != facts.shape:
            raise OrganError(f"{name} does not have its declared shape {facts.shape}")
        tensor = file.get_tensor(name)
        if dtype_name(tensor) != facts.dtype or tensor_digest(tensor) != facts.sha256:
            raise OrganError(f"{name} is not the tensor that the manifest declares")
        if not math.isfinite(float(tensor.double().sum())):
            raise OrganError(f"{name} holds values that are not finite")
        index, _, rest = name.partition(".")
        if not index.isdecimal() or not rest:
            raise OrganError(f"{name} is not named after a layer, such as 0.{name}")
        weights.setdefault(int(index), {})[rest] = tensor
    if sorted(weights) != list(range(len(manifest.span))):
        raise OrganError(f"{TENSORS} holds layers {sorted(weights)}, the span is {manifest.span}")
    return Organ(manifest, weights)


def _flat(weights: Weights) -> dict[str, "torch.Tensor"]:
    return {
        f"{index}.{rest}": tensor
        for index, layer in weights.items()
        for rest, tensor in layer.items()
    }
