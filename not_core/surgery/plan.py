"""The one idea: every operation on models is an ordered list of (source, layer) pairs.

A plan is a value; ``assemble`` turns it into a model of the same class, in memory or on disk.
"""

from dataclasses import dataclass
from typing import Literal

from not_core.errors import PlanError
from not_core.manifest import Span

HOST = "host"
Mode = Literal["replace", "insert"]


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer ``index`` of ``source``: the host, or an organ by its digest."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The layers of a model, first to last; embeddings, final norm and head are the host's."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise PlanError("a plan without layers makes no model; keep at least one")

    def places(self, source: str) -> tuple[int, ...]:
        """Indices in the new model of the layers that come from ``source``."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.source == source)


def whole(source: str, count: int) -> tuple[Layer, ...]:
    """All ``count`` layers of one source in order."""
    return tuple(Layer(source, index) for index in range(count))


def identity(layers: int) -> Plan:
    """The host as it is."""
    return Plan(whole(HOST, layers))


def alone(organ: str, count: int) -> Plan:
    """The paper's wrapper: the organ between the host's embeddings and head.

    Source: Neural Organ Transplantation, arXiv:2601.13580.
    """
    return Plan(whole(organ, count))


def transplant(layers: int, organ: str, count: int, *, mode: Mode, position: int) -> Plan:
    """Put ``count`` organ layers into a host of ``layers`` layers at ``position``.

    Args:
        layers: Number of host layers.
        organ: Source name of the organ.
        count: Number of organ layers.
        mode: ``replace`` takes the place of as many host layers; ``insert`` keeps them all.
        position: Host layer index of the organ's first layer; for ``insert``, 0 to ``layers``.

    Raises:
        PlanError: The organ would reach past the host.
    """
    last = layers - count if mode == "replace" else layers
    if not 0 <= position <= last:
        raise PlanError(
            f"position {position} is outside the host: {mode} of {count} layers into {layers} "
            f"takes a position from 0 to {last}"
            if last >= 0
            else f"{count} organ layers cannot replace layers of a host that has {layers}"
        )
    host = whole(HOST, layers)
    kept = position + count if mode == "replace" else position
    return Plan(host[:position] + whole(organ, count) + host[kept:])


def cut(layers: int, span: Span) -> tuple[Layer, ...]:
    """The host layers of a span.

    Raises:
        PlanError: The span reaches past the host.
    """
    if span.stop > layers:
        raise PlanError(f"span {span} reaches past the model, which has {layers} layers")
    return whole(HOST, layers)[span.start : span.stop]
