"""``organ extract``, ``expand``, ``transplant``, ``excise`` and ``merge``."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from not_core.commands.inspection import summary
from not_core.commands.program import Json, listing, new_place, progress, report, span

Out = Annotated[Path, typer.Option(help="Folder to make; it must not exist yet.")]
Model = Annotated[str, typer.Option(help="Model folder, .gguf file or hub id.")]

AUTO = ["auto"]
"""What ``--position`` is given to try all."""


class ModeName(StrEnum):
    """How an organ is put in."""

    REPLACE = "replace"
    INSERT = "insert"


class MethodName(StrEnum):
    """How organs are merged."""

    AVERAGE = "average"
    TIES = "ties"


class Difference(StrEnum):
    """A difference between organ and recipient that can be allowed."""

    BASE = "base"
    DTYPE = "dtype"
    HEAD = "head"
    ROPE = "rope"
    TOKENIZER = "tokenizer"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(extract)
    app.command()(expand)
    app.command()(transplant)
    app.command()(excise)
    app.command()(merge)


def extract(
    model: Model,
    span_: Annotated[str, typer.Option("--span", help="Layers START:STOP, half-open, from 0.")],
    out: Out,
    name: Annotated[str, typer.Option(help="The organ's name.")] = "organ",
    as_json: Json = False,
) -> None:
    """Cut a span of layers out of a model, untrained.

    Example: organ extract --model SmolLM2/ --span 2:4 --out plain/
    """
    start, stop = span(span_)
    new_place(out)
    from not_core.manifest import Span
    from not_core.surgery import organ as organs
    from not_core.surgery.checkpoint import open_checkpoint

    label = organs.make_label(name=name, domain="unspecified", licence="unspecified", version=1)
    host = open_checkpoint(model)
    cut = Span(start=start, stop=stop)
    tensors = organs.extract(host, cut)
    manifest = organs.describe(host, cut, tensors, label, training=None)
    organs.write_organ(out, tensors, manifest)
    report({"organ": str(out), "digest": manifest.digest, **summary(manifest)}, as_json)


def expand(
    organ: Annotated[Path, typer.Argument(help="Folder of a compact organ.")],
    base: Annotated[str, typer.Option(help="Model that it grew in: folder, .gguf or hub id.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Make a plain organ, of whole layers, from a compact one, of factors.

    The new organ is unsigned and names the compact one as its parent. This command does not verify
    signatures: use `organ verify` or `organ open` first.

    Example: organ expand opened/ --base SmolLM2/ --out layers/
    """
    new_place(out)
    from not_core.manifest import TENSORS
    from not_core.surgery import expansion
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.organ import read_stored, write_organ

    stored = read_stored(organ)
    manifest = expansion.as_layers(stored.manifest)
    write_organ(out, expansion.expand(stored, open_checkpoint(base)).tensors, manifest)
    report(
        {
            "organ": str(out),
            "digest": manifest.digest,
            "parent": manifest.parents[0],
            "artefact_bytes": (out / TENSORS).stat().st_size,
            **summary(manifest),
        },
        as_json,
    )


