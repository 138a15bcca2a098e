"""``organ ledger``: what was charged to private records, and what is left."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from not_core.commands.program import Json, listing, report

if TYPE_CHECKING:
    from not_core.privacy.charge import Reservation
    from not_core.privacy.ledger import Ledger

Delta = Annotated[
    float | None, typer.Option(help="Delta of the totals; that of the last charge by default.")
]
Epsilon = Annotated[float | None, typer.Option(help="Bound, to say how much of it is left.")]


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(ledger)


def ledger(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LEDGER]",
            help="Folder of the ledger; organ-exchange/ledger in the user's state folder by "
            "default.",
            show_default=False,
        ),
    ] = None,
    delta: Delta = None,
    epsilon: Epsilon = None,
    as_json: Json = False,
) -> None:
    """Check a privacy ledger and print what was charged to each data set.

    Keep the number of rows and the head elsewhere: they show later that no row was cut off.

    Example: organ ledger --epsilon 8 --delta 1e-6
    """
    from not_core.verbs import inspection

    show(inspection.ledger(folder), delta, epsilon, as_json)


def show(book: "Ledger", delta: float | None, epsilon: float | None, as_json: bool) -> None:
    """Print charges and totals.

    Raises:
        LedgerError: The ledger is not the one that its log knows, or the bound is none.
        HomeError: The log was changed.
    """
    from not_core.privacy.charge import Bound

    charges = book.reservations()
    if delta is None and charges:
        delta = charges[-1].charge.delta
    count, head = book.head()
    facts: dict[str, Any] = {"rows": count, "head": head}
    if delta is not None:
        bound = Bound(1.0 if epsilon is None else epsilon, delta)
        spent = book.spent(bound.delta)
        facts |= {"delta": delta, "most charged unit": spent.worst, "all charges": spent.all}
        if epsilon is not None:
            facts["left"] = book.remaining(bound)
    rows = [_row(one) for one in charges]
    if as_json:
        report({"charges": rows, **facts}, as_json)
        return
    listing(
        [
            {
                "number": row["number"],
                "day": row["time"][:10],
                "label": row["label"],
                "data": row["data"],
                "units": f"{row['units']} {row['unit']}s",
                "epsilon after": f"{row['epsilon after']:.4g}",
                "state": row["state"],
            }
            for row in rows
        ],
        as_json,
    )
    report(facts, as_json)


def _row(one: "Reservation") -> dict[str, Any]:
    charge = one.charge
    return {
        "number": charge.number,
        "time": datetime.fromtimestamp(charge.time, UTC).isoformat(),
        "run": charge.run,
        "label": charge.label,
        "data": charge.units,
        "units": charge.count,
        "unit": charge.unit,
        "sampling": charge.sampling_probability,
        "noise": charge.noise_multiplier,
        "steps": charge.steps,
        "delta": charge.delta,
        "epsilon after": charge.epsilon,
        "state": one.state,
        "result": one.result,
    }
