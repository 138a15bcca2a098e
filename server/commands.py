"""The ``organ-coordinator`` command line; its install has no torch."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from not_core.commands.program import (
    Json,
    goes_on,
    listing,
    new_app,
    new_place,
    report,
    run,
    say,
)
from server import keeping
from server.keeping import Home

app = new_app(
    "Coordinate exchanges: pass sealed organs on and keep signed offers and receipts.\n\n"
    "    organ-coordinator init HOME --root root.pem\n\n"
    "The coordinator holds no key that opens what it stores; it signs its log."
)

LISTEN = typer.Option(help="Address that it listens on.")
SITES_PORT = typer.Option(min=1, max=65535, help="Port for sites.")
FLOWER_PORT = typer.Option(min=1, max=65535, help="Port of Flower, on loopback.")
MONITOR_PORT = typer.Option(min=1, max=65535, help="Port of /healthz and /metrics, on loopback.")
PAGE_PORT = typer.Option(min=0, max=65535, help="Port of the page that 'start' serves; 0: none.")


@app.command()
def init(
    home: Annotated[Path, typer.Argument(help="Folder to make; it must not exist yet.")],
    root: Annotated[
        Path, typer.Option(help="The federation's root.pem, federation.crl beside it.")
    ],
    host: Annotated[
        str | None, typer.Option(help="Name or address by which sites will reach it.")
    ] = None,
    listen: Annotated[str, LISTEN] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, SITES_PORT] = 9092,
    flower_port: Annotated[int, FLOWER_PORT] = 9091,
    monitor_port: Annotated[int, MONITOR_PORT] = 9094,
    catalogue: Annotated[
        str, typer.Option(metavar="URL", help="A database; SQLite in the home if none is named.")
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="With the database's password, mode 0600.")
    ] = None,
    bank: Annotated[
        str, typer.Option(metavar="PLACE", help="Folder or URL for sealed organs.")
    ] = "bank",
    page_port: Annotated[int, PAGE_PORT] = 0,
    as_json: Json = False,
) -> None:
    """Make a home that admits the sites of one federation.

    With --host it can be served: its address and tls.pem are then what sites are given. Catalogue
    and bank can be elsewhere: postgresql://user@host/name, s3://bucket/folder. Passwords and keys
    come from files or the environment (PGPASSWORD, AWS_ACCESS_KEY_ID), never from these URLs.

    Example: organ-coordinator init ~/coordinator --root root.pem --host organs.example.org
    """
    new_place(home)
    from server import home as homes

    settings = homes.Settings(
        catalogue=catalogue,
        password_file="" if password_file is None else str(password_file.resolve()),
        bank=homes.placed(bank),
    )
    made = {"home": str(home)}
    if host is None:
        homes.create(home, root, settings)
    else:
        from server import service

        given = _given(host, listen, port, flower_port, monitor_port, page_port)
        asked = service.asked(home, given)
        homes.create(home, root, settings, lambda work: service.create(work, asked))
        made |= {"address": f"{host}:{port}", "certificate": str(home / "tls.pem")}
    report(made, as_json)


def _given(
    host: str | None,
    listen: str | None,
    port: int | None,
    flower_port: int | None,
    monitor_port: int | None,
    page_port: int | None,
) -> dict[str, Any]:
    """Where it is to listen, by names of ``service.toml``; what was not said is left out."""
    return {name: value for name, value in locals().items() if value is not None}


@app.command("serve-at")
def serve_at(
    home: Home,
    host: Annotated[
        str | None, typer.Option(help="Name or address by which sites will reach it.")
    ] = None,
    listen: Annotated[str | None, LISTEN] = None,
    port: Annotated[int | None, SITES_PORT] = None,
    flower_port: Annotated[int | None, FLOWER_PORT] = None,
    monitor_port: Annotated[int | None, MONITOR_PORT] = None,
    page_port: Annotated[int | None, PAGE_PORT] = None,
    as_json: Json = False,
) -> None:
    """Give an address to a home that was made without --host, or change what is named of it.

    Flower's state stays, and so does tls.pem unless the host is another. Where it was cut off, the
    same command completes it.

    Example: organ-coordinator serve-at ~/coordinator --host organs.example.org
    """
    from not_core.service.supervisor import held
    from server import service
    from server.home import settings_of

    settings_of(home)
    given = _given(host, listen, port, flower_port, monitor_port, page_port)
    served = (home / service.SETTINGS).is_file()
    if host is None and not served:
        raise typer.BadParameter("this home has no address yet; give --host")
    with held(home):
        before = service.load(home).port if served else None
        asked = service.asked(home, given)
        new = service.create(home, asked)
    if new:
        told = "must be given the certificate, which is new, and connect with it to this address"
    elif asked.port != before:
        told = "must connect to this address, with the certificate that they have"
    else:
        told = "stay connected as they are"
    address = f"{asked.host}:{asked.port}"
    facts = {"home": home, "address": address, "certificate": home / "tls.pem", "sites": told}
    report({name: str(value) for name, value in facts.items()}, as_json)


@app.command()
def start(home: Home) -> None:
    """Serve until told to stop: Flower on loopback, and the gateway for sites.

    A home that an earlier version made is brought up to date first.
    http://127.0.0.1:9094/healthz says whether all is well, /metrics has figures for Prometheus.

    Example: organ-coordinator start ~/coordinator
    """
    from not_core.service import monitor
    from not_core.service.supervisor import Supervisor, held
    from server import service
    from server.health import monitored
    from server.upgrade import upgrade

    settings = service.load(home)
    with held(home):
        service.refuse_taken(settings)
        upgrade(home)
        programs = service.programs(home.resolve(), settings)
        with monitor.answering(monitored(home, settings), settings.monitor_port):
            Supervisor(home, programs).run(say)


@app.command()
def stop(home: Home, as_json: Json = False) -> None:
    """Stop what 'start' runs; exchanges go on where they were when it starts again.

    Example: organ-coordinator stop ~/coordinator
    """
    from not_core.service import supervisor

    supervisor.stop(home)
    report({"stopped": str(home)}, as_json)


@app.command()
def status(
    home: Home,
    exchange: Annotated[str | None, typer.Argument(help="Tell of this one, and all of it.")] = None,
    as_json: Json = False,
) -> None:
    """Say what runs, which sites are there, and how exchanges go; or what went wrong in one.

    Example: organ-coordinator status ~/coordinator spring
    """
    import time

    from not_core.service import supervisor
    from server import status as found
    from server.home import opened

    running = supervisor.status(home)
    with opened(home) as coordinator:
        if exchange is None:
            pids = {name: row["pid"] for name, row in running.items()}
            facts: dict[str, Any] = {"processes": pids or "stopped"}
            facts |= found.overview(coordinator, bool(running), time.time())
        else:
            facts = found.of_exchange(coordinator, exchange, bool(running), time.time())
    _tell(facts, as_json)


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        report(facts, as_json)
        return
    rows = {name: value for name, value in facts.items() if isinstance(value, list)}
    report({name: value for name, value in facts.items() if name not in rows}, as_json)
    for name, listed in rows.items():
        typer.echo(f"\n{name}")
        listing([{key: _told(value) for key, value in row.items()} for row in listed], as_json)


def _told(value: object) -> object:
    """A value of a row as people read it."""
    if isinstance(value, dict):
        return ", ".join(f"{number} {what}" for what, number in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


@app.command()
def admit(
    home: Home,
    admissions: Annotated[list[Path], typer.Argument(help="What 'organ-site connect' made.")],
    as_json: Json = False,
) -> None:
    """Let sites' nodes in, each vouched for by a member of the federation.

    Example: organ-coordinator admit ~/coordinator clinic.admission
    """
    from not_core import canonical
    from server import service
    from server.home import opened

    with opened(home) as coordinator:
        found = [service.admit(coordinator, canonical.read_bounded(one)) for one in admissions]
    listing([{"site": site, "node": str(node)} for site, node in found], as_json)


@app.command()
def exchange(
    home: Home,
    name: Annotated[str, typer.Argument(help="Its name; an earlier one of that name goes on.")],
    span: Annotated[str, typer.Option(help="Layers that donors train, as START:STOP.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that each donor trains on.")],
    sites: Annotated[
        int | None, typer.Option(min=2, help="Sites to wait for; as many as --site names.")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Takes part; repeatable. Without, all that come.")
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M"],
            help="When it begins, in UTC where it says no other; at once without.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak; default: 2e-3 of factors, 1e-3 of layers.")
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="Of factors; 0 trains whole layers.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of training.")] = 0,
    mode: Annotated[
        Literal["replace", "insert"], typer.Option(help="Take layers' place, or add.")
    ] = "replace",
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; exit code 1 unless it completed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask for an exchange among the sites that are connected; 'start' carries it out.

    What dies on the way goes on by itself. Whoever asks again for one that has ended, with as many
    sites as there are by now, gets what is missing: a site that came later gets the organs whose
    donors are there, from the bank, under a new offer. So does another exchange on the same terms.

    Example: organ-coordinator exchange ~/coordinator spring --sites 3 --span 10:13 --tokens 16384
    """
    import time

    from not_core.manifest import default_learning_rate
    from not_core.page.figures import moment
    from server import keeper
    from server import status as found
    from server.home import opened
    from server.schedule import COMPLETED

    words: dict[str, object] = {"exchange": name, "sites": sites or 0, "span": span, "mode": mode}
    words |= {"tokens": tokens, "rank": rank, "seed": seed}
    words["learning-rate"] = learning_rate or default_learning_rate(rank)
    words |= {"invited": ",".join(site or [])}
    begins = 0.0 if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if at is not None and begins < datetime.now(UTC).timestamp():
        raise typer.BadParameter(f"{at} has passed; give a later time, or none to begin at once")
    with opened(home) as coordinator:
        keeper.ask(coordinator, words, begins)
        state = "begun" if at is None else f"scheduled {moment(begins)} UTC"
        facts: dict[str, Any] = {"exchange": name, "state": state}
        if wait:
            with goes_on("the exchange goes on; see 'organ-coordinator status', or cancel it"):
                state = keeper.waited(coordinator, name)
            facts = found.of_exchange(coordinator, name, True, time.time())
    _tell(facts, as_json)
    if wait and state != COMPLETED:
        raise typer.Exit(1)


