"""Whether an organ fits a host, decided from the manifest and the host's config and headers."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from not_core.errors import IncompatibleOrganError
from not_core.manifest import Manifest
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.layer_config import default_fields, fitting_fields
from not_core.surgery.lineage import lineage_of
from not_core.surgery.organ import Organ
from not_core.surgery.source import Source
from not_core.surgery.tensors import FLOATS, Form, shown

# Config fields with which an organ still runs though they differ, by the word that allows it.
_MATTER_LESS = {
    "tokenizer": ("vocab_size",),
    "head": ("tie_word_embeddings", "final_logit_softcapping", "word_embed_proj_dim"),
    "rope": (
        "rope_parameters",
        "max_position_embeddings",
        "n_positions",
        "original_max_position_embeddings",
    ),
}
ALLOWABLE = frozenset({"base", "dtype", *_MATTER_LESS})
"""Differences that a user may allow: the organ still runs, though it was made for another host."""

Layer = Mapping[str, Form]
"""Name within a layer -> type and shape."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference; ``allow`` is the word that accepts it, None where nothing can."""

    what: str
    allow: str | None = None


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
    found = _config(manifest, host)
    if manifest.base.family == host.anatomy.family:
        found += _layers(manifest, host)
    if all(one.allow for one in found):  # digests cost reading: last, and only where they decide
        found += _digests(manifest, host, allow)
    refused = [one for one in found if one.allow not in allow]
    if not refused:
        return
    words = sorted({one.allow for one in refused if one.allow})
    raise IncompatibleOrganError(
        "; ".join(one.what for one in refused)
        + (
            "; choose an organ grown in the recipient's model"
            if any(one.allow is None for one in refused)
            else f"; choose an organ of this base, or allow {' and '.join(words)} and measure what "
            "it does"
        )
    )


def fitted(organ: Organ, host: Checkpoint) -> Source:
    """An organ's layers in the types of the host's."""
    dtypes: dict[str, str] = {}
    for kind in _kinds(host):
        dtypes |= {rest: form.dtype for rest, form in kind.items()}
    alike = all(
        organ.tensors.form(name).dtype == dtypes.get(rest)
        for layer in organ.source.layers.values()
        for rest, name in layer.items()
    )
    return organ.source if alike else organ.source.cast(dtypes)


def _config(manifest: Manifest, host: Checkpoint) -> list[Mismatch]:
    base = manifest.base
    if base.family != host.anatomy.family:
        return [
            Mismatch(
                f"family is {base.family} in the organ, {host.anatomy.family} in the recipient"
            )
        ]
    theirs, ours = base.config, fitting_fields(host.config, host.anatomy)
    # A file that leaves a field out means the class's default, whichever program wrote it.
    defaults = default_fields(host.anatomy)
    theirs, ours = defaults | theirs, defaults | ours
    groups = {name: word for word, names in _MATTER_LESS.items() for name in names}
    return [
        Mismatch(
            f"{shown(name)} is {theirs.get(name)!r} in the organ, {ours.get(name)!r} in the "
            "recipient",
            groups.get(name),
        )
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def _layers(manifest: Manifest, host: Checkpoint) -> list[Mismatch]:
    """Differences between the organ's layers and the host layers that are most like them."""
    layers: dict[str, dict[str, Form]] = {}
    for facts in manifest.tensors:
        index, _, rest = facts.name.partition(".")
        layers.setdefault(index, {})[rest] = Form(facts.dtype, facts.shape)
    kinds = _kinds(host)
    found = []
    if len(layers) != len(manifest.span):
        found.append(
            Mismatch(
                f"the organ has tensors of {len(layers)} layers, its span has {len(manifest.span)}"
            )
        )
    for index, layer in sorted(layers.items()):
        nearest = min((_compare(index, layer, kind) for kind in kinds), key=len)
        found += nearest[:3]
    entries = {name: len(values) for name, values in manifest.base.layer_config.items()}
    if entries != dict.fromkeys(host.source.entries, len(manifest.span)):
        found.append(
            Mismatch(
                f"config has entries {entries} for the organ's {len(manifest.span)} layers, the "
                f"recipient has one a layer of {sorted(host.source.entries)}"
            )
        )
    return found


def _compare(index: str, layer: Layer, kind: Layer) -> list[Mismatch]:
    found = []
    for rest in sorted(layer.keys() | kind.keys()):
        theirs, ours = layer.get(rest), kind.get(rest)
        if theirs == ours:
            continue
        floats = theirs and ours and {theirs.dtype, ours.dtype} <= set(FLOATS)
        castable = floats and theirs and ours and theirs.shape == ours.shape
        found.append(
            Mismatch(
                f"{shown(f'{index}.{rest}')} is {theirs or 'missing'} in the organ, "
                f"{ours or 'missing'} in the recipient",
                "dtype" if castable else None,
            )
        )
    return sorted(found, key=lambda one: one.allow is not None)


def _kinds(host: Checkpoint) -> list[Layer]:
    """The different sets of tensors that the host's layers have; one set for most families."""
    kinds: list[Layer] = []
    for layer in host.source.layers.values():
        kind = {rest: host.tensors.form(name) for rest, name in layer.items()}
        if kind not in kinds:
            kinds.append(kind)
    return kinds


def _digests(manifest: Manifest, host: Checkpoint, allow: Set[str]) -> list[Mismatch]:
    base = manifest.base
    found = []
    if "tokenizer" not in allow and base.tokenizer != host.tokenizer_digest:
        found.append(
            Mismatch(
                f"tokenizer is {_short(base.tokenizer)} in the organ, "
                f"{_short(host.tokenizer_digest)} in the recipient",
                "tokenizer",
            )
        )
    # A model that holds organs already has the base that it had before them.
    if "base" in allow and not manifest.compact:
        return found
    if base.weights not in {host.weights_digest, lineage_of(host).root}:
        what = (
            f"base weights are {_short(base.weights)} in the organ, "
            f"{_short(lineage_of(host).root)} in the recipient"
        )
        # On another base, factors make other tensors than those that were signed.
        only = ", and a compact organ expands on its own base only (see `organ expand`)"
        found.append(Mismatch(what + only) if manifest.compact else Mismatch(what, "base"))
    return found


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"
