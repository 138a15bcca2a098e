"""The coordinator's page: its routes, and how it is served."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Query
from fastapi import Path as InPath
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from not_core.canonical import Digest, Name
from not_core.errors import ExchangeError, OperatorError
from not_core.page import live
from not_core.page.application import MISSING, WRONG, Page, Place, form, moved, there
from not_core.page.guard import SIGN_IN
from not_core.page.serving import serve
from not_core.page.sessions import Attempts
from not_core.service import journal
from not_core.service.connections import origin
from not_core.service.supervisor import LOOPBACK, end_with_parent
from server import keeper, operators
from server.counts import Counts
from server.home import Coordinator, load
from server.page.log import MOST_ENTRIES, LogPage, Proof
from server.page.rows import (
    BankPage,
    ExchangePage,
    ExchangeRow,
    OrganPage,
    Privacy,
    ReceiptPage,
    SiteRow,
    Wanted,
)
from server.page.views import Views
from server.schedule import UNFINISHED

LINKS = {"/": "Exchanges", "/organs": "Organ bank", "/sites": "Sites", "/log": "Log"}
HOST = "page.host"
"""File of the name by which the page is asked for on loopback."""

MOST_FAILURES = 100
"""To sign in, from one origin in ten minutes."""

ExchangeName = Annotated[Name, InPath()]
OrganDigest = Annotated[Digest, InPath()]
SiteName = Annotated[Name, InPath()]
Mode = Annotated[str, InPath(pattern="^(replace|insert)$")]
Number = Annotated[int, InPath(ge=0, le=2**53 - 1)]
PageNumber = Annotated[int, Query(alias="page", ge=1, le=10**6)]
Digits = Annotated[str, Query(alias="digest", pattern="^[0-9a-f]{0,64}$")]
"""The first digits of a digest."""
Form = Annotated[dict[str, str], Depends(form)]


def wanted(
    words: Annotated[str, Query(max_length=200)] = "",
    base: Annotated[str, Query(pattern="^([0-9a-f]{64})?$")] = "",
    donor: Annotated[str, Query(max_length=63)] = "",
    privacy: Privacy = "any",
) -> Wanted:
    """Which organs a query asks for."""
    return Wanted(words=words, base=base, donor=donor, privacy=privacy)


Search = Annotated[Wanted, Depends(wanted)]


def page_of(coordinator: Coordinator, place: Place) -> Page:
    """The page of a coordinator.

    Args:
        coordinator: Whose catalogue stays open as long as the page is served.
        place: Where it will be served.
    """
    home = coordinator.folder
    page = Page(
        kind="coordinator",
        name=coordinator.trust.name,
        place=place,
        templates=Path(__file__).parent / "templates",
        links=LINKS,
        standing_of=lambda name: operators.read(home).standing(name),
    )
    views = Views(coordinator)
    _add_signing_in(page, home)
    _add_api(page, views)
    _add_reading(page, views, coordinator.catalogue.counts)
    _add_deciding(page, coordinator, views)
    return page


def _add_signing_in(page: Page, home: Path) -> None:
    # Guesses at a name, and at all names: by a tunnel, everybody comes from one origin.
    attempts, all_attempts = Attempts(), Attempts(MOST_FAILURES)

    def show(request: Request, status: int = 200, wrong: str = "", name: str = "") -> HTMLResponse:
        somebody = bool(operators.read(home).operators)
        following = request.query_params.get("next", "/")
        return page.render(
            request,
            "sign-in.html.jinja",
            status,
            somebody=somebody,
            following=following,
            wrong=wrong,
            tried=name,
        )

    @page.app.get(SIGN_IN, include_in_schema=False)
    def sign_in(request: Request) -> Response:
        return show(request)

    @page.app.post(SIGN_IN, include_in_schema=False)
    def signed_in(request: Request, fields: Form) -> Response:
        name, password = fields.get("name", ""), fields.get("password", "")
        whence = origin(request.client)
        if not (attempts.allowed(f"{whence} {name}") and all_attempts.allowed(whence)):
            return show(request, 429, "Too many attempts; try again in ten minutes.", name)
        try:
            right = operators.check(home, name, password)
        except OperatorError as error:
            return show(request, 429, f"{str(error).capitalize()}.", name)
        if not right:
            attempts.failed(f"{whence} {name}")
            all_attempts.failed(whence)
            return show(request, 401, "That name and password do not belong together.", name)
        return page.sign_in(name, fields.get("next", "/"))


def _add_api(page: Page, views: Views) -> None:
    app = page.app

    @app.get("/api/exchanges", tags=["exchanges"])
    def list_exchanges() -> list[ExchangeRow]:
        """All exchanges, and how far each is."""
        return views.exchanges()

    @app.get("/api/exchanges/{exchange}", tags=["exchanges"], responses=MISSING)
    def read_exchange(exchange: ExchangeName, number: PageNumber = 1) -> ExchangePage:
        """One exchange: who takes part, what was found, what happened last."""
        return there(views.exchange(exchange, number), "exchange")

    @app.get("/api/organs", tags=["organs"], responses=WRONG)
    def search_organs(search: Search, number: PageNumber = 1) -> BankPage:
        """Organs by words of their name and domain, base, donor and privacy."""
        return views.organs(search, number)

    @app.get("/api/organs/{exchange}/{organ}", tags=["organs"], responses=MISSING)
    def read_organ(exchange: ExchangeName, organ: OrganDigest) -> OrganPage:
        """One organ, why its offer is to be believed, and its receipts."""
        return there(views.organ(exchange, organ), "organ")

    @app.get(
        "/api/receipts/{exchange}/{organ}/{recipient}/{mode}", tags=["organs"], responses=MISSING
    )
    def read_receipt(
        exchange: ExchangeName, organ: OrganDigest, recipient: SiteName, mode: Mode
    ) -> ReceiptPage:
        """One receipt, and why it is to be believed."""
        return there(views.receipt(exchange, organ, recipient, mode), "receipt")

    @app.get("/api/sites", tags=["sites"])
    def list_sites() -> list[SiteRow]:
        """All sites, and when each was last heard of."""
        return views.sites()

    @app.get("/api/log", tags=["log"], responses=WRONG)
    def read_log(digits: Digits = "", number: PageNumber = 1) -> LogPage:
        """The log: its tree head, who has signed it, and entries, of a page or on a digest."""
        return views.log(number, digits)

    @app.get("/api/log/entries/{entry}", tags=["log"], responses=MISSING)
    def read_proof(entry: Number) -> Proof:
        """The proof that the log holds an entry, by its number."""
        return there(views.proof(entry), "entry")


def _add_reading(page: Page, views: Views, counts: Counts) -> None:
    app, latest = page.app, live.Latest()

    @app.get("/organs", include_in_schema=False)
    def organs(request: Request, search: Search, number: PageNumber = 1) -> Response:
        bank = views.organs(search, number)
        return page.render(request, "organs.html.jinja", bank=bank, wanted=search)

    @app.get("/organs/{exchange}/{organ}", include_in_schema=False)
    def organ(request: Request, exchange: ExchangeName, organ: OrganDigest) -> Response:
        found = there(views.organ(exchange, organ), "organ")
        return page.render(request, "organ.html.jinja", organ=found)

    @app.get("/exchanges/{exchange}", include_in_schema=False)
    def exchange(request: Request, exchange: ExchangeName, number: PageNumber = 1) -> Response:
        found = there(views.exchange(exchange, number), "exchange")
        return page.render(request, "exchange.html.jinja", exchange=found)

    @app.get("/exchanges/{exchange}/events", include_in_schema=False)
    def events(request: Request, exchange: ExchangeName, number: PageNumber = 1) -> Response:
        there(views.known(exchange) or None, "exchange")

        def render() -> str:
            found = there(views.exchange(exchange, number), "exchange")
            return page.piece(request, "progress.html.jinja", exchange=found)

        def piece() -> tuple[str, bool]:
            stamp = counts.stamp(exchange)
            text = latest.text((exchange, number), stamp, render)
            return text, stamp.state not in UNFINISHED

        return live.stream(piece)

    @app.get("/exchanges/{exchange}/receipts/{organ}/{recipient}/{mode}", include_in_schema=False)
    def receipt(
        request: Request,
        exchange: ExchangeName,
        organ: OrganDigest,
        recipient: SiteName,
        mode: Mode,
    ) -> Response:
        found = there(views.receipt(exchange, organ, recipient, mode), "receipt")
        return page.render(request, "receipt.html.jinja", found=found)

    @app.get("/sites", include_in_schema=False)
    def sites(request: Request) -> Response:
        return page.render(request, "sites.html.jinja", rows=views.sites())

    @app.get("/log", include_in_schema=False)
    def log(request: Request, digits: Digits = "", number: PageNumber = 1) -> Response:
        found = views.log(number, digits)
        return page.render(request, "log.html.jinja", log=found, digits=digits, most=MOST_ENTRIES)

    @app.get("/log/entries/{entry}", include_in_schema=False)
    def proof(request: Request, entry: Number) -> Response:
        found = there(views.proof(entry), "entry")
        return page.render(request, "proof.html.jinja", proof=found)


def _add_deciding(page: Page, coordinator: Coordinator, views: Views) -> None:
    app, catalogue = page.app, coordinator.catalogue

    def show(
        request: Request, status: int = 200, wrong: str = "", fields: dict[str, str] | None = None
    ) -> Response:
        return page.render(
            request,
            "exchanges.html.jinja",
            status,
            rows=views.exchanges(),
            wrong=wrong,
            fields=fields or {},
        )

    @app.get("/", include_in_schema=False)
    def exchanges(request: Request) -> Response:
        return show(request)

    @app.post("/exchanges", include_in_schema=False)
    def begin(request: Request, fields: Form) -> Response:
        words = {key: one.strip() for key, one in fields.items() if one.strip()}
        try:
            name = keeper.ask(coordinator, words)
        except ExchangeError as error:
            return show(request, 400, f"{error}.", words)
        return moved(f"/exchanges/{name}")

    @app.post("/exchanges/{exchange}/cancel", include_in_schema=False)
    def cancel(exchange: ExchangeName) -> Response:
        catalogue.schedule.cancel(exchange)
        return moved(f"/exchanges/{exchange}")


def place_of(home: Path, listen: str, port: int) -> Place:
    """Where a coordinator's page is served: with the gateway's certificate if not on loopback.

    Raises:
        HomeError: It is to be served elsewhere, and the home has no certificate.
    """
    if listen == LOOPBACK:
        return Place.private(port, home / HOST)
    from server import service

    host = service.load(home).host
    return Place(
        listen=listen,
        port=port,
        hosts=tuple(dict.fromkeys((host, listen))),
        certificate=home / "tls.pem",
        key=home / "tls.key",
    )


def main(
    home: Path, listen: str, port: int, told: Callable[[str], None] = lambda address: None
) -> None:
    """Serve a coordinator's page until told to stop; ``told`` is told its address."""
    place = place_of(home, listen, port)
    serve(page_of(load(home), place), place, told)


if __name__ == "__main__":
    end_with_parent()
    journal.begin()
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
