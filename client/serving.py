"""``organ-site connect``, ``start``, ``stop`` and ``doctor``: a site that a coordinator serves."""

import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from not_core.commands.passphrase import PassphraseFile, identity_passphrase
from not_core.commands.program import Json, checked, listing, report, say
from not_core.errors import HomeError
from not_core.trust.passphrase import VARIABLE

if TYPE_CHECKING:
    from client.home import Site

Home = Annotated[Path, typer.Argument(help="The site's home folder.")]
COORDINATORS_CERTIFICATE = typer.Option(
    "--certificate", help="The coordinator's tls.pem; by another way than the network."
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(connect)
    app.command()(start)
    app.command()(stop)
    app.command()(doctor)


def connect(
    home: Home,
    coordinator: Annotated[str, typer.Argument(help="The coordinator's address, HOST:PORT.")],
    certificate: Annotated[Path, COORDINATORS_CERTIFICATE],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Another key for the node: its old was taken back.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Prepare to be served: make a node's key, and a file for the coordinator's operator.

    Again, it makes that file anew for the same key: after the site has rotated its own keys, before
    the old certificate is revoked.

    Example: organ-site connect ~/clinic organs.example.org:9092 --certificate tls.pem
    """
    from client import service

    site = unlocked(home, passphrase_file)
    admission = service.connect(site, coordinator, certificate, new_key=new_key)
    report({"coordinator": coordinator, "hand over": str(admission)}, as_json)


def start(
    home: Home,
    pause: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds between two looks for messages.")
    ] = 3.0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List what would leave, as far as known; send nothing."),
    ] = False,
    monitor_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Of /healthz and /metrics, on loopback; 0: none."),
    ] = 0,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Serve until told to stop: ask the coordinator for work, and do what the policy lets.

    Only connections that go out are made, and only code that is installed here runs. The keys'
    passphrase is asked for once, or read from its file; only the signing agent is given it.

    Example: organ-site start ~/clinic
    """
    from client.home import IDENTITY, load, read_home

    site = read_home(home)
    if dry_run:
        from client import rehearsal, reveals

        rows = reveals.listed(site.policy, rehearsal.known(site))
        listing([asdict(one) for one in rows], as_json)
        return
    from client import service
    from client.health import monitored
    from not_core.service import monitor
    from not_core.service.supervisor import Supervisor, held, keep_memory_private

    keep_memory_private()
    words = identity_passphrase(home / IDENTITY, passphrase_file)
    os.environ.pop(VARIABLE, None)  # what is started inherits the rest of it
    load(home, passphrase=words)
    with ExitStack() as stack:
        stack.enter_context(held(home))
        beat = service.Beat(home)
        if monitor_port:
            stack.enter_context(monitor.answering(monitored(home, beat), monitor_port))
        Supervisor(home, service.programs(home, pause, words, beat)).run(_told)


def _told(line: str) -> None:
    """Say what a supervisor says, and where a node that does not stay says why."""
    say(f"{line}; 'organ-site doctor' says why" if line.startswith("supernode ended") else line)


def stop(home: Home, as_json: Json = False) -> None:
    """Stop what 'start' runs; what is unfinished goes on when it starts again.

    Example: organ-site stop ~/clinic
    """
    from client.home import SITE
    from not_core.service import supervisor

    if not (home / SITE).is_file():
        raise HomeError(f"{home} is no site's home; check the path")
    supervisor.stop(home)
    report({"stopped": str(home)}, as_json)


def doctor(home: Home, passphrase_file: PassphraseFile = None, as_json: Json = False) -> None:
    """Look for what keeps a site from taking part, and say what to do; nothing is changed.

    Exit code 1 if anything is wrong.

    Example: organ-site doctor ~/clinic
    """
    from client import doctor as checks
    from client.home import IDENTITY

    def words() -> bytes | None:
        return identity_passphrase(home / IDENTITY, passphrase_file)

    checked(checks.examine(home, words), as_json)


def unlocked(home: Path, passphrase_file: Path | None) -> "Site":
    """A site with its keys; asks for their passphrase if it must."""
    from client import home as homes

    homes.read_home(home)
    words = identity_passphrase(home / homes.IDENTITY, passphrase_file)
    return homes.load(home, passphrase=words)
