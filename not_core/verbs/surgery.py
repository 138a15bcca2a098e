"""``extract``, ``expand``, ``transplant``, ``excise`` and ``merge``, from folders to folders.

None verifies a signature: ``nc.verify`` and ``nc.open`` do.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from not_core import atomic
from not_core.learning import device as devices
from not_core.learning.evaluation import compare
from not_core.learning.positions import Scan, positions, scan
from not_core.learning.records import read_records
from not_core.learning.text_blocks import document_blocks
from not_core.manifest import Manifest, Span
from not_core.surgery import expansion, graft
from not_core.surgery import merge as merging
from not_core.surgery import organ as made
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compatibility import check, fitted
from not_core.surgery.graft import Written
from not_core.surgery.merge import Average, Method
from not_core.surgery.organ import Organ
from not_core.surgery.plan import Graft, Mode, compose
from not_core.surgery.quarantine import Bounds, admit
from not_core.verbs.facts import StrPath, table
from not_core.verbs.folders import OrganFolder

Place = int | Literal["auto"] | None
"""Host layer where an organ's first layer goes; None for where it grew."""
ToldOf = Callable[[int, int], None]
"""Called with the tokens just read, and the tokens in all."""


@dataclass(frozen=True, slots=True, repr=False)
class Grafted:
    """A model with organs in it, as it was written; it is path-like.

    Attributes:
        path: Its folder, which plain ``from_pretrained`` loads.
        written: Its weights digest, and what is in it.
        grafts: Where the organs went.
        scan: What ``position="auto"`` measured; None where nothing was tried.
    """

    path: Path
    written: Written
    grafts: tuple[Graft, ...]
    scan: Scan | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table({name: value for name, value in self.facts().items() if name != "tried"})

    def facts(self) -> dict[str, Any]:
        """What the command reports."""
        return {
            "grafted": str(self.path),
            "organs": [one.organ for one in self.grafts],
            "modes": [one.mode for one in self.grafts],
            "positions": [one.position for one in self.grafts],
            "layers": self.written.layers,
            "weights": self.written.weights,
            **(_trials(self.scan) if self.scan else {}),
        }


