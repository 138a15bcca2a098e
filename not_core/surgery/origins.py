"""Where each layer of a model, and of what the model was before its organs, can be read.

A graft holds the layers that stand in it, and beside them those that its organs replaced.
"""

from collections.abc import Mapping

from not_core.errors import OrganError
from not_core.manifest import Span
from not_core.surgery.assemble import Joined
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.lineage import ROOT, Lineage
from not_core.surgery.plan import Layer
from not_core.surgery.source import Source
from not_core.surgery.tensors import SafetensorsFiles, Tensors, read_names

REPLACED = "replaced"
"""Folder in a graft, apart from its weights, for the layers that organs replaced."""
SET_ASIDE = "layers.safetensors"

There = Mapping[Layer, tuple[Source, int]]
"""Where each layer can be had: a source and the layer's index there."""


def layers_at_hand(host: Checkpoint, lineage: Lineage) -> dict[Layer, tuple[Source, int]]:
    """The layers that stand in a model, and those that it keeps beside them, by their origin."""
    return _standing(host, lineage) | _set_aside(host, lineage)


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
    """The layers that a graft keeps beside its own, by their origin."""
    path = host.origin / REPLACED / SET_ASIDE
    if not path.is_file():
        return {}
    layers: dict[Layer, dict[str, str]] = {}
    for name in read_names(path):
        source, index, rest = (*name.split(".", 2), "", "")[:3]
        if source in lineage.sources and index.isdecimal() and rest:
            layers.setdefault(Layer(source, int(index)), {})[rest] = name
    files = SafetensorsFiles({name: (path, name) for name in read_names(path)})
    return {
        layer: (Source(tensors=files, layers={layer.index: names}, entries={}), layer.index)
        for layer, names in layers.items()
    }
