"""A page's application: routes behind the guard, templates that escape all, errors in words."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from not_core import atomic
from not_core.errors import NotError
from not_core.page import figures
from not_core.page.guard import API, SIGN_OUT, Guard
from not_core.page.sessions import LIFE_SECONDS, Sessions, Standing

Value = TypeVar("Value")

HERE = Path(__file__).parent
LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
OPENAPI = f"{API}openapi.json"
FILTERS = ("number", "count", "percent", "size", "duration", "moment", "instant", "ago")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request got no answer."""

    detail: str


WRONG: dict[int | str, dict[str, Any]] = {422: {"model": Problem}}
"""What a route of the API may answer that takes a query."""
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, **WRONG}
"""What a route of the API may answer that names something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page is served.

    Attributes:
        listen: Address that it listens on.
        port: Its port.
        hosts: Names by which it may be asked for; another one is a name that somebody made point
            here, so that a browser believes this page to be theirs.
        certificate: PEM file; without one it is plain HTTP, which is for loopback only.
        key: PEM file of the certificate's key.
    """

    listen: str = "127.0.0.1"
    port: int
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def private(cls, port: int, kept: Path | None = None) -> "Place":
        """A port on loopback, asked for by a name that nobody can guess.

        Browsers send a host's cookies to all its ports, and other people's programs may listen on
        this one's others; every name below ``localhost`` is this machine's, too, and has cookies of
        its own.

        Args:
            port: The port.
            kept: File of the name, so that it stays; made if need be.

        Source: RFC 6265, section 8.5; RFC 6761, section 6.3.
        """
        name = f"{secrets.token_hex(8)}.localhost"
        if kept is not None:
            if not kept.is_file():
                atomic.write(kept, f"{name}\n".encode(), mode=0o600)
            name = kept.read_text(encoding="utf-8").strip()
        return cls(port=port, hosts=(name,))

    @property
    def url(self) -> str:
        """Its address for a browser."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{self.hosts[0]}:{self.port}/"


class Page:
    """An application, and what its routes need.

    Args:
        kind: ``coordinator`` or ``site``.
        name: What is served, for people.
        place: Where.
        templates: Folder of its own templates.
        links: Path and words of each link at the top.
        standing_of: What a name may do at this moment.
    """

    def __init__(
        self,
        *,
        kind: str,
        name: str,
        place: Place,
        templates: Path,
        links: Mapping[str, str],
        standing_of: Callable[[str], Standing | None],
    ) -> None:
        self.sessions, self._standing_of = Sessions(), standing_of
        # Ports share cookies, so each has a name of its own.
        prefix = "__Host-" if place.certificate else ""
        self._cookie, self._secure = f"{prefix}organ-{kind}-{place.port}", bool(prefix)
        self._environment = Environment(
            loader=FileSystemLoader([templates, HERE / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {one: getattr(figures, one) for one in FILTERS}
        self._environment.globals |= {"kind": kind, "name": name, "links": links}
        self.app = FastAPI(
            title=f"Organ Exchange, {kind}",
            version="1",
            docs_url=None,
            redoc_url=None,
            openapi_url=OPENAPI,
            responses={code: {"model": Problem} for code in (401, 409, 429)},
        )
        self.app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
        self.app.add_middleware(
            Guard,
            sessions=self.sessions,
            cookie=self._cookie,
            hosts=place.hosts,
            standing_of=standing_of,
            problem=self._problem,
        )
        self.app.add_exception_handler(HTTPException, self._failed)
        self.app.add_exception_handler(RequestValidationError, self._invalid)
        self.app.add_exception_handler(NotError, self._refused)
        self.app.add_api_route(SIGN_OUT, self._sign_out, methods=["POST"], include_in_schema=False)

    def render(
        self, request: Request, template: str, code: int = 200, **values: Any
    ) -> HTMLResponse:
        """A whole page."""
        return HTMLResponse(self.piece(request, template, **values), status_code=code)

    def piece(self, request: Request, template: str, **values: Any) -> str:
        """A piece of a page, as text."""
        visitor, path = request.state.visitor, request.scope["path"]
        found = self._environment.get_template(template)
        return found.render(visitor=visitor, path=path, **values)

    def sign_in(self, name: str, path: str) -> RedirectResponse:
        """Open a session and go on to a path of this page."""
        response, standing = moved(path), self._standing_of(name)
        response.set_cookie(
            self._cookie,
            self.sessions.open(name, standing.secret if standing else ""),
            max_age=round(LIFE_SECONDS),
            secure=self._secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _sign_out(self, request: Request) -> Response:
        self.sessions.close(request.cookies.get(self._cookie, ""))
        response = moved("/sign-in")
        response.delete_cookie(self._cookie, secure=self._secure, httponly=True, samesite="strict")
        return response

    def _failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return self._problem(request, error.status_code, str(error.detail), error.headers)

    def _invalid(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 422, "not a valid name, digest or number")

    def _refused(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 409, str(error))

    def _problem(
        self, request: Request, status: int, words: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        if request.scope["path"].startswith(API):
            return JSONResponse({"detail": words}, status_code=status, headers=headers)
        phrase = HTTPStatus(status).phrase
        page = self.render(request, "problem.html.jinja", status, phrase=phrase, words=words)
        page.headers.update(headers or {})
        return page


def moved(path: str) -> RedirectResponse:
    """Go on to a path of this page, and to no other place."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\"))
    return RedirectResponse(path if inside else "/", status_code=303)


def there(value: Value | None, what: str) -> Value:
    """What was asked for.

    Raises:
        HTTPException: There is no such thing.
    """
    if value is None:
        raise HTTPException(404, f"there is no such {what} here")
    return value


async def form(request: Request) -> dict[str, str]:
    """The fields of a form as browsers send it; the guard has bounded its size."""
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=64))
    except ValueError:
        raise HTTPException(400, "expected the fields of a form") from None
