"""A site's page: its routes, and how it is served, on loopback only."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Path as InPath
from starlette.requests import Request
from starlette.responses import Response

from client import donor
from client.home import read_home
from client.page.views import Dossier, Logged, Spending, Status, Views, Waiting
from client.reveals import Revealed
from not_core.canonical import Digest
from not_core.page import live
from not_core.page.application import MISSING, Page, Place, moved, there
from not_core.page.guard import SIGN_IN
from not_core.page.serving import serve
from not_core.page.sessions import Standing
from not_core.protocol import Receipt

OWNER = "operator"
"""Whoever has the token: the site's operator, who started this page."""

LINKS = {
    "/": "Approvals",
    "/organs": "Organs tried",
    "/privacy": "Privacy",
    "/log": "Log",
    "/leaves": "What leaves",
}
OrganDigest = Annotated[Digest, InPath()]


def page_of(home: Path, place: Place, token: str) -> Page:
    """The page of a site.

    Args:
        home: The site's.
        place: Where it will be served.
        token: The secret that lets somebody in.
    """
    site = read_home(home)
    page = Page(
        kind="site",
        name=site.settings.site,
        place=place,
        templates=Path(__file__).parent / "templates",
        links=LINKS,
        standing_of=lambda name: Standing("operator") if name == OWNER else None,
    )
    views = Views(home)
    _add_signing_in(page, token)
    _add_api(page, views)
    _add_reading(page, views)
    _add_deciding(page, views)
    return page


def _add_signing_in(page: Page, token: str) -> None:
    @page.app.get(SIGN_IN, include_in_schema=False)
    def sign_in(request: Request) -> Response:
        given = request.query_params.get("token", "")
        if not given:
            return page.render(request, "sign-in.html.jinja", wrong="")
        if not secrets.compare_digest(given.encode(), token.encode()):
            wrong = "This address is of an earlier start."
            return page.render(request, "sign-in.html.jinja", 401, wrong=wrong)
        return page.sign_in(OWNER, "/")


def _add_api(page: Page, views: Views) -> None:
    app = page.app

    @app.get("/api/status", tags=["site"])
    def read_status() -> Status:
        """What the site does, and what waits."""
        return views.status()

    @app.get("/api/pending", tags=["approvals"])
    def list_pending() -> list[Waiting]:
        """Organs that wait for the operator's word."""
        return views.status().waiting

    @app.get("/api/pending/{organ}", tags=["approvals"], responses=MISSING)
    def read_dossier(organ: OrganDigest) -> Dossier:
        """All there is to know of one of them."""
        return there(views.dossier(organ), "organ that waits")

    @app.get("/api/receipts", tags=["organs"])
    def list_receipts() -> list[Receipt]:
        """What this site found of organs that it tried."""
        return views.receipts()

    @app.get("/api/ledger", tags=["site"])
    def read_ledger() -> Spending:
        """The privacy ledger, and what is left of its bound."""
        return views.spending()

    @app.get("/api/log", tags=["site"])
    def read_log() -> Logged:
        """The log's latest entries, and whether its chain holds."""
        return views.log()

    @app.get("/api/leaves", tags=["site"])
    def list_leaves() -> list[Revealed]:
        """Every field that ever leaves this site."""
        return views.reveals()


def _add_reading(page: Page, views: Views) -> None:
    app = page.app

    @app.get("/", include_in_schema=False)
    def approvals(request: Request) -> Response:
        return page.render(request, "approvals.html.jinja", status=views.status())

    @app.get("/events", include_in_schema=False)
    def events(request: Request) -> Response:
        def piece() -> tuple[str, bool]:
            return page.piece(request, "doing.html.jinja", doing=views.doing()), False

        return live.stream(piece)

    @app.get("/approvals/{organ}", include_in_schema=False)
    def dossier(request: Request, organ: OrganDigest) -> Response:
        found = there(views.dossier(organ), "organ that waits")
        return page.render(request, "dossier.html.jinja", dossier=found)

    @app.get("/organs", include_in_schema=False)
    def organs(request: Request) -> Response:
        return page.render(request, "organs.html.jinja", receipts=views.receipts())

    @app.get("/privacy", include_in_schema=False)
    def privacy(request: Request) -> Response:
        found = views.spending()
        chart = views.chart(found)
        return page.render(request, "privacy.html.jinja", spending=found, chart=chart)

    @app.get("/log", include_in_schema=False)
    def log(request: Request) -> Response:
        return page.render(request, "log.html.jinja", log=views.log())

    @app.get("/leaves", include_in_schema=False)
    def leaves(request: Request) -> Response:
        return page.render(request, "leaves.html.jinja", rows=views.reveals())


def _add_deciding(page: Page, views: Views) -> None:
    app = page.app

    def decided(organ: str, event: Literal["approved", "rejected"]) -> Response:
        donor.decide(views.home(), organ, event)
        return moved("/")

    @app.post("/approvals/{organ}/approve", include_in_schema=False)
    def approve(organ: OrganDigest) -> Response:
        return decided(organ, "approved")

    @app.post("/approvals/{organ}/reject", include_in_schema=False)
    def reject(organ: OrganDigest) -> Response:
        return decided(organ, "rejected")


def main(home: Path, port: int, told: Callable[[str], None]) -> None:
    """Serve a site's page until told to stop.

    Args:
        home: The site's.
        port: On loopback.
        told: Told the address, which holds the secret that lets in whoever opens it.
    """
    place, token = Place.private(port), secrets.token_urlsafe(32)
    page = page_of(home, place, token)
    serve(page, place, lambda address: told(f"{address}sign-in?token={token}"))