@app.command()
def cancel(
    home: Home,
    name: Annotated[str, typer.Argument(help="Of an exchange that runs.")],
    as_json: Json = False,
) -> None:
    """Stop an exchange; what has come of it stays. What a site is training goes to its end there.

    Example: organ-coordinator cancel ~/coordinator spring
    """
    from server.home import opened

    with opened(home) as coordinator:
        coordinator.catalogue.schedule.cancel(name)
    report({"exchange": name, "state": "cancelling"}, as_json)


@app.command()
def page(
    home: Home,
    listen: Annotated[
        str, typer.Option(help="Address to listen on; with TLS, if it is not loopback.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 9093,
) -> None:
    """Serve the coordinator's page to browsers, until interrupted.

    'start' does so, too, where service.toml names a page_port.

    Example: organ-coordinator page ~/coordinator
    """
    from server.page.app import main as serve

    with goes_on("exchanges go on without their page"):
        serve(home, listen, port, say)


operator = new_app("Say who may sign in at the coordinator's page.")
app.add_typer(operator, name="operator")


@operator.command("add")
def operator_add(
    home: Home,
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens.")],
    role: Annotated[
        Literal["reader", "operator"],
        typer.Option(help="A reader sees all; an operator begins and cancels exchanges, too."),
    ] = "reader",
    password_file: Annotated[
        Path | None, typer.Option(help="File, mode 0600, whose first line is the password.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let somebody sign in, or give them another role and password.

    Example: organ-coordinator operator add ~/coordinator ada --role operator
    """
    from not_core.commands.passphrase import new_passphrase
    from not_core.trust.certificates import check_name
    from server import operators
    from server.home import opened

    with opened(home):
        pass  # that it is one
    check_name(name, "operator's name")
    words = new_passphrase(password_file, unprotected=None, words="password")
    operators.add(home, name, role, words or b"")
    report({"operator": name, "role": role}, as_json)


@operator.command("remove")
def operator_remove(
    home: Home,
    name: Annotated[str, typer.Argument(help="Whom to let in no longer.")],
    as_json: Json = False,
) -> None:
    """Let somebody in no longer; their open pages shut, too.

    Example: organ-coordinator operator remove ~/coordinator ada
    """
    from server import operators

    operators.remove(home, name)
    report({"removed": name}, as_json)


@operator.command("list")
def operator_list(home: Home, as_json: Json = False) -> None:
    """List who may sign in.

    Example: organ-coordinator operator list ~/coordinator
    """
    from server import operators

    known = operators.read(home).operators
    listing([{"name": one.name, "role": one.role} for one in known], as_json)


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
    from server.home import opened

    with opened(home) as coordinator:
        found = revocation.load(revoked, coordinator.trust.root)
        keys.install_list(home, found)
    report(
        {
            "revocation_list": found.number,
            "revoked": len(found.revoked),
            "revocation_list_due": found.due_words,
        },
        as_json,
    )


keeping.add_to(app)


def main() -> None:
    """Entry point of ``organ-coordinator``."""
    run(app)
