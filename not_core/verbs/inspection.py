"""``inspect``, ``diff``, ``families`` and ``ledger``: looking, without changing anything."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from not_core.errors import CheckpointError, LedgerError, OrganError
from not_core.manifest import MANIFEST
from not_core.privacy.ledger import LEDGER, LOG, Ledger, default_folder, standalone
from not_core.surgery.anatomy import FAMILIES, Anatomy, anatomy
from not_core.surgery.checkpoint import CONFIG, Checkpoint, open_checkpoint
from not_core.surgery.difference import Difference, difference
from not_core.surgery.lineage import Lineage, lineage_of
from not_core.surgery.organ import read_manifest
from not_core.trust.delivery import read_header
from not_core.trust.offer import peek_offer
from not_core.verbs.facts import StrPath, table
from not_core.verbs.folders import OrganFolder, SealedFile


@dataclass(frozen=True, slots=True, repr=False)
class InspectedModel:
    """A model and what its config and the headers of its files say.

    Attributes:
        checkpoint: The model.
        lineage: The organs in it; None where its weights were changed after that was written.
    """

    checkpoint: Checkpoint
    lineage: Lineage | None

    def __fspath__(self) -> str:
        return str(self.checkpoint.origin)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What the command reports; digests read the model once."""
        host, part, lineage = self.checkpoint, self.checkpoint.anatomy, self.lineage
        forms = [host.tensors.form(name) for name in host.names]
        return {
            "model": str(host.origin),
            "family": part.family,
            "architecture": part.architecture,
            "layers": host.layers,
            "width": host.config[part.width],
            "parameters": sum(form.parameters for form in forms),
            "bytes": {
                dtype: sum(form.bytes for form in forms if form.dtype == dtype)
                for dtype in sorted({form.dtype for form in forms})
            },
            "layer_tensors": part.layers,
            "embedding": part.embedding,
            "head": f"tied to {part.embedding}" if host.tied else part.head,
            "frame": list(host.frame),
            "one_entry_a_layer": sorted(host.source.entries),
            "weights": host.weights_digest,
            "vocabulary": host.tokenizer_digest,
            "lineage": _state(lineage),
            "organs": "unknown" if lineage is None else _organs(lineage) or "none",
            "recoveries": "unknown" if lineage is None else _recoveries(lineage) or "none",
        }


@dataclass(frozen=True, slots=True, repr=False)
class Differing:
    """What tells two models apart, and whose the second's layers are.

    Attributes:
        difference: Layers paired by content.
        organs: Id of the organ that each layer of the second belongs to, if any.
        lineage: Whether the second's lineage is ``none``, ``current`` or ``stale``.
    """

    difference: Difference
    organs: tuple[str | None, ...]
    lineage: str

    def __repr__(self) -> str:
        return table(self.facts())

    def rows(self) -> list[dict[str, Any]]:
        """One row a pair of layers."""
        return [
            {
                "first": pair.first,
                "second": pair.second,
                "kind": pair.kind,
                "relative": pair.distance.relative if pair.distance else None,
                "largest": pair.distance.largest if pair.distance else None,
                "tensors changed": pair.distance.changed if pair.distance else None,
                "organ": None if pair.second is None else self.organs[pair.second],
            }
            for pair in self.difference.layers
        ]

    def facts(self) -> dict[str, Any]:
        """What the command reports beside the rows."""
        found, frame = self.difference, self.difference.frame
        apart = [pair.distance for pair in found.layers if pair.distance]
        return {
            **{
                kind: sum(pair.kind == kind for pair in found.layers)
                for kind in ("same", "changed", "added", "removed")
            },
            "unlike": [text for distance in apart for text in distance.unlike],
            "frame": "same"
            if frame is None
            else {
                "relative": frame.relative,
                "largest": frame.largest,
                "tensors changed": frame.changed,
                "unlike": list(frame.unlike),
            },
            "config": {name: list(values) for name, values in found.config.items()} or "same",
            "lineage": self.lineage,
        }