@dataclass(frozen=True, slots=True, repr=False)
class Excised:
    """A model out of which an organ was taken; it is path-like.

    Attributes:
        path: Its folder.
        written: Its weights digest, and what is left in it.
    """

    path: Path
    written: Written

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What the command reports."""
        return {
            "model": str(self.path),
            "layers": self.written.layers,
            "weights": self.written.weights,
            "organs": list(self.written.organs.values()),
        }


def extract(
    model: StrPath, span: tuple[int, int], out: StrPath, *, name: str = "organ"
) -> OrganFolder:
    """Cut a span of layers out of a model, untrained.

    Args:
        model: Model folder, .gguf file or hub id.
        span: Layers START, STOP; half-open, from 0.
        out: Folder to make.
        name: The organ's.

    Raises:
        OutputExistsError: ``out`` is taken.
        PlanError: The span reaches past the model.
        CheckpointError: The model cannot be read.
    """
    atomic.refuse_existing(Path(out))
    label = made.make_label(name=name, domain="unspecified", licence="unspecified", version=1)
    host = open_checkpoint(os.fspath(model))
    cut = Span(start=span[0], stop=span[1])
    tensors = made.extract(host, cut)
    manifest = made.describe(host, cut, tensors, label, training=None)
    made.write_organ(Path(out), tensors, manifest)
    return OrganFolder(Path(out), manifest)


def expand(organ: StrPath, base: StrPath, out: StrPath) -> OrganFolder:
    """Make a plain organ, of whole layers, from a compact one, of factors.

    Args:
        organ: Folder of a compact organ.
        base: Model that it grew in.
        out: Folder to make; that organ is unsigned, and names the compact one as its parent.

    Raises:
        OutputExistsError: ``out`` is taken.
        OrganError: The organ holds whole layers already, or ``base`` is not its base.
    """
    atomic.refuse_existing(Path(out))
    stored = made.read_stored(Path(organ))
    manifest = expansion.as_layers(stored.manifest)
    tensors = expansion.expand(stored, open_checkpoint(os.fspath(base))).tensors
    made.write_organ(Path(out), tensors, manifest)
    return OrganFolder(Path(out), manifest)


def transplant(
    organs: StrPath | Sequence[StrPath],
    into: StrPath,
    out: StrPath,
    *,
    mode: Mode | Sequence[Mode] = "replace",
    position: Place | Sequence[int | None] = None,
    data: StrPath | None = None,
    text_field: str = "text",
    documents: int = 20,
    device: str = "auto",
    allow: Collection[str] = (),
    most_drift: float = 1.0,
    keep_replaced: bool = True,
    advance: ToldOf = lambda tokens, total: None,
) -> Grafted:
    """Put organs into a model and write the grafted model to a new folder.

    Args:
        organs: One organ folder, or several.
        into: Recipient: model folder, .gguf file or hub id.
        out: Folder to make.
        mode: ``replace`` the host's layers, or ``insert`` between them; one for all or one each.
        position: Host layer of an organ's first layer, one for all or one each; None for where it
            grew; ``auto`` tries all for one organ and takes the best on the documents of ``data``.
            Positions count the host's layers as they were.
        data: Held-out documents for ``auto``.
        text_field: Field that holds a document's text.
        documents: Documents to try positions on, the first so many.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; for ``auto`` only.
        allow: Differences from the recipient to accept: base, dtype, head, rope or tokenizer.
        most_drift: Refuse an organ of which a tensor is farther from the base's than this.
        keep_replaced: Whether to set aside the layers that organs replace, for ``excise``.
        advance: Told of progress in trying positions.

    Raises:
        OutputExistsError: ``out`` is taken.
        IncompatibleOrganError: An organ does not fit.
        QuarantineError: An organ's tensors fail a check.
        PlanError: A position is not there.
        ValueError: As many modes or positions as organs were expected; ``auto`` and ``data`` go
            together, for one organ.
    """
    atomic.refuse_existing(Path(out))
    several = [organs] if isinstance(organs, str | os.PathLike) else organs
    folders = [Path(one) for one in several]
    modes = [mode] * len(folders) if isinstance(mode, str) else [*mode]
    if (position == "auto") != (data is not None) or (position == "auto" and len(folders) > 1):
        raise ValueError("expected position auto and data together, for one organ")
    places: list[int | None] = [None] * len(folders)
    if position is not None and position != "auto":
        places = [position] * len(folders) if isinstance(position, int) else [*position]
    if not len(modes) == len(places) == len(folders):
        raise ValueError(f"expected a mode and a position for each of {len(folders)} organs")
    host = open_checkpoint(os.fspath(into))
    manifests = [made.read_manifest(folder) for folder in folders]
    grafts = _grafts(manifests, modes, places)
    if position != "auto":  # before the base is hashed and the organs are read
        compose(host.layers, grafts)
    allowed = frozenset(allow)
    for manifest in manifests:
        check(manifest, host, allowed)
    bounds = Bounds(most_drift=most_drift)
    read = {
        manifest.digest: admit(folder, host, bounds, allow=allowed)
        for manifest, folder in zip(manifests, folders, strict=True)
    }
    found = None
    if data is not None:
        texts = read_records(Path(data), text_field)[:documents]
        (organ,) = read.values()
        found = _scan(host, organ, modes[0], texts, device, advance)
        grafts = _grafts(manifests, modes, [found.best])
    plan = compose(host.layers, grafts)
    written = graft.transplant(
        plan, host, read, Path(out), allow=allowed, keep_replaced=keep_replaced
    )
    return Grafted(Path(out), written, tuple(grafts), found)


def excise(model: StrPath, organ: str, out: StrPath, *, host: StrPath | None = None) -> Excised:
    """Take an organ out of a grafted model; the layers that it replaced come back, bit for bit.

    Args:
        model: Grafted model folder.
        organ: The organ's id, or its digest or the beginning of it.
        out: Folder to make.
        host: The model before any organ, if what it lost was not set aside.

    Raises:
        OutputExistsError: ``out`` is taken.
        OrganError: No such organ, or what it replaced was not kept.
        CheckpointError: The model was changed since, or ``host`` is another one.
    """
    root = open_checkpoint(os.fspath(host)) if host is not None else None
    written = graft.excise(open_checkpoint(os.fspath(model)), organ, Path(out), root=root)
    return Excised(Path(out), written)


def merge(
    organs: Sequence[StrPath],
    base: StrPath,
    out: StrPath,
    *,
    method: Method = Average(),  # noqa: B008 - frozen
    name: str = "merged",
) -> OrganFolder:
    """Merge organs that grew in one base at one span into a new organ.

    It states no differential privacy, whatever its parents do.

    Args:
        organs: Two or more organ folders of one span.
        base: Model that they grew in.
        out: Folder to make.
        method: ``Average`` or ``Ties``, each with the organs' weights.
        name: The merged organ's.

    Raises:
        OutputExistsError: ``out`` is taken.
        IncompatibleOrganError: They are of different bases or spans.
        OrganError: Fewer than two different organs.
    """
    atomic.refuse_existing(Path(out))
    host = open_checkpoint(os.fspath(base))
    parents = [expansion.read_expanded(Path(folder), host) for folder in organs]
    label = made.make_label(
        name=name,
        domain="; ".join(sorted({parent.manifest.domain for parent in parents})),
        licence="; ".join(sorted({parent.manifest.licence for parent in parents})),
        version=1,
    )
    manifest, tensors = merging.merge(parents, host, label, method)
    made.write_organ(Path(out), tensors, manifest)
    return OrganFolder(Path(out), manifest)


def _grafts(
    manifests: Sequence[Manifest], modes: Sequence[Mode], places: Sequence[int | None]
) -> list[Graft]:
    """Where each organ goes: where it grew, if no position is named."""
    return [
        Graft(
            organ=manifest.digest,
            count=len(manifest.span),
            mode=how,
            position=manifest.span.start if place is None else place,
        )
        for manifest, how, place in zip(manifests, modes, places, strict=True)
    ]


def _scan(
    host: Checkpoint, organ: Organ, mode: Mode, texts: Sequence[str], device: str, advance: ToldOf
) -> Scan:
    """Measure an organ at every position."""
    blocks = document_blocks(host.tokenizer, texts, 256, 1)
    tokens = sum(len(block) for parts in blocks for block in parts)
    total = tokens * (len(positions(host.layers, len(organ), mode)) + 1)
    return scan(
        host,
        fitted(organ, host),
        mode,
        blocks,
        device=devices.pick(device),
        advance=lambda read: advance(read, total),
    )


def _trials(found: Scan) -> dict[str, Any]:
    """What trying all positions showed, and what that is worth."""
    rows = []
    for position, reading in found.after.items():
        change = compare(found.before, reading, 0)
        rows.append(
            {
                "position": position,
                "perplexity": round(reading.perplexity, 3),
                "change": f"{change.change:+.1%}",
                "95% interval": f"{change.low:+.1%} to {change.high:+.1%}",
                "best": position == found.best,
            }
        )
    before = found.before.perplexity
    helped = found.after[found.best].perplexity < before
    return {
        "tried": rows,
        "refused": {str(position): why for position, why in found.refused.items()},
        "documents": len(found.before.losses),
        "without_organ": round(before, 3),
        "note": ("chosen" if helped else "no position beats the model without the organ; chosen")
        + " on these documents, so better here than elsewhere: measure on others",
    }
