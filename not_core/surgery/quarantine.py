"""Quarantine: what an organ's tensors must pass before they touch a model.

Who made an organ may sign what it likes, so its tensors are looked at for themselves, one at a
time: ``size``, ``declared`` and ``finite`` when they are read (``organ.read_stored``), ``drift``
here. What this cannot stop is an organ that does harm by small changes; that is for measuring.
"""

import math
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from not_core.errors import OrganError, QuarantineError
from not_core.manifest import Manifest
from not_core.surgery.anatomy import is_output
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.compact import CHUNK
from not_core.surgery.compatibility import check
from not_core.surgery.expansion import expand
from not_core.surgery.lineage import lineage_of
from not_core.surgery.organ import Organ, extract, read_manifest, read_stored
from not_core.surgery.origins import root_tensors
from not_core.surgery.tensors import Renamed, Tensors, shown

if TYPE_CHECKING:
    import torch

FLOOR = 0.25
"""Size of a number below which a change no longer counts for more, however small the base is.

Training moves a number by about its learning rate a step, whatever it was: a bias near zero, or at
zero, moves far in its own units.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What an organ may be, before it touches a model.

    Attributes:
        most_bytes: Largest ``organ.safetensors``; None for any that is as large as its manifest
            says.
        most_drift: Largest ``Drift``, of norm and of peak, of any tensor.
    """

    most_bytes: int | None = None
    most_drift: float = 1.0

    def __post_init__(self) -> None:
        if (self.most_bytes is not None and self.most_bytes < 1) or not self.most_drift > 0:
            raise ValueError("expected most_bytes >= 1 and most_drift > 0")


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one tensor of an organ is from the base's.

    Attributes:
        name: The tensor's, in the organ.
        norm: Frobenius norm of the change over that of the base's tensor.
        peak: Largest absolute change of a number over the largest absolute number of the base's.
    """

    name: str
    norm: float
    peak: float


def admit(
    folder: Path, host: Checkpoint, bounds: Bounds, *, allow: Set[str] = frozenset()
) -> Organ:
    """Read an organ of either form and check all that may be checked without running it.

    One tensor of the organ and one of the host are in memory at a time.

    Args:
        folder: The organ's.
        host: The model that it is to be put into.
        bounds: What it may be.
        allow: Differences from the host to accept; see ``compatibility``.

    Raises:
        QuarantineError: A check fails; ``check`` names it.
        OrganError: As ``read_stored`` and ``expand``.
        IncompatibleOrganError: It does not fit the host.
    """
    check(read_manifest(folder), host, allow)
    organ = expand(read_stored(folder, most_bytes=bounds.most_bytes), host)
    for one in drifts(organ, host):
        for value, what in ((one.norm, "norm"), (one.peak, "largest number")):
            if not value <= bounds.most_drift:  # NaN is no drift that is allowed
                raise QuarantineError(
                    "drift",
                    f"the {what} of {shown(one.name)} is {value:.3g} times the base's away from "
                    f"it, at most {bounds.most_drift:g} is allowed; refuse the organ, or raise "
                    "most_drift if its donor can tell why",
                )
    return organ


def drifts(organ: Organ, host: Checkpoint) -> Iterator[Drift]:
    """The drift of each tensor, in order of name, in float64.

    Where ``host`` has the layers that the organ grew from, it is that of the change; of output
    projections, which are zero where inserted layers begin, that from zero if it is less. On
    another host, whose layers the organ's never were, it is by how much norm and largest number of
    the organ's tensor exceed those of the nearest host layer: never more than the drift from a
    base of the same sizes.

    Args:
        organ: It must fit the host.
        host: Its base, that with other organs in it, or another model.

    Raises:
        QuarantineError: ``declared``: the host has no layer with such a tensor.
    """
    grown = _grown_from(organ.manifest, host)
    base = grown or _nearest(organ.manifest, host)
    there = frozenset(base.names())
    for name in organ.tensors.names():
        form = organ.tensors.form(name)
        if name not in there or base.form(name).shape != form.shape:
            raise QuarantineError("declared", f"{shown(name)} is {form}, unlike the base's")
        tensor, was = organ.tensors.read(name), base.read(name)
        norms, peaks = _sizes(tensor, was)
        floor = FLOOR * math.sqrt(max(tensor.shape, default=1))
        yield Drift(
            name,
            _drift(norms, floor, is_output(name), grown is not None),
            _drift(peaks, FLOOR, is_output(name), grown is not None),
        )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes, in one norm, of an organ's tensor, the base's, and the change between them."""

    organ: float
    base: float
    change: float


def _drift(sizes: _Sizes, floor: float, output: bool, grown: bool) -> float:
    moved = sizes.change if grown else max(0.0, sizes.organ - sizes.base)
    if output:
        moved = min(moved, sizes.organ)
    return moved / max(sizes.base, floor)


def _sizes(tensor: "torch.Tensor", base: "torch.Tensor") -> tuple[_Sizes, _Sizes]:
    """Frobenius norms and largest absolute numbers, added up in float64."""
    squares, peaks = [0.0] * 3, [0.0] * 3
    ours, theirs = tensor.flatten(), base.flatten()
    for start in range(0, len(ours), CHUNK):
        piece, was = (one[start : start + CHUNK].double() for one in (ours, theirs))
        for index, values in enumerate((piece, was, piece - was)):
            squares[index] += float(values.square().sum())
            peaks[index] = max(peaks[index], float(values.abs().max()))
    return _Sizes(*map(math.sqrt, squares)), _Sizes(*peaks)


def _grown_from(manifest: Manifest, host: Checkpoint) -> Tensors | None:
    """The layers that an organ grew from, under its names; None where the host has them not."""
    if manifest.base.weights == host.weights_digest:
        return extract(host, manifest.span)
    lineage = lineage_of(host)
    if manifest.base.weights == lineage.root:
        with suppress(OrganError):  # another organ took their place, and they were not kept
            return root_tensors(host, lineage, manifest.span)
    return None


def _nearest(manifest: Manifest, host: Checkpoint) -> Tensors:
    """For each tensor the like-named one, of like shape, of the host layer nearest to its place."""
    where = {}
    for one in manifest.tensors:
        index, _, rest = one.name.partition(".")
        place = manifest.span.start + int(index)
        alike = {
            layer: names[rest]
            for layer, names in host.source.layers.items()
            if rest in names and host.tensors.form(names[rest]).shape == one.shape
        }
        if not alike:
            raise QuarantineError("declared", f"the host has no layer with {shown(one.name)}")
        where[one.name] = alike[min(alike, key=lambda layer: abs(layer - place))]
    return Renamed(host.tensors, where)
