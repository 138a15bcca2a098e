"""The ``organ-coordinator`` command line; its install has no torch."""

from pathlib import Path
from typing import Annotated

import typer

from not_core.commands.program import Json, listing, new_app, new_place, report, run

app = new_app(
    "Coordinate exchanges: pass sealed organs on and keep signed offers and receipts.\n\n"
    "    organ-coordinator init HOME --root root.pem\n\n"
    "The coordinator holds no key: it can open nothing that it stores."
)

Home = Annotated[Path, typer.Argument(help="The coordinator's home folder.")]


@app.command()
def init(
    home: Annotated[Path, typer.Argument(help="Folder to make; it must not exist yet.")],
    root: Annotated[
        Path, typer.Option(help="The federation's root.pem, federation.crl beside it.")
    ],
    as_json: Json = False,
) -> None:
    """Make a home that admits the sites of one federation.

    Example: organ-coordinator init ~/coordinator --root root.pem
    """
    new_place(home)
    from server import home as homes

    homes.create(home, root)
    report({"home": str(home)}, as_json)


@app.command()
def crl(
    home: Home,
    revoked: Annotated[
        Path, typer.Argument(metavar="LIST", help="The federation's new federation.crl.")
    ],
    as_json: Json = False,
) -> None:
    """Take in a revocation list; each exchange hands it to the sites first.

    Example: organ-coordinator crl ~/coordinator federation.crl
    """
    from not_core.trust import keys, revocation
    from server.home import load

    coordinator = load(home)
    coordinator.catalogue.close()
    found = revocation.load(revoked, coordinator.trust.root)
    keys.install_list(home, found)
    report({"list": found.number, "revoked": len(found.revoked), "due": found.due_words}, as_json)


@app.command()
def organs(home: Home, as_json: Json = False) -> None:
    """List the sealed organs of each exchange, as their donors describe them.

    Example: organ-coordinator organs ~/coordinator
    """
    from not_core.trust.offer import peek_offer
    from server.home import load

    coordinator = load(home)
    rows = []
    for exchange in coordinator.catalogue.exchanges():
        for digest, donor, donation in coordinator.catalogue.donations(exchange):
            offer = peek_offer(donation.offer.encode())
            rows.append(
                {
                    "exchange": exchange,
                    "organ": digest,
                    "donor": donor,
                    "id": offer.organ_id,
                    "domain": offer.domain,
                    "span": str(offer.span),
                    "sealed_bytes": donation.sealed_bytes,
                    "privacy": donation.privacy,
                    "stored": coordinator.banked(digest).is_file(),
                }
            )
    coordinator.catalogue.close()
    listing(rows, as_json)


@app.command()
def receipts(
    home: Home,
    exchange: Annotated[str, typer.Argument(help="Name of the exchange.")],
    as_json: Json = False,
) -> None:
    """List the signed verdicts of an exchange.

    Example: organ-coordinator receipts ~/coordinator demo
    """
    from not_core import canonical
    from server.home import load

    coordinator = load(home)
    found = coordinator.catalogue.receipts(exchange)
    coordinator.catalogue.close()
    if as_json:
        listing([canonical.plain(canonical.encode(one), "receipt") for one in found], as_json)
        return
    listing(
        [
            {
                "organ": receipt.organ,
                "donor": receipt.donor,
                "recipient": receipt.recipient,
                "mode": receipt.mode,
                "verdict": receipt.verdict,
                "reason": receipt.reason,
            }
            for receipt in found
        ],
        as_json,
    )


def main() -> None:
    """Entry point of ``organ-coordinator``."""
    run(app)
