"""``organ inspect``, ``organ diff`` and ``organ families``: looking, without changing anything."""

from pathlib import Path
from typing import Annotated

import typer

from not_core.commands.program import Json, listing, report

Either = Annotated[str, typer.Argument(help="Model folder, .gguf file or hub id.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(inspect)
    app.command()(diff)
    app.command()(families)


def inspect(
    path: Annotated[
        Path, typer.Argument(help="Organ folder, sealed .organ file, model folder or .gguf file.")
    ],
    as_json: Json = False,
) -> None:
    """Say what an organ claims to be, or what a model is; needs no key, verifies no signature.

    Example: organ inspect organ/
    """
    from not_core import canonical
    from not_core.verbs import inspection
    from not_core.verbs.folders import OrganFolder

    found = inspection.inspect(path)
    facts = found.facts()
    if as_json and isinstance(found, OrganFolder):
        facts["manifest"] = canonical.plain(canonical.encode(found.manifest), "manifest")
    report(facts, as_json)


def diff(
    first: Either,
    second: Either,
    as_json: Json = False,
) -> None:
    """Say which layers of two models differ, and by how much; layers are paired by content.

    `relative` is the L2 norm of the difference over that of the first; organs and lineage are the
    second's. The exit code is 0 whether they differ or not.

    Example: organ diff SmolLM2/ grafted/
    """
    from not_core.verbs import inspection

    found = inspection.diff(first, second)
    rows, facts = found.rows(), found.facts()
    if as_json:
        report({"layers": rows, **facts}, as_json)
        return
    shown = [
        {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
        if row["kind"] != "same"
    ]
    if shown:
        listing(shown, as_json)
    report(facts, as_json)


def families(as_json: Json = False) -> None:
    """List the model families that surgery supports, and where their parts are.

    Layers, embedding, positions and norms lie in the trunk, the head beside it.

    Example: organ families
    """
    from not_core.verbs import inspection

    listing(inspection.families(), as_json)
