"""Compact organs: what low-rank training learned, shipped as factors instead of layers.

A factored tensor is ``base + left @ right``. The factors are float16 and small, so that every
product of two is a multiple of 2^-48 and every sum of them stays below 2^5: float64 holds such
sums without rounding, whatever the order in which a library adds. So every machine makes the same
tensors, bit for bit, and the manifest signs their digests.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from not_core.errors import OrganError
from not_core.surgery.tensors import Form, Tensors

if TYPE_CHECKING:
    import torch

LEFT, RIGHT = ".left", ".right"
LARGEST = 2.0**5
"""Bound of the sums that float64 holds exactly: 53 bits above 2^-48."""


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
        """One tensor, expanded anew at each call.

        Raises:
            OrganError: Its factors are not float16, do not fit its shape or are too large.
        """
        import torch

        base = self.base.read(name, shared=shared)
        if name + LEFT not in self.factors.names():
            return base
        left, right = (self.factors.read(name + side, shared=True) for side in (LEFT, RIGHT))
        check_factors(name, left, right, self.form(name))
        change = left.to(torch.float64) @ right.to(torch.float64)
        return (base.to(torch.float64) + change).to(base.dtype)


def check_factors(name: str, left: "torch.Tensor", right: "torch.Tensor", form: Form) -> None:
    """Refuse factors whose product would not be exact or not fit.

    Raises:
        OrganError: They are not float16, of the wrong shape, not finite or too large.
    """
    import torch

    shape = (left.shape[0], right.shape[-1])
    if shape != form.shape or left.ndim != 2 or left.shape[1:] != right.shape[:1]:
        raise OrganError(
            f"factors of {name} are {tuple(left.shape)} and {tuple(right.shape)}, "
            f"the tensor is {form}; get an undamaged copy"
        )
    if {left.dtype, right.dtype} != {torch.float16}:
        raise OrganError(f"factors of {name} are {left.dtype}, expected float16")
    reach = left.shape[1] * float(left.abs().amax()) * float(right.abs().amax())
    if not reach < LARGEST:
        raise OrganError(
            f"factors of {name} reach {reach:g}, expected less than {LARGEST:g}, up to where "
            "their product is exact; train with a lower learning rate or ship whole layers"
        )
