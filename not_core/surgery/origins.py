"""Where each layer of a model, and of what the model was before its organs, can be read.

A graft holds the layers that stand in it, and beside them those that its organs replaced.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from not_core.errors import CheckpointError, OrganError
from not_core.manifest import Span, TensorFacts
from not_core.surgery.assemble import Joined
from not_core.surgery.checkpoint import Checkpoint, refuse_strays
from not_core.surgery.lineage import LINEAGE, ROOT, Lineage, aside_layer
from not_core.surgery.plan import Layer
from not_core.surgery.source import Source
from not_core.surgery.tensors import (
    Form,
    SafetensorsFiles,
    Tensors,
    read_names,
    shown,
    tensor_digest,
)

if TYPE_CHECKING:
    import torch

REPLACED = "replaced"
"""Folder in a graft, apart from its weights, for the layers that organs replaced."""
SET_ASIDE = "layers.safetensors"

There = Mapping[Layer, tuple[Source, int]]
"""Where each layer can be had: a source and the layer's index there."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors that a graft has set aside; only those that its lineage declares are read.

    Unlike a model's own weights, which have one digest, they are checked one by one: an organ may
    be taken out from among others, where nothing tells what the whole must be.
    """

    files: Tensors
    facts: Mapping[str, TensorFacts]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.facts))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, as declared."""
        return Form(self.facts[name].dtype, self.facts[name].shape)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, checked against its digest.

        Raises:
            CheckpointError: It is not the declared tensor.
        """
        tensor = self.files.read(name, shared=shared)
        same = self.files.form(name) == self.form(name)
        if not same or tensor_digest(tensor) != self.facts[name].sha256:
            raise CheckpointError(
                f"{shown(name)} in {REPLACED}/{SET_ASIDE} is not the tensor that {LINEAGE} "
                f"declares; get an undamaged copy, or remove {REPLACED} and give the model before "
                "any organ with --host"
            )
        return tensor


def layers_at_hand(host: Checkpoint, lineage: Lineage) -> dict[Layer, tuple[Source, int]]:
    """The layers that stand in a model, and those that it keeps beside them, by their origin.

    Raises:
        CheckpointError: What it keeps beside them is not what the lineage says.
    """
    # What stands is known by the digest of the weights, so nothing beside it may take its place.
    return _set_aside(host, lineage) | _standing(host, lineage)


def root_tensors(host: Checkpoint, lineage: Lineage, span: Span) -> Tensors:
    """The tensors of a span as it was before any organ, under an organ's names; reads none.

    Raises:
        OrganError: An organ replaced a layer that was not kept.
    """
    there = layers_at_hand(host, lineage)
    layers = [Layer(ROOT, index) for index in range(span.start, span.stop)]
    if absent := [layer.index for layer in layers if layer not in there]:
        raise OrganError(
            f"{host.origin} has not kept layers {absent} of its base, which other organs replaced; "
            "expand the compact organ with `organ expand --base` and the base itself first"
        )
    where: dict[str, tuple[Tensors, str]] = {}
    for new, layer in enumerate(layers):
        source, index = there[layer]
        for rest, name in source.layer(index).items():
            where[f"{new}.{rest}"] = (source.tensors, name)
    return Joined(where)


def _standing(host: Checkpoint, lineage: Lineage) -> dict[Layer, tuple[Source, int]]:
    """The layers that stand in a model, by their origin."""
    return {
        Layer(origin.source, origin.index): (host.source, place)
        for place, origin in enumerate(lineage.layers)
    }


def _set_aside(host: Checkpoint, lineage: Lineage) -> dict[Layer, tuple[Source, int]]:
    """The layers that a graft keeps beside its own, by their origin.

    Raises:
        CheckpointError: They are not those of which the lineage tells, or the folder holds links.
    """
    folder = host.origin / REPLACED
    path = folder / SET_ASIDE
    if host.origin.is_file() or not os.path.lexists(path):
        return {}
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link that leads elsewhere; copy the folder there")
    refuse_strays(folder, CheckpointError)
    facts = {one.name: one for one in lineage.aside}
    files = SafetensorsFiles({name: (path, name) for name in read_names(path)})
    if odd := sorted(files.where.keys() ^ facts.keys()):
        raise CheckpointError(
            f"{path} and {LINEAGE} disagree about {shown(odd[0])}; get an undamaged copy, or "
            f"remove {folder} and give the model before any organ with --host"
        )
    layers: dict[Layer, dict[str, str]] = {}
    for name in facts:
        layer, rest = aside_layer(name)
        layers.setdefault(layer, {})[rest] = name
    kept = Kept(files, facts)
    return {
        layer: (Source(tensors=kept, layers={layer.index: names}, entries={}), layer.index)
        for layer, names in layers.items()
    }
