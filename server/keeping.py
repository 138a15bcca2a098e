"""``organ-coordinator organs``, ``export``, ``forget``, ``receipts`` and ``log``: what is kept."""

from pathlib import Path
from typing import Annotated

import typer

from not_core.commands.program import Json, listing, report

Home = Annotated[Path, typer.Argument(help="The coordinator's home folder.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (organs, export, forget, receipts, log):
        app.command()(command)


def organs(home: Home, as_json: Json = False) -> None:
    """List the sealed organs of all exchanges, as their donors describe them.

    'stored' says how many bytes of an organ are in the bank, and is 0 while it is on its way;
    'accepted' how many sites accept it of those that tried it, the donor's own check aside.

    Example: organ-coordinator organs ~/coordinator
    """
    from server.holdings import holdings
    from server.home import opened

    with opened(home) as coordinator:
        found = holdings(coordinator)
    listing([one.row for one in found], as_json)


def export(
    home: Home,
    organ: Annotated[str, typer.Argument(help="Digest of the organ, or its first digits.")],
    exchange: Annotated[str, typer.Option(help="Name of the exchange whose offer it is.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    as_json: Json = False,
) -> None:
    """Write a sealed organ to a file, for 'organ-site receive' where no network reaches.

    Example: organ-coordinator export ~/coordinator 3f5a90 --exchange spring --out x.organ
    """
    from server.holdings import export as exported
    from server.home import opened

    with opened(home) as coordinator:
        report({"organ": exported(coordinator, organ, exchange, out), "out": str(out)}, as_json)


def forget(
    home: Home,
    organ: Annotated[str, typer.Argument(help="Digest of the organ, or its first digits.")],
    as_json: Json = False,
) -> None:
    """Remove an organ from catalogue and bank; its receipts stay, and its donor can give it again.

    Example: organ-coordinator forget ~/coordinator 3f5a90
    """
    from server.holdings import forget as forgotten
    from server.home import opened

    with opened(home) as coordinator:
        report({"forgotten": forgotten(coordinator, organ)}, as_json)


def receipts(
    home: Home,
    exchange: Annotated[str, typer.Argument(help="Name of the exchange.")],
    as_json: Json = False,
) -> None:
    """List the signed verdicts of an exchange.

    Example: organ-coordinator receipts ~/coordinator demo
    """
    from not_core import canonical
    from server.home import opened
    from server.status import receipt_row

    with opened(home) as coordinator:
        found = coordinator.catalogue.receipts(exchange)
    if as_json:
        listing([canonical.plain(canonical.encode(one), "receipt") for one in found], as_json)
        return
    listing([receipt_row(one) for one in found], as_json)


def log(home: Home, as_json: Json = False) -> None:
    """Check the log against all its entries, and print them and who has signed it.

    Example: organ-coordinator log ~/coordinator
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from not_core.page.figures import instant
    from server.home import opened
    from server.witnesses import signed_head

    with opened(home) as coordinator:
        book = coordinator.catalogue.log
        size, root = book.verify()
        entries, witnesses = book.entries(size), book.witnesses()
        name = signed_head(coordinator).head.log
    signed = {one.profile.site: one.size for one in witnesses}
    if as_json:
        rows = [{"number": one.number, **asdict(one.entry)} for one in reversed(entries)]
        facts = {"log": name, "entries": size, "root": root, "signed": signed, "rows": rows}
        Console().print_json(data=facts)
        return
    table = Table("number", "time (UTC)", "event", "site", "exchange", "digest", box=None)
    for one in reversed(entries):
        entry = one.entry
        row = (entry.event, entry.site, entry.exchange, entry.digest[:16])
        table.add_row(str(one.number), instant(entry.time), *row)
    Console().print(table)
    report({"log": name, "entries": size, "root": root, "signed": signed or "by nobody yet"}, False)
