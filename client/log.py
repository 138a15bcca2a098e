"""``organ-site log``: what left this site, and what the coordinator says of its own log."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from client.serving import Home
from not_core.commands.program import Json, new_app, report
from not_core.errors import LogError
from not_core.page.figures import instant

if TYPE_CHECKING:
    from client.witness import Shown

LOG = "coordinator's log"

app = new_app("What left this site and was decided; and whether the coordinator's log agrees.")


@app.command()
def show(home: Home, as_json: Json = False) -> None:
    """Check the log's chain and print what left this site and what was decided.

    Keep the number of rows and the head hash elsewhere: they show later that no row was cut off.

    Example: organ-site log show ~/clinic
    """
    from rich.console import Console
    from rich.table import Table

    from client.home import read_home

    book = read_home(home).log
    count, head = book.verify()
    entries = book.entries()
    if as_json:
        rows = [{**asdict(entry), "hash": entry.hash} for entry in entries]
        Console().print_json(data={"rows": count, "head": head, "entries": rows})
        return
    table = Table("time (UTC)", "event", "what", "bytes", "exchange", "digest", box=None)
    for entry in entries:
        size = str(entry.bytes) if entry.bytes else ""
        row = (entry.event, entry.what, size, entry.exchange, entry.digest[:16])
        table.add_row(instant(entry.time), *row)
    Console().print(table)
    Console().print(f"{count} rows, head {head}", highlight=False)


@app.command()
def verify(home: Home, as_json: Json = False) -> None:
    """Check, without a network, this site's log, and all that the coordinator showed of its own.

    The coordinator's log must have only grown, hold what this site signed or was given, and be the
    one that other sites signed. Compare its fingerprint, entries and root with other sites: two
    that are shown different logs cannot find out from the coordinator.

    Example: organ-site log verify ~/clinic
    """
    from client import witness
    from client.home import read_home

    site = read_home(home)
    rows, head = site.log.verify()
    shown = witness.verify(site)
    told = _told(shown) if shown else {LOG: "not shown yet; exchanges end with it"}
    report({"rows": rows, "head": head, **told}, as_json)
    if shown and shown.wrong:
        raise LogError(shown.wrong)


@app.command()
def reset(home: Home, as_json: Json = False) -> None:
    """Put away what was seen of the coordinator's log, and believe the next tree head that comes.

    For a coordinator that had to put back an old copy, or begin anew: when its operator has said so
    by another way, and not before other sites were asked. What was seen stays in the home.

    Example: organ-site log reset ~/clinic
    """
    from client import witness
    from client.home import read_home

    aside = witness.set_aside(read_home(home))
    report({"set aside": str(aside) if aside else "nothing was seen yet"}, as_json)


def _told(shown: "Shown") -> dict[str, object]:
    return {
        LOG: shown.head.log,
        "entries": shown.head.size,
        "root": shown.head.root,
        "signed": instant(shown.head.time),
        "tree heads": shown.heads,
        "proven to hold": shown.entries,
        "signed by others": list(shown.witnesses),
        **({"cannot be read": list(shown.unreadable)} if shown.unreadable else {}),
    }
