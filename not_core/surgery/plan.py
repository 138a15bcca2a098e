"""The one idea: every operation on models is an ordered list of (source, layer) pairs.

A plan is a value; ``assemble`` turns it into a model of the same class, in memory or on disk.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from not_core.errors import PlanError
from not_core.manifest import Span

HOST = "host"
Mode = Literal["replace", "insert"]


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer ``index`` of ``source``: the host, or an organ by its digest.

    ``over`` is the host layer whose place it takes; None where it takes none.
    """

    source: str
    index: int
    over: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The layers of a model, first to last; embeddings, final norm and head are the host's."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise PlanError("a plan without layers makes no model; keep at least one")


def whole(source: str, count: int) -> tuple[Layer, ...]:
    """All ``count`` layers of one source in order."""
    return tuple(Layer(source, index) for index in range(count))


def identity(layers: int) -> Plan:
    """The host as it is."""
    return Plan(whole(HOST, layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """Where an organ goes.

    Attributes:
        organ: Source name of the organ.
        count: Number of its layers.
        mode: ``replace`` takes the place of as many host layers; ``insert`` keeps them all.
        position: Host layer index of the organ's first layer; for ``insert``, 0 to the number of
            host layers.
    """

    organ: str
    count: int
    mode: Mode
    position: int

    @property
    def taken(self) -> range:
        """Host layers whose place it takes."""
        return range(self.position, self.position + (self.count if self.mode == "replace" else 0))


def compose(layers: int, grafts: Sequence[Graft]) -> Plan:
    """Put several organs into a host; positions count the layers of the host as it was.

    Organs inserted at one position follow each other in the order given; an organ inserted where
    another replaces stands before it.

    Raises:
        PlanError: An organ would reach past the host or into the place of another.
    """
    for graft in grafts:
        last = layers - graft.count if graft.mode == "replace" else layers
        if not 0 <= graft.position <= last:
            raise PlanError(
                f"position {graft.position} is outside the host: {graft.mode} of {graft.count} "
                f"layers into {layers} takes a position from 0 to {last}"
                if last >= 0
                else f"{graft.count} organ layers cannot replace layers of a host that has {layers}"
            )
    for one, other in itertools.permutations(grafts, 2):
        inside = one.position in other.taken[1:] or (
            one.mode == other.mode == "replace" and one.position == other.position
        )
        if inside:
            raise PlanError(
                f"{one.mode} at {one.position} reaches into layers {other.taken.start}:"
                f"{other.taken.stop}, which another organ replaces; "
                "merge organs of one span first, or choose other positions"
            )
    starting: dict[int, list[Layer]] = {}
    for graft in sorted(grafts, key=lambda graft: graft.mode == "replace"):
        starting.setdefault(graft.position, []).extend(
            Layer(graft.organ, index, graft.taken[index] if graft.taken else None)
            for index in range(graft.count)
        )
    gone = {index for graft in grafts for index in graft.taken}
    made: list[Layer] = []
    for index in range(layers + 1):
        made += starting.get(index, [])
        if index < layers and index not in gone:
            made.append(Layer(HOST, index))
    return Plan(tuple(made))


def transplant(layers: int, organ: str, count: int, *, mode: Mode, position: int) -> Plan:
    """Put one organ of ``count`` layers into a host of ``layers`` layers.

    Raises:
        PlanError: The organ would reach past the host.
    """
    return compose(layers, [Graft(organ=organ, count=count, mode=mode, position=position)])


def cut(layers: int, span: Span) -> tuple[Layer, ...]:
    """The host layers of a span.

    Raises:
        PlanError: The span reaches past the host.
    """
    if span.stop > layers:
        raise PlanError(
            f"span {span} reaches past the model, which has {layers} layers; choose one up to "
            f"{layers}"
        )
    return whole(HOST, layers)[span.start : span.stop]
