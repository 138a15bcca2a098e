"""The site's Flower app: messages in, answers out, and nothing else crosses the border.

An error answers with its code only. Flower would send an exception's text to the coordinator, so
every handler is wrapped, and what happened is written to ``site.log`` in the site's own home (JSON
lines) as type and place of the error: an unexpected error's text may quote a record. A long one is
set aside as ``site.log.1``.
"""

import contextlib
import json
import sqlite3
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import donor, member, recipient
from client import witness as witnessing
from client.home import Site, load, settings_of
from not_core import atomic, canonical, protocol
from not_core.errors import HomeError, NotError
from not_core.privacy.ledger import LOG
from not_core.service import supervisor
from not_core.trust.log import Log

Request = TypeVar("Request")
Handler = Callable[[Site, Request, bytes], tuple[object, bytes]]
FindHome = Callable[[Context], Path]

WORDS = {
    "Revoked": "number of a revocation list",
    "SignedEnrolment": "profile",
    "Donation": "offer",
    "Segment": "part of a sealed organ",
    "Delivered": "acknowledgement",
    "Trial": "receipt",
    "Witnessed": "cosignature",
}
"""What a reply is called in the site's log."""


def configured_home(context: Context) -> Path:
    """The home that the operator named: ``--node-config 'home="/path"'``.

    Raises:
        HomeError: None was named.
    """
    home = context.node_config.get("home")
    if not isinstance(home, str):
        raise HomeError("this node has no home; start it with --node-config 'home=\"/path\"'")
    return Path(home)


def site_app(find_home: FindHome) -> ClientApp:
    """Make the app of a site whose home ``find_home`` finds; simulations bring their own."""
    app = ClientApp()

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.EnrolRequest, member.enrol)

    @app.query("revoke")
    def revoke(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.RevokeRequest, member.revoke)

    @app.train("donate")
    def donate(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.DonateRequest, donor.donate)

    @app.query("segment")
    def segment(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.SegmentRequest, donor.segment)

    @app.query("deliver")
    def deliver(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.DeliverRequest, recipient.deliver)

    @app.evaluate("transplant")
    def transplant(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.TransplantRequest, recipient.transplant)

    @app.query("witness")
    def witness(message: Message, context: Context) -> Message:
        return answer(message, find_home, context, protocol.WitnessRequest, witnessing.witness)

    return app


def answer(
    message: Message,
    find_home: FindHome,
    context: Context,
    cls: type[Request],
    handler: Handler[Request],
) -> Message:
    """Run a handler; whatever happens, the reply is a value of the protocol."""
    return Message(_content(message, find_home, context, cls, handler), reply_to=message)


def _content(
    message: Message,
    find_home: FindHome,
    context: Context,
    cls: type[Request],
    handler: Handler[Request],
) -> RecordDict:
    home: Path | None = None
    exchange = ""
    try:
        home = find_home(context)
        settings_of(home)
        # One after the other: a node that was started again may ask while the work that it asked
        # for before it died still runs.
        with atomic.locked(home):
            site = load(home)
            packet = protocol.unpack(message.content)
            request = protocol.read(packet, cls)
            exchange = getattr(request, "exchange", "")
            value, body = handler(site, request, packet.body)
            return _leave(site.log, value, body, exchange)
    except NotError as error:
        _note(home, cls.__name__, error.code, str(error))
        return _refuse(home, error.code, exchange)
    except Exception as error:  # the border: no text of an unexpected error may leave
        where = "".join(traceback.format_tb(error.__traceback__))
        _note(home, cls.__name__, "internal", type(error).__name__, where)
        return _refuse(home, "internal", exchange)


def _leave(log: Log, value: object, body: bytes, exchange: str) -> RecordDict:
    """The one way out: what leaves is in the log before it leaves."""
    data = canonical.encode(value) + body
    kind = type(value).__name__
    log.append(
        "released",
        what=f"error code {value.code}" if isinstance(value, protocol.Refusal) else WORDS[kind],
        digest=canonical.sha256(data),
        size=len(data),
        exchange=exchange,
    )
    return protocol.pack(value, body)


def _refuse(home: Path | None, code: str, exchange: str) -> RecordDict:
    refusal = protocol.Refusal(code=code)
    try:
        if home is not None and (home / LOG).is_file():
            return _leave(Log(home / LOG), refusal, b"", exchange)
    except (NotError, OSError, sqlite3.Error):
        pass  # a site whose log cannot be written still answers, with the code and nothing else
    return protocol.pack(refusal)


def _note(home: Path | None, request: str, code: str, says: str, where: str = "") -> None:
    """Append a line to ``site.log``; others had a hand in what it says, so JSON keeps it apart."""
    if home is None or not home.is_dir():
        return
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"time": moment, "request": request, "code": code, "says": says, "where": where}
    log = home / "site.log"
    with contextlib.suppress(OSError):
        supervisor.set_aside(log)
        with log.open("a", encoding="ascii") as file:
            file.write(json.dumps(facts) + "\n")


app = site_app(configured_home)