def inspect(path: StrPath) -> OrganFolder | SealedFile | InspectedModel:
    """Say what an organ claims to be, or what a model is; needs no key, verifies no signature.

    Args:
        path: Organ folder, sealed .organ file, model folder or .gguf file.

    Raises:
        OrganError: There is neither.
        FormatError: The organ cannot be read.
        CheckpointError: The model cannot be read.
    """
    place = Path(path)
    if place.is_file() and place.suffix != ".gguf":
        with place.open("rb") as file:
            header = read_header(file)
        return SealedFile(place, peek_offer(header.envelope))
    if place.is_file() or (place / CONFIG).is_file():
        host = open_checkpoint(place)
        return InspectedModel(host, _lineage(host))
    if (place / MANIFEST).is_file():
        return OrganFolder(place, read_manifest(place))
    raise OrganError(f"no organ at {place}; give an organ folder, a sealed .organ file or a model")


def diff(first: StrPath, second: StrPath) -> Differing:
    """Say which layers of two models differ, and by how much; layers are paired by content.

    Args:
        first: Model folder, .gguf file or hub id.
        second: Another; organs and lineage are this one's.

    Raises:
        CheckpointError: A model cannot be read.
        IncompatibleOrganError: They are of different families.
    """
    ours, theirs = open_checkpoint(os.fspath(first)), open_checkpoint(os.fspath(second))
    found = difference(ours, theirs)
    lineage = _lineage(theirs)
    names = lineage.organs() if lineage else {}
    organs = [names.get(one) for one in lineage.tenants()] if lineage else [None] * theirs.layers
    return Differing(found, tuple(organs), _state(lineage))


def families() -> list[dict[str, str]]:
    """The model families that surgery supports: what was found of each, and what was stated.

    Layers, embedding, positions and norms lie in the trunk, the head beside it.
    """
    parts = [anatomy({"model_type": family}) for family in sorted(FAMILIES)]
    return [
        {
            "family": part.family,
            "class": part.architecture,
            "trunk": part.trunk,
            "layers": part.layers.removeprefix(part.trunk),
            "embedding": _modules(part, part.embedding),
            "positions and norms": _modules(part, *part.frame),
            "head": _modules(part, part.head),
            "one entry a layer": ", ".join((*part.per_layer, *(part.row.listed or ())[:1])),
            "stated, not found": "; ".join(part.row.stated()),
            "GGUF": "yes" if part.row.gguf else "",
        }
        for part in parts
    ]


def ledger(folder: StrPath | None = None) -> Ledger:
    """A privacy ledger: what was charged to private records, and what is left.

    Args:
        folder: Its folder; None for the user's.

    Raises:
        LedgerError: There is none.
    """
    place = default_folder() if folder is None else Path(folder)
    if not any((place / name).is_file() for name in (LEDGER, LOG)):
        raise LedgerError(f"no ledger in {place}; the first private training makes it")
    return standalone(place)


def _modules(part: Anatomy, *tensors: str) -> str:
    """The modules that tensors belong to, as they are called in the trunk if they are in it."""
    modules = (name.removeprefix(part.trunk).rpartition(".")[0] for name in tensors)
    return ", ".join(dict.fromkeys(modules))


def _lineage(host: Checkpoint) -> Lineage | None:
    """A model's lineage; None when its weights were changed after that was written.

    Surgery refuses such a model, whose layers are no longer what the lineage says. To look at it
    is what shows the difference.
    """
    host.weights_digest  # noqa: B018 - weights that cannot be read are an error even here
    try:
        return lineage_of(host)
    except CheckpointError:
        return None


def _state(lineage: Lineage | None) -> str:
    """What can be said of a lineage in a word."""
    return "stale" if lineage is None else "current" if lineage.organs() else "none"


def _organs(lineage: Lineage) -> dict[str, Any]:
    """The organs in a graft, and where they stand."""
    return {
        name: {
            "digest": digest,
            "layers": [i for i, one in enumerate(lineage.tenants()) if one == digest],
        }
        for digest, name in lineage.organs().items()
    }


def _recoveries(lineage: Lineage) -> dict[str, Any]:
    """How a graft was tuned since, and at what cost in privacy."""
    return {
        digest: {
            "what": facts.what,
            "layers": [i for i, at in enumerate(lineage.layers) if at.source == digest],
            "tokens": facts.training.tokens,
            "privacy": facts.privacy.words,
        }
        for digest, facts in lineage.recoveries().items()
    }
