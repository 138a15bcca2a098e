"""``organ-site policy``, ``organs`` and ``forget``: what a site allows, has and can do without."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from client.serving import Home
from not_core.commands.program import Json, listing, report
from not_core.errors import OrganError


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(policy)
    app.command()(organs)
    app.command()(forget)


def policy(
    home: Home,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field; FIELD= gives its default back."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the site's policy says, field by field, or change it; the log keeps each change.

    A change counts from the next request on. What is not valid changes nothing.

    Example: organ-site policy ~/clinic --set least_gain=0.05 --set release_organs=always
    """
    from client import policy_file
    from client.home import policy_of, read_home

    if settings:
        changed = policy_file.change(read_home(home), settings)
        rows = [{"field": name, "was": was, "now": now} for name, was, now in changed]
    else:
        rows = [asdict(one) for one in policy_file.listed(policy_of(home))]
        for row in rows:
            row["default"] = "default" if row["default"] else "set"
    listing(rows, as_json)


def organs(home: Home, as_json: Json = False) -> None:
    """List the organs that the site made, and those that it took in.

    Example: organ-site organs ~/clinic
    """
    from client import inventory
    from client.home import read_home

    site = read_home(home)
    found: dict[str, list[dict[str, Any]]] = {
        "made": [asdict(one) for one in inventory.grown(site)],
        "taken in": [asdict(one) for one in inventory.taken(site)],
    }
    if as_json:
        report(found, as_json)
        return
    for title, rows in found.items():
        typer.echo(f"{title}:")
        listing([{**row, **_shown(row)} for row in rows], as_json)


def forget(
    home: Home,
    exchange: Annotated[
        str | None, typer.Argument(help="Name of an exchange that is over.")
    ] = None,
    made: Annotated[
        bool,
        typer.Option("--made", help="Also organs that this site made and offered there alone."),
    ] = False,
    organ: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="An organ that this site made, or its first characters."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove the organs that an exchange has left here, or one organ; receipts and the log stay.

    Sealed organs go, and opened ones that no other exchange brought. An organ of this site's own
    stays, and the last sealed copy of it, unless --made is said: asked for again it is trained anew
    and, with differential privacy, paid for anew. --organ removes one of them wherever it was
    offered, or never was. One that waits for approval stays in any case: reject it first.

    Example: organ-site forget ~/clinic spring
    """
    if (exchange is None) == (organ is None) or (organ is not None and made):
        raise typer.BadParameter("expected an exchange, perhaps with --made, or --organ DIGEST")
    from client import inventory
    from client.home import read_home

    site = read_home(home)
    if organ is None:
        removed = inventory.forget(site, exchange or "", made=made)
    else:
        whole = only(inventory.own(site), organ, f"organs that {home} made")
        removed = inventory.forget_organ(site, whole)
    report({"removed": len(removed), "bytes": sum(one.bytes for one in removed)}, as_json)


def only(digests: Iterable[str], start: str, what: str) -> str:
    """The one digest that begins so.

    Raises:
        OrganError: None does, or several.
    """
    found = [one for one in digests if one.startswith(start)]
    if len(found) != 1:
        raise OrganError(f"{len(found)} {what} begin with {start}; see organ-site organs")
    return found[0]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Values of a row that a terminal shows in another way."""
    shown: dict[str, Any] = {}
    if "exchanges" in row:
        shown["exchanges"] = ", ".join(row["exchanges"])
    if row.get("gain") is not None:
        shown["gain"] = f"{row['gain']:.1%}"
    return shown
