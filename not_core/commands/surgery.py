"""``organ extract``, ``expand``, ``transplant``, ``excise`` and ``merge``."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from not_core.commands.program import Json, listing, progress, report, span

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
    from not_core.verbs import surgery

    report(surgery.extract(model, span(span_), out, name=name).facts(), as_json)


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
    from not_core.verbs import surgery

    made = surgery.expand(organ, base, out)
    report({**made.facts(), "parent": made.manifest.parents[0]}, as_json)


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
    if not most_drift > 0:
        raise typer.BadParameter(f"expected --most-drift above 0, got {most_drift}")
    places, modes = _places(position, organs, data), _modes(mode, organs)
    from not_core.verbs import surgery

    with progress("transplanting", None, "tokens") as bar:
        made = surgery.transplant(
            organs,
            into,
            out,
            mode=[one.value for one in modes],
            position=places,
            data=data,
            text_field=text_field,
            documents=documents,
            device=device,
            allow=[one.value for one in allow or ()],
            most_drift=most_drift,
            keep_replaced=keep_replaced,
            advance=lambda read, total: bar(read, total=total),
        )
    facts = made.facts()
    if made.scan and not as_json:
        tried = facts.pop("tried")
        listing([row | {"best": "best" if row["best"] else ""} for row in tried], as_json)
    report(facts, as_json)


def _modes(given: list[ModeName] | None, organs: list[Path]) -> Sequence[ModeName]:
    """The mode of each organ; a usage error when they are neither one nor as many."""
    modes = given or [ModeName.REPLACE]
    if len(modes) not in {1, len(organs)}:
        raise typer.BadParameter(f"{len(modes)} modes for {len(organs)} organs")
    return modes * len(organs) if len(modes) == 1 else modes


def _places(
    given: list[str] | None, organs: list[Path], data: Path | None
) -> Literal["auto"] | list[int] | None:
    """Positions as given; a usage error otherwise."""
    if (given == AUTO) != (data is not None):
        raise typer.BadParameter("--position auto and --data go together")
    if given is None:
        return None
    if len(given) != len(organs):
        raise typer.BadParameter(f"{len(given)} positions for {len(organs)} organs")
    if given == AUTO:
        return "auto"
    if odd := [place for place in given if not place.isdecimal()]:
        raise typer.BadParameter(f"expected a position from 0, or auto for one organ, got {odd[0]}")
    return [int(place) for place in given]


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
    from not_core.verbs import surgery

    report(surgery.excise(model, organ, out, host=host).facts(), as_json)


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
    from not_core.surgery.merge import Average, Ties
    from not_core.verbs import surgery

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
    report(surgery.merge(organs, base, out, method=how, name=name).facts(), as_json)
