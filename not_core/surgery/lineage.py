"""Where each layer of a grafted model comes from, and what lies beneath it.

A graft carries this beside its weights, with the layers that its organs replaced, so that an
organ can be taken out again and the host is what it was, bit for bit. Layers that a recovery
changed lie over what they were before, as an organ's lie over the host's.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, JsonValue
from pydantic.dataclasses import dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest, Line
from not_core.errors import CheckpointError, OrganError, PlanError
from not_core.manifest import (
    MOST_LAYERS,
    Count,
    NoPrivacy,
    Privacy,
    TensorFacts,
    TrainingFacts,
    check_charged,
)
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.organ import Organ
from not_core.surgery.plan import HOST, Layer, Plan
from not_core.surgery.tensors import shown

LINEAGE = "organs.json"
FORMAT: Literal["organ-exchange/lineage/v1"] = "organ-exchange/lineage/v1"
LINEAGE_BYTES = 32 * 1024 * 1024
"""Largest lineage that is read; it names every tensor that a graft has set aside."""
ROOT = "root"
"""Source name of the model that no organ has been put into."""
RECOVERY = "recovery"
"""What every recovery is called, beside its digest; no organ's id lacks a slash."""
What = Literal["organ", "organ-norms", "norms", "all"]
"""What learns in a recovery: the organs' layers or only their norms; all norms; all layers."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Origin:
    """Layer ``index`` of ``source`` and what it replaced.

    The source is ``root``, or an organ's or a recovery's digest.
    """

    source: Digest | Literal["root"]
    index: Count
    beneath: "Origin | None" = None

    def without(self, organ: str) -> "Origin | None":
        """This layer with the layers of an organ taken away: itself, what lies beneath, or none."""
        beneath = self.beneath.without(organ) if self.beneath else None
        return beneath if self.source == organ else replace(self, beneath=beneath)

    def chain(self) -> "Iterator[Origin]":
        """This layer and what lies beneath it, topmost first."""
        at: Origin | None = self
        while at is not None:
            yield at
            at = at.beneath


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RecoveryFacts:
    """How a graft was tuned on the records of the site that it was made for.

    Attributes:
        what: What learned.
        graft: Weights digest of the graft before.
        layers: Its layers that learned.
        learned: Digest of their tensors after, so that no two recoveries have one name.
        training: How.
        validation: Documents that chose among the readings.
        privacy: What it cost a unit of the records.
    """

    what: What
    graft: Digest
    layers: tuple[Count, ...]
    learned: Digest
    training: TrainingFacts
    validation: Count
    privacy: Privacy = NoPrivacy()

    def __post_init__(self) -> None:
        check_charged(self.privacy, self.training)

    @property
    def digest(self) -> str:
        """Its name as a source of layers."""
        return canonical.digest(self)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SourceFacts:
    """What is needed to put a source's layers back: see ``Source``.

    ``organ`` is an organ's id; ``recovery`` tells how a recovery's layers came about.
    """

    organ: Annotated[Line, Field(min_length=1)] | None
    recovery: RecoveryFacts | None = None
    start: Annotated[int, Field(ge=0, le=MOST_LAYERS)]
    entries: dict[str, Annotated[list[JsonValue], Field(max_length=MOST_LAYERS)]]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Lineage:
    """The origin of each layer of a grafted model.

    Attributes:
        root: Weights digest of the model that no organ has been put into.
        weights: Weights digest of this model; another one tells that it was changed since.
        sources: By the names that origins use.
        layers: One origin a layer.
        aside: The tensors of the layers that are set aside, named ``SOURCE.INDEX.NAME``.
    """

    format: Literal["organ-exchange/lineage/v1"] = FORMAT
    root: Digest
    weights: Digest
    sources: dict[str, SourceFacts]
    layers: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    aside: tuple[TensorFacts, ...] = ()

    def organs(self) -> dict[str, str]:
        """Ids of the organs in this model, by digest."""
        return {name: facts.organ for name, facts in self.sources.items() if facts.organ}

    def recoveries(self) -> dict[str, RecoveryFacts]:
        """The recoveries of this model, by digest."""
        return {name: facts.recovery for name, facts in self.sources.items() if facts.recovery}

    def tenants(self) -> tuple[str, ...]:
        """Whose each layer is: its source, and of a recovered layer the source beneath."""
        tuned = self.recoveries()
        return tuple(
            next((at.source for at in origin.chain() if at.source not in tuned), origin.source)
            for origin in self.layers
        )

    def find(self, organ: str) -> str:
        """Digest of the one organ or recovery with this id or beginning of a digest.

        Raises:
            OrganError: There is none, or more than one.
        """
        known = self.organs() | dict.fromkeys(self.recoveries(), RECOVERY)
        found = [
            digest
            for digest, name in known.items()
            if organ == name or (len(organ) >= 6 and digest.startswith(organ))
        ]
        if len(found) != 1:
            there = ", ".join(f"{name} ({digest[:12]})" for digest, name in known.items())
            raise OrganError(
                f"{len(found)} organs in this model are called {organ}; "
                f"name one of these by its digest: {there or 'none'}"
            )
        return found[0]


def lineage_of(host: Checkpoint) -> Lineage:
    """A model's lineage: what it carries, or that all its layers are its own.

    Raises:
        FormatError: What it carries is no lineage.
        CheckpointError: The model was changed since that was written, or the lineage contradicts
            itself or the model.
    """
    path = host.origin / LINEAGE
    if host.origin.is_file() or not path.is_file():
        return Lineage(
            root=host.weights_digest,
            weights=host.weights_digest,
            sources={
                ROOT: SourceFacts(
                    organ=None,
                    start=0,
                    entries={name: list(values) for name, values in host.source.entries.items()},
                )
            },
            layers=tuple(Origin(source=ROOT, index=index) for index in range(host.layers)),
        )
    data = canonical.read_bounded(path, LINEAGE_BYTES)
    lineage = canonical.decode(Lineage, data, LINEAGE, LINEAGE_BYTES)
    if lineage.weights != host.weights_digest or len(lineage.layers) != host.layers:
        raise CheckpointError(
            f"{host.origin} was changed after {LINEAGE} was written (weights "
            f"{host.weights_digest[:12]}, not {lineage.weights[:12]}); what its layers were is no "
            f"longer known: remove {LINEAGE} to treat it as a model of its own"
        )
    if odd := _contradiction(lineage, host):
        raise CheckpointError(
            f"{LINEAGE} in {host.origin} contradicts itself: {odd}; get an undamaged copy, or "
            f"remove {LINEAGE} to treat this as a model of its own"
        )
    return lineage


def aside_layer(name: str) -> tuple[Layer, str]:
    """The layer, and the name within it, of a tensor that was set aside.

    Raises:
        ValueError: It is not named ``SOURCE.INDEX.NAME``.
    """
    source, index, rest = name.split(".", 2)
    return Layer(source, int(index)), rest


def _contradiction(lineage: Lineage, host: Checkpoint) -> str | None:
    """What a lineage says that cannot be; None when it all can."""
    chains = [list(origin.chain()) for origin in lineage.layers]
    used = {at.source for chain in chains for at in chain}
    if odd := sorted((used | {ROOT}) ^ lineage.sources.keys()):
        return f"layers and sources disagree about {odd[0][:12]}"
    fields = host.source.entries.keys()
    for name, facts in lineage.sources.items():
        if odd_facts := _odd_source(name, facts, fields):
            return odd_facts
    for at in (at for chain in chains for at in chain):
        facts = lineage.sources[at.source]
        known = min([MOST_LAYERS, *map(len, facts.entries.values())])
        if at.index >= known or (facts.recovery and at.index not in facts.recovery.layers):
            return f"{at.source[:12]} has no layer {at.index}"
    # Only an organ can stand in two places; there it is the same, or one would pass for the other.
    organs = lineage.organs()
    every = Counter((at.source, at.index) for chain in chains for at in chain)
    if twice := [key for key, count in every.items() if count > 1 and key[0] not in organs]:
        return f"layer {twice[0][1]} of {twice[0][0][:12]} stands in two places"
    standing: dict[tuple[str, int], dict[str, str]] = {}
    for place, origin in enumerate(lineage.layers):
        key = (origin.source, origin.index)
        if every[key] > 1:
            layer = host.source.layer(place)
            content = {rest: host.tensor_digests[name] for rest, name in layer.items()}
            if standing.setdefault(key, content) != content:
                return f"layer {key[1]} of {key[0][:12]} is not the same in all its places"
    below, names = set(beneath(lineage)), [one.name for one in lineage.aside]
    for name in names:
        try:
            known_below = aside_layer(name)[0] in below
        except ValueError:
            known_below = False
        if not known_below:
            return f"nothing lies over {shown(name)}, which is said to be set aside"
    return "a tensor is set aside twice" if len(set(names)) != len(names) else None


def _odd_source(name: str, facts: SourceFacts, fields: Collection[str]) -> str | None:
    """What a source says that cannot be."""
    root, recovery = name == ROOT, facts.recovery
    if [facts.organ is not None, recovery is not None, root].count(True) != 1:
        return f"{name[:12]} is neither the root nor one organ or recovery"
    if recovery and recovery.digest != name:
        return f"{name[:12]} is not the digest of its recovery"
    if facts.entries.keys() != set(fields) or len({*map(len, facts.entries.values())}) > 1:
        return f"{name[:12]} has not one entry a layer of each of {sorted(fields)}"
    return f"{name[:12]} starts at {facts.start}" if facts.start and not facts.organ else None


def grafted(lineage: Lineage, plan: Plan, organs: Mapping[str, Organ]) -> Lineage:
    """The lineage of a plan's model, but for its weights digest, which only writing tells.

    Args:
        lineage: The host's.
        plan: The layers of the new model.
        organs: Organs by the plan's source names, which are their digests.

    Raises:
        PlanError: A layer of the host, which no organ brought, would stand in two places.
    """
    sources = dict(lineage.sources) | {
        name: SourceFacts(
            organ=organ.manifest.organ_id,
            start=organ.source.start,
            entries={key: list(values) for key, values in organ.source.entries.items()},
        )
        for name, organ in organs.items()
    }
    layers = tuple(
        lineage.layers[layer.index]
        if layer.source == HOST
        else Origin(
            source=layer.source,
            index=layer.index,
            beneath=None if layer.over is None else lineage.layers[layer.over],
        )
        for layer in plan.layers
    )
    twice = Counter(layer.index for layer in plan.layers if layer.source == HOST)
    for index, count in twice.items():
        if count > 1 and lineage.layers[index].source not in lineage.organs():
            raise PlanError(
                f"the plan takes layer {index} of the host {count} times, which a lineage cannot "
                "tell apart; cut an organ of that layer and insert it"
            )
    used = {at.source for origin in layers for at in origin.chain()} | {ROOT}
    sources = {name: facts for name, facts in sources.items() if name in used}
    return replace(lineage, sources=sources, layers=layers)


def recovered(
    lineage: Lineage, recovery: RecoveryFacts, entries: Mapping[str, Collection[JsonValue]]
) -> Lineage:
    """The lineage after a recovery, but for its weights digest.

    Args:
        lineage: The graft's.
        recovery: What it did; its layers lie over the graft's, at the same indices.
        entries: What the graft's config says of each layer.
    """
    facts = SourceFacts(
        organ=None,
        recovery=recovery,
        start=0,
        entries={name: list(values) for name, values in entries.items()},
    )
    layers = tuple(
        Origin(source=recovery.digest, index=place, beneath=origin)
        if place in recovery.layers
        else origin
        for place, origin in enumerate(lineage.layers)
    )
    return replace(lineage, sources=lineage.sources | {recovery.digest: facts}, layers=layers)


def excised(lineage: Lineage, organ: str) -> Lineage:
    """The lineage without an organ or a recovery, given by its digest, but for its weights digest.

    Raises:
        OrganError: Its layers were tuned since by a recovery, which holds what they had learned.
        PlanError: Nothing would be left.
    """
    tuned = lineage.recoveries()
    for origin in lineage.layers:
        chain = [at.source for at in origin.chain()]
        over = tuned.keys() & set(chain[: chain.index(organ)]) if organ in chain else set()
        if over:
            first = next(name for name in chain if name in over)
            raise OrganError(
                f"{organ[:12]} was tuned since by recovery {first[:12]}, which holds what it had "
                f"learned; take that out first: organ excise --organ {first[:12]}"
            )
    layers = tuple(left for origin in lineage.layers if (left := origin.without(organ)) is not None)
    if not layers:
        raise PlanError("the organ is all that this model has; nothing would be left")
    sources = {name: facts for name, facts in lineage.sources.items() if name != organ}
    return replace(lineage, sources=sources, layers=layers)


def beneath(lineage: Lineage) -> tuple[Layer, ...]:
    """All layers that lie beneath others, without repeats."""
    found: dict[Layer, None] = {}
    for origin in lineage.layers:
        found |= {Layer(at.source, at.index): None for at in [*origin.chain()][1:]}
    return tuple(found)
