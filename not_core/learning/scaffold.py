"""What stands around an organ while it is trained, as a plan.

Source of ``alone`` and ``emulator``: Neural Organ Transplantation, arXiv:2601.13580.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from not_core.learning.recipe import Recipe
from not_core.manifest import Span
from not_core.surgery.anatomy import is_output
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.plan import HOST, Layer, cut, transplant, whole
from not_core.surgery.source import Source
from not_core.surgery.tensors import Form, Renamed, Tensors

if TYPE_CHECKING:
    import torch

ORGAN = "organ"


@dataclass(frozen=True, slots=True)
class Standing:
    """The layers of a model in training, first to last.

    Attributes:
        below: Frozen layers that the organ stands on.
        trained: The organ's.
        above: Frozen layers above it.
        sources: Where layers come from that are not the host's.
    """

    below: tuple[Layer, ...]
    trained: tuple[Layer, ...]
    above: tuple[Layer, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)

    def tensors(self, host: Checkpoint) -> Tensors:
        """What the trained layers begin with, under an organ's names."""
        source = self.sources.get(ORGAN, host.source)
        return Renamed(
            source.tensors,
            {
                f"{index}.{rest}": name
                for index, layer in enumerate(self.trained)
                for rest, name in source.layer(layer.index).items()
            },
        )


def standing(host: Checkpoint, span: Span, recipe: Recipe) -> Standing:
    """The layers in training for an organ of ``span``.

    Raises:
        PlanError: The span reaches past the host.
    """
    layers, trained = whole(HOST, host.layers), cut(host.layers, span)
    below, above = layers[: span.start], layers[span.stop :]
    match recipe.scaffold:
        case "alone":
            return Standing((), trained, ())
        case "emulator":
            return Standing(below[: recipe.context], trained, above[-recipe.context :])
        case "inserted":
            source = replace(host.source, tensors=Silent(host.tensors))
            plan = transplant(
                host.layers, ORGAN, len(span), mode="insert", position=span.start
            ).layers
            organ = tuple(Layer(ORGAN, layer.index) for layer in trained)
            return Standing(
                plan[: span.start], organ, plan[span.start + len(span) :], {ORGAN: source}
            )
    return Standing(below, trained, above)


@dataclass(frozen=True, slots=True)
class Silent:
    """Layers' tensors with the output projections of attention and feed-forward at zero.

    A layer adds what these put out to what came in, so such a layer changes nothing. Whether it
    does so in its class, who trains it tries.

    Source: Wu et al. (2024), LLaMA Pro: Progressive LLaMA with Block Expansion, arXiv:2401.02415.
    """

    source: Tensors

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self.source.names()

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""
        return self.source.form(name)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, on the CPU; zeros for an output projection."""
        import torch

        if not is_output(name):
            return self.source.read(name, shared=shared)
        form = self.form(name)
        return torch.zeros(form.shape, dtype=getattr(torch, form.dtype))
