"""Layers that a plan can take: a whole model's, an organ's, or those that a graft set aside."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from not_core.errors import PlanError
from not_core.surgery.anatomy import Anatomy
from not_core.surgery.blueprint import Traits, build, layer_traits
from not_core.surgery.layer_config import Entries, with_layers
from not_core.surgery.tensors import Cast, Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Layers by index.

    Attributes:
        tensors: Where their tensors are read from.
        layers: Layer -> name within the layer -> name in ``tensors``.
        entries: What the config that they were made under says of each layer.
        start: Index that layer 0 had in the model that it was made in.
    """

    tensors: Tensors = field(repr=False)
    layers: Mapping[int, Mapping[str, str]] = field(repr=False)
    entries: Entries
    start: int = 0

    def layer(self, index: int) -> Mapping[str, str]:
        """The tensors of one layer: name within the layer -> name in ``tensors``.

        Raises:
            PlanError: There is no such layer.
        """
        if index not in self.layers:
            raise PlanError(
                f"the plan takes layer {index} of a source that has layers {sorted(self.layers)}"
            )
        return self.layers[index]

    def entry(self, index: int) -> dict[str, Any]:
        """What the config says of one layer."""
        return {name: values[index] for name, values in self.entries.items()}

    def traits(self, config: Mapping[str, Any], part: Anatomy) -> list[Traits]:
        """What each layer was built with where it was made.

        Args:
            config: The host's; fields that decide about fitting are the same.
            part: The family's parts.
        """
        count = self.start + max(
            [1 + max(self.layers), *(len(values) for values in self.entries.values())]
        )
        # The layers below say nothing of these; any stand-in gives them their index.
        entries = {
            name: [values[0]] * self.start + list(values) for name, values in self.entries.items()
        }
        return layer_traits(build(with_layers(config, part, entries, count), part), part)[
            self.start :
        ]

    def cast(self, dtypes: Mapping[str, str]) -> "Source":
        """These layers with their tensors in other types: name within the layer -> type."""
        wanted = {
            name: dtypes[rest]
            for layer in self.layers.values()
            for rest, name in layer.items()
            if rest in dtypes
        }
        return replace(self, tensors=Cast(self.tensors, wanted))