def transplant(
    organs: Annotated[list[Path], typer.Argument(metavar="ORGAN...", help="Organ folders.")],
    into: Annotated[str, typer.Option(help="Recipient: model folder, .gguf file or hub id.")],
    out: Out,
    mode: Annotated[
        list[ModeName] | None,
        typer.Option(
            help="Take the host's layers' place, or add: once for all organs, or once for each; "
            "default: replace."
        ),
    ] = None,
    position: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INTEGER|auto",
            help="Host layer of an organ's first layer, once for each organ; default: where it "
            "grew. Positions count the host's layers as they were. `auto` tries all and takes "
            "the best on the documents of --data.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Held-out documents for --position auto; see `organ train`.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field that holds a document's text.")] = "text",
    documents: Annotated[
        int, typer.Option(min=1, help="Documents to try positions on: the first so many.")
    ] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    allow: Annotated[
        list[Difference] | None, typer.Option(help="Accept a difference that still runs.")
    ] = None,
    most_drift: Annotated[
        float,
        typer.Option(
            help="Refuse an organ of which a tensor is farther from the base's than this; 1 is "
            "as far as the base's is from zero."
        ),
    ] = 1.0,
    keep_replaced: Annotated[
        bool, typer.Option(help="Set aside the layers that organs replace, for `organ excise`.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Put organs into a model and write the grafted model to a new folder.

    The result loads with plain `AutoModelForCausalLM.from_pretrained`. This command does not
    verify signatures: use `organ verify` or `organ open` first.

    Example: organ transplant opened/ --into SmolLM2/ --mode replace --position 10 --out grafted/

    Example: organ transplant a/ b/ --into SmolLM2/ --mode replace --mode insert --out grafted/
    """
    new_place(out)
    from not_core.surgery import graft
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.compatibility import check
    from not_core.surgery.organ import read_manifest
    from not_core.surgery.plan import compose
    from not_core.surgery.quarantine import Bounds, admit

    if not most_drift > 0:
        raise typer.BadParameter(f"expected --most-drift above 0, got {most_drift}")
    bounds = Bounds(most_drift=most_drift)
    places, modes = _places(position, organs, data), _modes(mode, organs)
    host = open_checkpoint(into)
    manifests = [read_manifest(folder) for folder in organs]
    if places != AUTO:  # before the base is hashed and the organs are read
        compose(host.layers, _grafts(manifests, modes, places))
    allowed = frozenset(map(str, allow or ()))
    for manifest in manifests:
        check(manifest, host, allowed)
    read = {
        manifest.digest: admit(folder, host, bounds, allow=allowed)
        for manifest, folder in zip(manifests, organs, strict=True)
    }
    trials: dict[str, Any] = {}
    if places == AUTO and data is not None:
        (organ,) = read.values()
        trials, best = _try_positions(host, organ, modes[0], data, text_field, documents, device)
        places = [best]
    grafts = _grafts(manifests, modes, places)
    plan = compose(host.layers, grafts)
    written = graft.transplant(plan, host, read, out, allow=allowed, keep_replaced=keep_replaced)
    if trials and not as_json:
        listing([row | {"best": "best" if row["best"] else ""} for row in trials["tried"]], as_json)
        trials = {name: value for name, value in trials.items() if name != "tried"}
    report(
        {
            "grafted": str(out),
            "organs": [one.organ for one in grafts],
            "modes": [one.mode for one in grafts],
            "positions": [one.position for one in grafts],
            "layers": written.layers,
            "weights": written.weights,
            **trials,
        },
        as_json,
    )


def _grafts(
    manifests: Sequence[Any], modes: Sequence[ModeName], places: Sequence[int | str | None]
) -> list[Any]:
    """Where each organ goes: where it grew, if no position is named."""
    from not_core.surgery.plan import Graft

    return [
        Graft(
            organ=manifest.digest,
            count=len(manifest.span),
            mode=how.value,
            position=place if isinstance(place, int) else manifest.span.start,
        )
        for manifest, how, place in zip(manifests, modes, places, strict=True)
    ]


def _modes(given: list[ModeName] | None, organs: list[Path]) -> Sequence[ModeName]:
    """The mode of each organ; a usage error when they are neither one nor as many."""
    modes = given or [ModeName.REPLACE]
    if len(modes) not in {1, len(organs)}:
        raise typer.BadParameter(f"{len(modes)} modes for {len(organs)} organs")
    return modes * len(organs) if len(modes) == 1 else modes


def _places(
    given: list[str] | None, organs: list[Path], data: Path | None
) -> Sequence[int | str | None]:
    """Positions as given, None for where an organ grew; a usage error otherwise."""
    if (given == AUTO) != (data is not None):
        raise typer.BadParameter("--position auto and --data go together")
    if given is None:
        return [None] * len(organs)
    if len(given) != len(organs):
        raise typer.BadParameter(f"{len(given)} positions for {len(organs)} organs")
    if given == AUTO:
        return AUTO
    if odd := [place for place in given if not place.isdecimal()]:
        raise typer.BadParameter(f"expected a position from 0, or auto for one organ, got {odd[0]}")
    return [int(place) for place in given]


def _try_positions(
    host: Any,
    organ: Any,
    mode: ModeName,
    data: Path,
    text_field: str,
    documents: int,
    device: str,
) -> tuple[dict[str, Any], int]:
    """The table of all positions, and the best one."""
    from not_core.learning import device as devices
    from not_core.learning.evaluation import compare
    from not_core.learning.positions import positions, scan
    from not_core.learning.records import read_records
    from not_core.learning.text_blocks import document_blocks
    from not_core.surgery.compatibility import fitted

    texts = read_records(data, text_field)[:documents]
    blocks = document_blocks(host.tokenizer, texts, 256, 1)
    tokens = sum(len(block) for parts in blocks for block in parts)
    tries = len(positions(host.layers, len(organ), mode.value))
    with progress("positions", tokens * (tries + 1), "tokens") as bar:
        found = scan(
            host,
            fitted(organ, host),
            mode.value,
            blocks,
            device=devices.pick(device),
            advance=bar,
        )
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
    facts = {
        "tried": rows,
        "refused": {str(position): why for position, why in found.refused.items()},
        "documents": len(found.before.losses),
        "without_organ": round(before, 3),
        "note": ("chosen" if helped else "no position beats the model without the organ; chosen")
        + " on these documents, so better here than elsewhere: measure on others",
    }
    return facts, found.best


def excise(
    model: Annotated[str, typer.Argument(help="Grafted model folder.")],
    organ: Annotated[str, typer.Option(help="Organ id, or its digest or the beginning of it.")],
    out: Out,
    host: Annotated[
        str | None,
        typer.Option(help="The model before any organ, if what it lost was not set aside."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take an organ out of a grafted model; the layers that it replaced come back, bit for bit.

    Example: organ excise grafted/ --organ hospital/organ --out host/
    """
    new_place(out)
    from not_core.surgery import graft
    from not_core.surgery.checkpoint import open_checkpoint

    written = graft.excise(
        open_checkpoint(model), organ, out, root=open_checkpoint(host) if host else None
    )
    report(
        {
            "model": str(out),
            "layers": written.layers,
            "weights": written.weights,
            "organs": list(written.organs.values()),
        },
        as_json,
    )


def merge(
    organs: Annotated[
        list[Path],
        typer.Argument(metavar="ORGAN...", help="Two or more organ folders of one span."),
    ],
    base: Annotated[str, typer.Option(help="Model that they grew in: folder, .gguf or hub id.")],
    out: Out,
    method: Annotated[
        MethodName,
        typer.Option(help="Mean of the weights, or TIES: trim changes, elect signs, then mean."),
    ] = MethodName.AVERAGE,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of an organ, once for each; default: equal."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="TIES: part of each tensor's changes that is kept; default: 0.2."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="TIES: factor of the merged change; default: 1.")
    ] = None,
    name: Annotated[str, typer.Option(help="The merged organ's name.")] = "merged",
    as_json: Json = False,
) -> None:
    """Merge organs that grew in one base at one span into a new organ.

    It states no differential privacy, whatever its parents do. This command does not verify
    signatures: use `organ verify` or `organ open` first.

    Example: organ merge opened-a/ opened-b/ --base SmolLM2/ --method ties --out merged/
    """
    new_place(out)
    from not_core.surgery import organ as made
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.expansion import read_expanded
    from not_core.surgery.merge import Average, Ties
    from not_core.surgery.merge import merge as merge_organs

    given = {"density": density, "scale": scale}
    changed = {key: value for key, value in given.items() if value is not None}
    if method is MethodName.AVERAGE and changed:
        raise typer.BadParameter(f"--{min(changed)} is for --method ties")
    if weight and len(weight) != len(organs):
        raise typer.BadParameter(f"{len(weight)} weights for {len(organs)} organs")
    weights = tuple(weight or ())
    try:
        how = (
            Ties(weights=weights, **changed)
            if method is MethodName.TIES
            else Average(weights=weights)
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    host = open_checkpoint(base)
    parents = [read_expanded(folder, host) for folder in organs]
    label = made.make_label(
        name=name,
        domain="; ".join(sorted({parent.manifest.domain for parent in parents})),
        licence="; ".join(sorted({parent.manifest.licence for parent in parents})),
        version=1,
    )
    manifest, tensors = merge_organs(parents, host, label, how)
    made.write_organ(out, tensors, manifest)
    report({"organ": str(out), "digest": manifest.digest, **summary(manifest)}, as_json)
