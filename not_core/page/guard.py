"""Who may ask a page for what: the one place that decides, before any route is looked for.

Nothing is open but signing in and what a page looks like. Reading takes somebody who is signed in;
whatever may change something takes an operator, and must come from a page of the same origin: the
session's cookie alone, which a browser adds by itself, decides nothing.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from not_core.errors import NotError
from not_core.page.limits import Limits
from not_core.page.sessions import Role, Sessions, Standing
from not_core.service.connections import origin

SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
STATIC = "/static/"
API = "/api/"
EVENTS = "/events"
"""What the path of a stream ends with."""
READING = ("GET", "HEAD")
MOST_BYTES = 64 * 1024
"""Of what a form sends."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in."""

    name: str
    role: Role

    @property
    def operates(self) -> bool:
        """Whether this visitor may change something."""
        return self.role == "operator"


class Guard:
    """Lets through what may pass, with a ``Visitor`` in the request's state, and adds headers.

    Args:
        app: What is guarded.
        sessions: Who is signed in.
        cookie: Name of the session's cookie.
        hosts: Names by which the page may be asked for, at whatever port.
        standing_of: What a name may do at this moment; None where it may do nothing.
        problem: Says in a page that a request gets no answer: a status, why, and headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        cookie: str,
        hosts: Sequence[str],
        standing_of: Callable[[str], Standing | None],
        problem: Callable[[Request, int, str, Mapping[str, str]], Response],
    ) -> None:
        self._host = re.compile(rf"({'|'.join(map(re.escape, hosts))})(:[0-9]{{1,5}})?")
        self._app, self._sessions, self._cookie = app, sessions, cookie
        self._standing_of, self._problem, self._limits = standing_of, problem, Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if not scope["path"].startswith(STATIC):
                    headers["cache-control"] = "no-store"
            await send(message)

        request = Request(scope)
        request.state.visitor = None
        try:
            refused = self._refusal(request) or self._busy(request)
        except NotError as error:  # such as a damaged file of operators
            refused = self._problem(request, 503, str(error), {})
        streams = not refused and scope["path"].endswith(EVENTS)
        with self._limits.streaming(self._asker(request)) if streams else nullcontext():
            await (refused or self._app)(scope, receive, sent)

    def _asker(self, request: Request) -> str:
        """Who is held to limits: a session, or the origin of whoever has none."""
        token = request.cookies.get(self._cookie, "")
        if self._sessions.get(token) is not None:
            return token
        return origin(request.client)

    def _busy(self, request: Request) -> Response | None:
        path, asker = request.scope["path"], self._asker(request)
        if path.startswith(STATIC):
            return None
        if wait := self._limits.wait(asker):
            again = str(math.ceil(wait))
            words = f"too many requests; wait {again} s, then ask again"
            return self._problem(request, 429, words, {"retry-after": again})
        if path.endswith(EVENTS) and self._limits.full(asker):
            words = "too many pages are shown live at once; close some of them"
            return self._problem(request, 429, words, {"retry-after": "60"})
        return None

    def _visitor(self, request: Request) -> Visitor | None:
        session = self._sessions.get(request.cookies.get(self._cookie, ""))
        standing = None if session is None else self._standing_of(session.name)
        if session is None or standing is None or standing.secret != session.secret:
            return None
        return Visitor(session.name, standing.role)

    def _refusal(self, request: Request) -> Response | None:
        # Not the path of ``request.url``, in which a client's ``Host`` has a part.
        path, method = request.scope["path"], request.method
        if not self._host.fullmatch(request.headers.get("host", "")):
            return _refused(request, 400, "this page is not known by that name")
        if method not in READING:
            if not same_origin(request):
                return _refused(request, 403, "not sent from this page; open it anew")
            length = request.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                return _refused(request, 413, f"expected at most {MOST_BYTES} bytes")
        if path == SIGN_IN or path.startswith(STATIC):
            return None
        visitor = request.state.visitor = self._visitor(request)
        if visitor is None:
            html = "text/html" in request.headers.get("accept", "")
            if method in READING and html and not path.startswith(API):
                return RedirectResponse(f"{SIGN_IN}?next={quote(path)}", status_code=303)
            return _refused(request, 401, "sign in first")
        if method not in READING and path != SIGN_OUT and not visitor.operates:
            return _refused(request, 403, "a reader may not change anything; ask an operator")
        return None


def same_origin(request: Request) -> bool:
    """Whether a page of this very origin sent a request; a browser says so itself.

    Source: Fetch Metadata Request Headers, section 2.4; RFC 6454, section 7.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    own = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
    return (
        (site or "same-origin") == "same-origin" and (origin or own) == own and bool(site or origin)
    )


def _refused(request: Request, status: int, words: str) -> Response:
    if request.scope["path"].startswith(API):
        return JSONResponse({"detail": words}, status_code=status)
    return Response(f"{words}\n", status_code=status, media_type="text/plain")
