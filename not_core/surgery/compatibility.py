"""Whether an organ fits a host, decided from the manifest and the host's config and headers."""

from collections.abc import Set

from not_core.errors import IncompatibleOrganError
from not_core.manifest import Manifest
from not_core.surgery.anatomy import fitting_fields, per_layer_fields
from not_core.surgery.checkpoint import Checkpoint

FLOATS = ("float32", "bfloat16", "float16", "float64")

ALLOWABLE = frozenset({"base", "tokenizer"})
"""Differences that a user may allow: the organ still runs, though it was made for another host."""


def check(manifest: Manifest, host: Checkpoint, allow: Set[str] = frozenset()) -> None:
    """Refuse an organ that does not fit, naming every difference with both values.

    Args:
        manifest: The organ's.
        host: The recipient model.
        allow: Differences to accept, from ``ALLOWABLE``.

    Raises:
        IncompatibleOrganError: It does not fit, or fits only with an ``allow`` that is not given.
    """
    if odd := allow - ALLOWABLE:
        raise ValueError(f"only {sorted(ALLOWABLE)} can be allowed, got {sorted(odd)}")
    found = []
    base = manifest.base
    if base.family != host.anatomy.family:
        raise IncompatibleOrganError(
            f"organ is of family {base.family}, recipient is {host.anatomy.family}; "
            "choose an organ grown in the recipient's family"
        )
    theirs, ours = base.config, fitting_fields(host.config, host.anatomy)
    found += [
        f"{name} is {theirs.get(name)!r} in the organ, {ours.get(name)!r} in the recipient"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    found += _odd_shapes(manifest, host)
    if found:
        raise IncompatibleOrganError(
            "; ".join(found) + "; choose an organ grown in the recipient's model"
        )
    if "tokenizer" not in allow and base.tokenizer != host.tokenizer_digest:
        found.append(f"vocabulary {_short(base.tokenizer)}, not {_short(host.tokenizer_digest)}")
    if "base" not in allow and base.weights != host.weights_digest:
        found.append(f"base weights {_short(base.weights)}, not {_short(host.weights_digest)}")
    if found:
        raise IncompatibleOrganError(
            f"organ was grown with {' and '.join(found)}; choose an organ of this base, "
            "or allow the difference and measure what it does"
        )


def _odd_shapes(manifest: Manifest, host: Checkpoint) -> list[str]:
    """Differences between each organ layer's tensors and those of a host layer; the first three."""
    layer = {rest: host.tensors.shape(name) for rest, name in host.layer_names(0).items()}
    given: dict[str, dict[str, tuple[int, ...]]] = {
        str(index): {} for index in range(len(manifest.span))
    }
    for facts in manifest.tensors:
        index, _, rest = facts.name.partition(".")
        given.setdefault(index, {})[rest] = facts.shape
    odd = [
        f"{index}.{rest} is {theirs.get(rest, 'missing')} in the organ, "
        f"{layer.get(rest, 'missing')} in the recipient"
        for index, theirs in given.items()
        for rest in sorted(layer.keys() | theirs.keys())
        if layer.get(rest) != theirs.get(rest)
    ]
    odd += [
        f"{facts.name} is {facts.dtype}, weights are one of {', '.join(FLOATS)}"
        for facts in manifest.tensors
        if facts.dtype not in FLOATS
    ]
    fields = per_layer_fields(host.config, host.layers)
    entries = {name: len(values) for name, values in manifest.base.layer_config.items()}
    if entries != dict.fromkeys(fields, len(manifest.span)):
        odd.append(
            f"config has entries {entries} for the organ's {len(manifest.span)} layers, the "
            f"recipient has one a layer of {list(fields)}"
        )
    return odd[:3]


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"
