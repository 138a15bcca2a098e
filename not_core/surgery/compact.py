"""Compact organs: what low-rank training learned, shipped as factors instead of layers.

A factored tensor is ``base + left @ right``. The factors are float16 and small, so that every
product of two is a multiple of 2^-48 and every sum of them stays below 2^5: float64 holds such
sums without rounding, whatever the order in which a library adds. So every machine makes the same
tensors, bit for bit, and the manifest signs their digests.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from not_core.errors import OrganError
from not_core.manifest import MANIFEST, Manifest, StoredFactors
from not_core.surgery.tensors import (
    FLOATS,
    Form,
    Tensors,
    form_of,
    shown,
    tensor_digest,
    tensor_facts,
)

if TYPE_CHECKING:
    import torch

LEFT, RIGHT = ".left", ".right"
LARGEST = 2.0**5
"""Bound of the sums that float64 holds exactly: 53 bits above 2^-48."""
CHUNK = 1 << 22
"""Numbers that are widened to float64 at once."""


@dataclass(frozen=True, slots=True)
class Zeroed:
    """Tensors of ``source``, those in ``zeroed`` at zero."""

    source: Tensors = field(repr=False)
    zeroed: frozenset[str]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self.source.names()

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""
        return self.source.form(name)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, on the CPU."""
        import torch

        if name not in self.zeroed:
            return self.source.read(name, shared=shared)
        form = self.form(name)
        return torch.zeros(form.shape, dtype=getattr(torch, form.dtype))


@dataclass(frozen=True, slots=True)
class Expanded:
    """Tensors of ``base``, those with factors changed by their product, when they are read."""

    base: Tensors = field(repr=False)
    factors: Tensors = field(repr=False)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self.base.names()

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without expanding it."""
        return self.base.form(name)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, expanded anew at each call, a few rows at a time.

        Raises:
            OrganError: Its factors are not float16, do not fit its shape or are too large.
        """
        import torch

        if name + LEFT not in self.factors.names():
            return self.base.read(name, shared=shared)
        base = self.base.read(name, shared=True)
        left, right = (self.factors.read(name + side, shared=True) for side in (LEFT, RIGHT))
        check_factors(name, left, right, self.form(name))
        expanded = torch.empty_like(base)
        wide = right.to(torch.float64)
        step = max(1, CHUNK // right.shape[1])
        for start in range(0, len(base), step):
            rows = slice(start, start + step)
            change = left[rows].to(torch.float64) @ wide
            expanded[rows] = (base[rows].to(torch.float64) + change).to(base.dtype)
        return expanded


def describe_factors(tensors: Expanded, cut: Tensors) -> StoredFactors:
    """The facts of an organ's factors, for its manifest.

    Args:
        tensors: The organ's.
        cut: The same layers of the base.

    Raises:
        ValueError: The organ stands on something that is neither the base's nor zero.
    """
    zeroed = []
    for name in tensors.names():
        start, theirs = tensors.base.read(name, shared=True), cut.read(name, shared=True)
        if tensor_digest(start) == tensor_digest(theirs):  # bits: 0.0 equals -0.0
            continue
        if bool(start.count_nonzero()):
            raise ValueError(f"{name} does not stand on the base's tensor; ship whole layers")
        zeroed.append(name)
    return StoredFactors(tensors=tensor_facts(tensors.factors), zeroed=tuple(zeroed))


def check_facts(manifest: Manifest, stored: StoredFactors) -> None:
    """Refuse a manifest whose factors cannot make its tensors, before any of them is read.

    Raises:
        OrganError: A factor stands alone or twice or for no tensor, or does not fit its tensor, or
            its rank is larger than the manifest says.
    """
    tensors = {one.name: Form(one.dtype, one.shape) for one in manifest.tensors}
    factors = {one.name: Form(one.dtype, one.shape) for one in stored.tensors}
    if (len(tensors), len(factors)) != (len(manifest.tensors), len(stored.tensors)):
        raise OrganError(f"{MANIFEST} names a tensor or factor twice; get an undamaged copy")
    if odd := sorted({*stored.zeroed} - {*tensors}):
        raise OrganError(f"{MANIFEST} says that {shown(odd[0])} begins at zero, which is not there")
    stems = sorted({name.removesuffix(LEFT).removesuffix(RIGHT) for name in factors})
    if odd := sorted({stem + side for stem in stems for side in (LEFT, RIGHT)} ^ {*factors}):
        raise OrganError(f"{shown(odd[0])} is one factor without the other; get an undamaged copy")
    if odd := sorted({*stems} - {*tensors}):
        raise OrganError(f"{shown(odd[0])} has factors, but is no tensor of the organ")
    rank = manifest.training.rank if manifest.training else None
    for stem in stems:
        left, right = factors[stem + LEFT], factors[stem + RIGHT]
        check_forms(stem, left, right, tensors[stem])
        if rank is None or left.shape[1] > rank:
            raise OrganError(
                f"factors of {shown(stem)} have rank {left.shape[1]}, the training had {rank}; "
                "get an undamaged copy"
            )


def check_forms(name: str, left: Form, right: Form, form: Form) -> None:
    """Refuse factors of other types or shapes than those of a tensor.

    Raises:
        OrganError: As it says.
    """
    if {left.dtype, right.dtype} != {"float16"} or form.dtype not in FLOATS:
        raise OrganError(
            f"factors of {shown(name)} are {left.dtype} and {right.dtype}, the tensor is "
            f"{form.dtype}; expected float16 factors of one of {', '.join(FLOATS)}"
        )
    ranks = {*left.shape[1:], *right.shape[:1]}
    fits = len(left.shape) == len(right.shape) == 2 and len(ranks) == 1
    if not fits or (left.shape[0], right.shape[1]) != form.shape or 0 in form.shape:
        raise OrganError(
            f"factors of {shown(name)} are {left} and {right}, the tensor is {form}; "
            "get an undamaged copy"
        )
    # Beyond that, factors only cost memory: they would be larger than what they change.
    if not 1 <= ranks.pop() <= max(form.shape):
        raise OrganError(
            f"factors of {shown(name)} have rank {left.shape[1]}, expected 1 to {max(form.shape)}; "
            "train with a smaller rank or ship whole layers"
        )


def check_factors(name: str, left: "torch.Tensor", right: "torch.Tensor", form: Form) -> None:
    """Refuse factors whose product would not be exact or not fit.

    Raises:
        OrganError: They are not float16, of the wrong shape, not finite or too large.
    """
    check_forms(name, form_of(left), form_of(right), form)
    reach = left.shape[1] * float(left.abs().amax()) * float(right.abs().amax())
    if not reach < LARGEST:
        raise OrganError(
            f"factors of {shown(name)} reach {reach:g}, expected less than {LARGEST:g}, so that "
            "their product is exact; train with a lower learning rate, or whole layers"
        )
