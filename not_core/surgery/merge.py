"""Organs of one span made into one: their weighted average, or TIES.

Tensors are merged one at a time, when they are read, in float32 (float64 if that is their type),
and rounded to their own type. Organs are taken in order of their digests, so that the order in
which they are given changes nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from not_core.errors import IncompatibleOrganError, OrganError
from not_core.manifest import Manifest, MergeFacts
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.organ import Label, Organ, describe, extract
from not_core.surgery.tensors import FLOATS, Form, Held, Tensors, finite

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """The mean of the organs' weights.

    Attributes:
        weights: One an organ, in the order of the organs; none makes them equal.

    Source: Wortsman et al. (2022), Model soups, arXiv:2203.05482.
    """

    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_positive(*self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """Trim what each organ changed, elect a sign for each number, average those that agree.

    Attributes:
        density: Part of each tensor's changes that is kept, the largest.
        scale: Factor of the merged change, the paper's lambda.
        weights: One an organ, in the order of the organs; none makes them equal, as in the paper.

    The paper trims a whole model at once; here, as in mergekit, each tensor is trimmed for itself.

    Source: Yadav et al. (2023), TIES-Merging, arXiv:2306.01708, whose defaults these are.
    """

    density: float = 0.2
    scale: float = 1.0
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"expected 0 < density <= 1, got {self.density}")
        _check_positive(self.scale, *self.weights)


Method = Average | Ties


def _check_positive(*factors: float) -> None:
    # An organ of weight 0 would be named as a parent without being one.
    if not all(factor > 0 and math.isfinite(factor) for factor in factors):
        raise ValueError(f"expected a finite scale and weights > 0, got {factors}")


@dataclass(frozen=True, slots=True)
class Merged:
    """Tensors of several organs, merged when they are read; ``method`` has a weight for each."""

    organs: tuple[Tensors, ...] = field(repr=False)
    base: Tensors = field(repr=False)
    method: Method

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self.base.names()

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without merging it."""
        return self.base.form(name)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, merged anew at each call.

        Raises:
            OrganError: It is not finite: an organ's is not, or it does not fit its type.
        """
        import torch

        form = self.form(name)
        stored = getattr(torch, form.dtype)
        wide = torch.float64 if stored is torch.float64 else torch.float32
        read = (organ.read(name, shared=True).to(wide) for organ in self.organs)
        parents = zip(read, self.method.weights, strict=True)
        if isinstance(self.method, Ties):
            base = self.base.read(name, shared=True).to(wide)
            merged = base + self.method.scale * _ties(base, parents, self.method.density)
        else:
            merged = _average(parents)
        merged = merged.to(stored)
        if not finite(merged):
            raise OrganError(
                f"{name} holds values that are not finite as {form.dtype} once merged; "
                "choose sound organs, smaller weights or a smaller scale"
            )
        return merged


def merge(
    organs: Sequence[Organ], host: Checkpoint, label: Label, method: Method
) -> tuple[Manifest, Tensors]:
    """Merge organs that grew in one base at one span.

    The manifest names its parents in order of their digests. It states no privacy, whatever they
    state: a unit that only one of them was trained on keeps what that one states, but a patient may
    be at two sites, where epsilons add up, and no manifest tells.

    Args:
        organs: Two or more.
        host: The base that they grew in.
        label: Names of the new organ.
        method: How.

    Returns:
        Manifest and tensors, for ``write_organ``.

    Raises:
        OrganError: Fewer than two organs, one that is given twice, or values that are not finite.
        IncompatibleOrganError: They differ in base, span or tensors, or are quantized.
        PlanError: Their span reaches past the host.
        ValueError: Not one weight an organ.
    """
    weights = method.weights or (1.0,) * len(organs)
    if len(weights) != len(organs):
        raise ValueError(f"expected a weight for each of {len(organs)} organs, got {len(weights)}")
    _check(organs, host)
    parents = sorted(zip(organs, weights, strict=True), key=lambda one: one[0].manifest.digest)
    method = replace(method, weights=tuple(weight for _, weight in parents))
    span = organs[0].manifest.span
    merged = Merged(tuple(organ.tensors for organ, _ in parents), extract(host, span), method)
    digests = tuple(organ.manifest.digest for organ, _ in parents)
    manifest = describe(host, span, merged, label, training=None, parents=digests)
    facts = MergeFacts(
        method="ties" if isinstance(method, Ties) else "average",
        weights=method.weights,
        density=method.density if isinstance(method, Ties) else None,
        scale=method.scale if isinstance(method, Ties) else None,
        trained=any(organ.manifest.trained for organ in organs),
    )
    return replace(manifest, merge=facts), merged


Weighted = Iterator[tuple["torch.Tensor", float]]
"""Tensors of one shape and type, each with its weight."""


def _average(parents: Weighted) -> "torch.Tensor":
    tensor, whole = next(parents)
    total = tensor * whole
    for tensor, weight in parents:
        total += tensor * weight  # rounded twice everywhere; fused, it would depend on the machine
        whole += weight
    return total / whole


def _ties(base: "torch.Tensor", parents: Weighted, density: float) -> "torch.Tensor":
    """What TIES adds to ``base``, not scaled yet; where changes cancel out, nothing."""
    import torch

    up, down, ups, downs = (torch.zeros_like(base) for _ in range(4))
    for tensor, weight in parents:
        change = _trim(tensor - base, density)
        up += change.clamp(min=0) * weight
        down += change.clamp(max=0) * weight
        ups.add_(change > 0, alpha=weight)
        downs.add_(change < 0, alpha=weight)
    mass = up + down
    agreed, whole = torch.where(mass > 0, up, down), torch.where(mass > 0, ups, downs)
    return torch.where(mass == 0, 0, agreed / whole)


def _trim(change: "torch.Tensor", density: float) -> "torch.Tensor":
    """Keep the largest, at least one, of equal ones the first in row-major order; zero the rest."""
    count = change.numel()
    kept = max(1, int(density * count))
    if kept >= count:
        return change
    size = change.abs().flatten()
    least = size.kthvalue(count - kept + 1).values
    if least == 0:  # all that is not zero is kept
        return change
    keep = size > least
    level = (size == least).nonzero().flatten()
    keep[level[: kept - int(keep.sum())]] = True
    return change * keep.view_as(change)


def _check(organs: Sequence[Organ], host: Checkpoint) -> None:
    """Refuse what cannot be merged, from manifests and the host's config, headers and digests."""
    manifests = [organ.manifest for organ in organs]
    if len(manifests) < 2:
        raise OrganError(f"{len(manifests)} organs to merge; give two or more of one span")
    unclaimed = [replace(one, donor=None) for one in manifests]  # signing changes the digest
    for one, content in zip(manifests, unclaimed, strict=True):
        if unclaimed.count(content) > 1:
            raise OrganError(f"{one.organ_id} is given twice; give each organ once")
    span = manifests[0].span
    cut = extract(host, span)
    # An organ without tensors: its manifest says of the base what theirs must say.
    expected = _terms(describe(host, span, Held({}), Label(name="none"), training=None), cut)
    for one, organ in zip(manifests, organs, strict=True):
        found = _terms(one, organ.tensors)
        wrong = [
            f"{what} is {found.get(what)!r}, expected {expected.get(what)!r}"
            for what in expected | found
            if found.get(what) != expected.get(what)
        ]
        if wrong:
            raise IncompatibleOrganError(
                f"{one.organ_id} ({one.digest[:12]}) cannot be merged: {'; '.join(wrong[:3])}; "
                "merge organs of one span, grown in the base that is given"
            )
    if odd := [name for name in cut.names() if cut.form(name).dtype not in FLOATS]:
        raise IncompatibleOrganError(
            f"{odd[0]} is {cut.form(odd[0])}, only {', '.join(FLOATS)} can be merged; "
            "merge organs of the model as it was before it was quantized"
        )


def _terms(organ: Manifest, tensors: Tensors) -> dict[str, object]:
    """What organs that are merged have in common, the most telling first."""
    base = organ.base
    return {
        "family": base.family,
        "base weights": base.weights,
        "vocabulary": base.tokenizer,
        "span": str(organ.span),
        **base.config,
        **base.layer_config,
        **{name: str(tensors.form(name)) for name in tensors.names()},
    }
