"""How two models differ: which layers are the same, which changed and by how much.

Layers are paired by content first, so that a layer that was put in or taken out does not make all
layers above it look changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from not_core import canonical
from not_core.errors import IncompatibleOrganError
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.layer_config import fitting_fields

CHUNK = 1 << 22
"""Numbers that are widened to float64 at once."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart two sets of tensors are.

    Attributes:
        relative: L2 norm of the difference over that of the first, all tensors together; infinite
            where the first is zero, NaN where either holds values that are not finite.
        largest: Largest absolute difference of two numbers.
        changed: Tensors that differ.
        tensors: Tensors in all.
        unlike: Tensors that only one has, or of another shape; they count in no distance.
    """

    relative: float
    largest: float
    changed: int
    tensors: int
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer of the first model beside one of the second; None where the other has none."""

    first: int | None
    second: int | None
    distance: Distance | None

    @property
    def kind(self) -> Literal["same", "changed", "removed", "added"]:
        """What became of the layer from the first model to the second."""
        if self.first is None:
            return "added"
        if self.second is None:
            return "removed"
        return "same" if self.distance is None else "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """What tells two models apart.

    Attributes:
        layers: Pairs in order.
        frame: Embeddings, norms and head; None when they are the same.
        config: Fields that differ and decide whether an organ fits, with both values.
    """

    layers: tuple[Pair, ...]
    frame: Distance | None
    config: dict[str, tuple[object, object]]


def difference(first: Checkpoint, second: Checkpoint) -> Difference:
    """Compare two models of one family; one tensor of each is in memory at a time.

    A run of layers that another run of the same length replaced is compared layer by layer; of
    runs of different lengths, the surplus at the end counts as added or removed.

    Raises:
        IncompatibleOrganError: They are of different families.
    """
    if first.anatomy.family != second.anatomy.family:
        raise IncompatibleOrganError(
            f"the first model is of family {first.anatomy.family}, the second of "
            f"{second.anatomy.family}; compare models of one family"
        )
    ours, theirs = (fitting_fields(model.config, model.anatomy) for model in (first, second))
    return Difference(
        layers=tuple(
            Pair(one, other, _layers_apart(first, one, second, other))
            for one, other in _paired(_contents(first), _contents(second))
        ),
        frame=_apart(
            first, {name: name for name in first.frame}, second, {n: n for n in second.frame}
        ),
        config={
            name: (ours.get(name), theirs.get(name))
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        },
    )


def _contents(model: Checkpoint) -> list[str]:
    """A digest of each layer: equal for layers of equal tensors."""
    return [
        canonical.digest(
            {
                rest: [str(model.tensors.form(name)), model.tensor_digests[name]]
                for rest, name in sorted(model.source.layer(index).items())
            }
        )
        for index in range(model.layers)
    ]


def _paired(first: Sequence[str], second: Sequence[str]) -> list[tuple[int | None, int | None]]:
    pairs: list[tuple[int | None, int | None]] = []
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for _, start, stop, other, last in matcher.get_opcodes():
        both = min(stop - start, last - other)
        pairs += [(start + step, other + step) for step in range(both)]
        pairs += [(index, None) for index in range(start + both, stop)]
        pairs += [(None, index) for index in range(other + both, last)]
    return pairs


def _layers_apart(
    first: Checkpoint, one: int | None, second: Checkpoint, other: int | None
) -> Distance | None:
    if one is None or other is None:
        return None
    return _apart(first, first.source.layer(one), second, second.source.layer(other))


def _apart(
    first: Checkpoint, ours: Mapping[str, str], second: Checkpoint, theirs: Mapping[str, str]
) -> Distance | None:
    """Distance of tensors by their names in a layer; None when all are the same."""
    unlike = [
        f"{rest}: {_form(first, ours.get(rest))}, {_form(second, theirs.get(rest))}"
        for rest in sorted(ours.keys() | theirs.keys())
        if rest not in ours
        or rest not in theirs
        or first.tensors.form(ours[rest]).shape != second.tensors.form(theirs[rest]).shape
    ]
    alike = [
        (ours[rest], theirs[rest])
        for rest in sorted(ours.keys() & theirs.keys())
        if first.tensors.form(ours[rest]).shape == second.tensors.form(theirs[rest]).shape
    ]
    changed = [first.tensor_digests[one] != second.tensor_digests[other] for one, other in alike]
    if not any(changed) and not unlike:
        return None
    squares = whole = largest = 0.0
    for one, other in alike:
        left, right = first.tensors.read(one).flatten(), second.tensors.read(other).flatten()
        for start in range(0, len(left), CHUNK):
            piece = left[start : start + CHUNK].double()
            apart = right[start : start + CHUNK].double() - piece
            whole += float(piece.square().sum())
            squares += float(apart.square().sum())
            largest = _larger(largest, float(apart.abs().max()))
    relative = math.sqrt(squares / whole) if whole else (math.inf if squares else 0.0)
    return Distance(
        relative, largest, sum(changed), len(ours.keys() | theirs.keys()), tuple(unlike)
    )


def _larger(one: float, other: float) -> float:
    """The larger of two numbers; NaN when either is."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _form(model: Checkpoint, name: str | None) -> str:
    return str(model.tensors.form(name)) if name else "missing"
