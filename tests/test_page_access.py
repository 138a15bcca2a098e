"""Who may ask pages for what: every route, by everybody."""

import re
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pages import (
    PASSWORD,
    PLACE,
    Members,
    browser,
    cheap_passwords,
    operated,
    routes,
    sign_in,
    site,
)
from starlette.testclient import TestClient

from client.page import app as site_page
from client.page.views import Views
from not_core.errors import HomeError
from not_core.page import limits, live
from not_core.page.application import Page, Place
from not_core.page.sessions import Attempts, Sessions
from not_core.service import supervisor
from server import operators, service
from server.home import Coordinator
from server.page import app as coordinator_page

TOKEN = "a-token-of-a-test"

IN, OUT, NO, YES, GONE, WRONG = 303, 401, 403, 200, 409, 400
"""Sent on, not signed in, not allowed, answered, refused by what there is, refused as it is."""

READ, READ_API = (IN, YES, YES), (OUT, YES, YES)

COORDINATOR = {
    ("GET", "/sign-in"): (YES, YES, YES),
    ("POST", "/sign-in"): (OUT, OUT, OUT),  # without a password
    ("GET", "/static"): (YES, YES, YES),
    ("GET", "/"): READ,
    ("GET", "/organs"): READ,
    ("GET", "/organs/{exchange}/{organ}"): READ,
    ("GET", "/exchanges/{exchange}"): READ,
    ("GET", "/exchanges/{exchange}/events"): READ,
    ("GET", "/exchanges/{exchange}/receipts/{organ}/{recipient}/{mode}"): READ,
    ("GET", "/sites"): READ,
    ("GET", "/log"): READ,
    ("GET", "/log/entries/{entry}"): READ,
    ("POST", "/exchanges"): (OUT, NO, WRONG),  # without terms
    ("POST", "/exchanges/{exchange}/cancel"): (OUT, NO, GONE),  # it does not run
    ("GET", "/api/openapi.json"): READ_API,
    ("GET", "/api/exchanges"): READ_API,
    ("GET", "/api/exchanges/{exchange}"): READ_API,
    ("GET", "/api/organs"): READ_API,
    ("GET", "/api/organs/{exchange}/{organ}"): READ_API,
    ("GET", "/api/receipts/{exchange}/{organ}/{recipient}/{mode}"): READ_API,
    ("GET", "/api/sites"): READ_API,
    ("GET", "/api/log"): READ_API,
    ("GET", "/api/log/entries/{entry}"): READ_API,
    ("POST", "/sign-out"): (OUT, IN, IN),  # last, for this is the end of the session
}
"""What nobody, a reader and an operator get; a route that is not here fails the test."""

SITE = {
    ("GET", "/sign-in"): (YES, YES),
    ("GET", "/static"): (YES, YES),
    ("GET", "/"): (IN, YES),
    ("GET", "/events"): (IN, YES),
    ("GET", "/approvals/{organ}"): (IN, YES),
    ("GET", "/organs"): (IN, YES),
    ("GET", "/privacy"): (IN, YES),
    ("GET", "/log"): (IN, YES),
    ("GET", "/leaves"): (IN, YES),
    ("GET", "/api/openapi.json"): (OUT, YES),
    ("GET", "/api/status"): (OUT, YES),
    ("GET", "/api/pending"): (OUT, YES),
    ("GET", "/api/pending/{organ}"): (OUT, YES),
    ("GET", "/api/receipts"): (OUT, YES),
    ("GET", "/api/ledger"): (OUT, YES),
    ("GET", "/api/log"): (OUT, YES),
    ("GET", "/api/leaves"): (OUT, YES),
    ("POST", "/approvals/{organ}/approve"): (OUT, IN),
    ("POST", "/approvals/{organ}/reject"): (OUT, IN),
    ("POST", "/sign-out"): (OUT, IN),
}
"""What nobody and the site's operator get."""


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        made = Members(tmp_path_factory.mktemp("members"))
        made.exchange("spring")
        return made


@pytest.fixture
def coordinator(members: Members, monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    cheap_passwords(monkeypatch)
    operated(members.coordinator)
    return members.coordinator


@pytest.fixture
def page(coordinator: Coordinator) -> Page:
    return coordinator_page.page_of(coordinator, PLACE)


def asked(client: TestClient, method: str, path: str, **parts: str) -> int:
    concrete = path.format(**parts)
    if path == "/static":
        concrete += "/page.css"
    return client.request(method, concrete).status_code


def test_every_route_of_the_coordinators_page_lets_in_whom_it_should(
    page: Page, coordinator: Coordinator
) -> None:
    assert routes(page) == set(COORDINATOR)
    organ = coordinator.catalogue.donations("spring")[0][0]
    parts = {"exchange": "spring", "organ": organ, "recipient": "north", "mode": "replace"}
    parts["entry"] = "0"
    for column, name in enumerate(("", "rita", "ada")):
        client = browser(page)
        if name:
            assert sign_in(client, name).status_code == IN
        for (method, path), expected in COORDINATOR.items():
            assert asked(client, method, path, **parts) == expected[column], (name, method, path)


def test_every_route_of_a_sites_page_lets_in_only_who_has_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LONGEST_SECONDS", 0.0)
    home = site(tmp_path)
    page = site_page.page_of(home, PLACE, TOKEN)
    assert routes(page) == set(SITE)
    organ = Views(home).status().waiting[0].organ
    for column in (0, 1):
        client = browser(page)
        if column:
            assert client.get(f"/sign-in?token={TOKEN}").status_code == IN
        for (method, path), expected in SITE.items():
            assert asked(client, method, path, organ=organ) == expected[column], (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "", "sec-fetch-site": ""},
    ],
)
def test_what_another_page_sends_changes_nothing(page: Page, headers: dict[str, str]) -> None:
    client = browser(page)
    sign_in(client, "ada")
    assert client.post("/sign-out", headers=headers).status_code == NO
    assert client.get("/").status_code == YES


def test_a_name_that_was_made_to_point_here_is_refused(page: Page) -> None:
    for host in ("evil.example:9093", "127.0.0.1.evil.example", "evil.example@127.0.0.1", ""):
        assert browser(page).get("/sign-in", headers={"host": host}).status_code == WRONG
    assert browser(page).get("/sign-in", headers={"host": "localhost"}).status_code == YES


def test_a_path_that_is_hidden_in_a_name_opens_nothing(page: Page) -> None:
    """Who puts the two together reads ``http://127.0.0.1:9093/static/x?/organs``."""
    for host in ("127.0.0.1:9093/static/x?", "127.0.0.1/sign-in#", "127.0.0.1:9093/sign-in?"):
        answer = browser(page).get("/organs", headers={"host": host})
        assert (answer.status_code, "Organ bank" in answer.text) == (WRONG, False)


def test_a_form_is_of_a_size_that_is_said_and_small(page: Page) -> None:
    client = browser(page)
    sign_in(client, "ada")
    assert client.post("/exchanges", content=b"a" * 65_537).status_code == 413
    assert client.post("/exchanges", content=iter([b"a"])).status_code == 413
    assert client.post("/exchanges", content=b"\xff").status_code == WRONG


def test_nothing_runs_or_loads_that_is_not_of_the_page(page: Page) -> None:
    client = browser(page)
    for path in ("/sign-in", "/static/page.css", "/nowhere", "/api/organs"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    sign_in(client, "ada")
    assert client.get("/").headers["cache-control"] == "no-store"


def test_a_cookie_is_for_this_page_alone(coordinator: Coordinator, tmp_path: Path) -> None:
    plain = sign_in(browser(coordinator_page.page_of(coordinator, PLACE)), "ada")
    assert plain.headers["set-cookie"].startswith("organ-coordinator-9093=")
    assert "HttpOnly" in plain.headers["set-cookie"]
    assert "SameSite=strict" in plain.headers["set-cookie"]
    place = Place(port=9093, certificate=tmp_path / "tls.pem", key=tmp_path / "tls.key")
    secure = sign_in(browser(coordinator_page.page_of(coordinator, place)), "ada")
    assert secure.headers["set-cookie"].startswith("__Host-organ-coordinator-9093=")
    assert "Secure" in secure.headers["set-cookie"]


def test_signing_out_and_losing_a_role_shut_the_page(page: Page, coordinator: Coordinator) -> None:
    client = browser(page)
    sign_in(client, "ada")
    kept = dict(client.cookies)
    client.post("/sign-out")
    client.cookies.update(kept)
    assert client.get("/").status_code == IN
    sign_in(client, "ada")
    operators.add(coordinator.folder, "ada", "reader", b"another good password")
    assert client.get("/").status_code == IN
    operators.add(coordinator.folder, "ada", "reader", PASSWORD.encode())
    sign_in(client, "ada")
    assert client.post("/exchanges").status_code == NO
    operators.remove(coordinator.folder, "ada")
    assert client.get("/").status_code == IN
    operators.add(coordinator.folder, "ada", "reader", PASSWORD.encode())
    assert client.get("/").status_code == IN


def test_a_damaged_file_of_operators_is_said_and_lets_nobody_in(
    page: Page, coordinator: Coordinator
) -> None:
    client = browser(page)
    sign_in(client, "ada")
    path = coordinator.folder / operators.OPERATORS
    kept = path.read_bytes()
    path.write_text("{")
    try:
        assert client.get("/static/page.css").status_code == 200
        for asked, code in (("/", 503), ("/api/organs", 503), ("/sign-in", 409)):
            answer = client.get(asked)
            assert (answer.status_code, operators.OPERATORS in answer.text) == (code, True)
    finally:
        path.write_bytes(kept)


def test_guesses_are_few(page: Page) -> None:
    client = browser(page)
    codes = [sign_in(client, "ada", "wrong").status_code for _ in range(11)]
    assert codes == [OUT] * 10 + [429]
    assert sign_in(client, "ada").status_code == 429
    assert sign_in(client, "rita").status_code == IN  # whom nobody guesses at


def test_whoever_knows_the_password_may_sign_in_often(page: Page) -> None:
    assert {sign_in(browser(page), "ada").status_code for _ in range(12)} == {IN}


def test_guesses_at_many_names_are_few(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_page, "MOST_FAILURES", 3)
    client = browser(coordinator_page.page_of(coordinator, PLACE))
    codes = [sign_in(client, f"nobody-{number}").status_code for number in range(4)]
    assert codes == [OUT] * 3 + [429]


def test_requests_are_many_and_not_endless(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 0.0
    monkeypatch.setattr("not_core.page.limits.time.monotonic", lambda: moment)
    nobody, ada, rita = browser(page), browser(page), browser(page)
    sign_in(ada, "ada")
    sign_in(rita, "rita")
    codes = [ada.get("/api/organs").status_code for _ in range(limits.REQUESTS + 1)]
    assert codes == [YES] * limits.REQUESTS + [429]
    refused = ada.get("/organs")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "too many requests; wait 1 s" in refused.text
    assert "<h1>Too Many Requests</h1>" in refused.text
    words = "too many requests; wait 1 s, then ask again"
    assert ada.get("/api/organs").json() == {"detail": words}
    assert ada.get("/static/page.css").status_code == YES
    assert rita.get("/organs").status_code == YES, "another session"
    assert nobody.get("/organs").status_code == IN, "another address"
    moment = 0.5
    assert [ada.get("/organs").status_code for _ in range(2)] == [YES, 429]


def test_whoever_is_unknown_is_answered_like_whoever_errs(page: Page) -> None:
    client = browser(page)
    known, unknown = sign_in(client, "ada", "wrong"), sign_in(client, "eve", "wrong")
    assert known.text.replace("ada", "eve") == unknown.text


@pytest.mark.parametrize("following", ["//evil.example", "/\\evil.example", "https://evil.example"])
def test_signing_in_leads_nowhere_else(page: Page, following: str) -> None:
    data = {"name": "ada", "password": PASSWORD, "next": following}
    assert browser(page).post("/sign-in", data=data).headers["location"] == "/"


def test_a_session_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 0.0
    monkeypatch.setattr("not_core.page.sessions.time.monotonic", lambda: moment)
    sessions, attempts = Sessions(), Attempts(most=1, seconds=60)
    token = sessions.open("ada")
    assert sessions.get(token) is not None
    attempts.failed("x")
    assert [attempts.allowed("x"), attempts.allowed("y")] == [False, True]
    moment = 12 * 3600.0
    assert sessions.get(token) is None
    assert attempts.allowed("x")


def test_operators_are_kept_without_their_passwords(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], members: Members
) -> None:
    from server.commands import app

    home = members.coordinator.folder
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    words = ("operator", "add", home, "eve", "--role", "operator", "--password-file", secret)
    assert call(*words, app=app)[0] == 0
    kept = home / operators.OPERATORS
    assert kept.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in kept.read_text()
    assert "m=65536,t=3,p=4" in kept.read_text()
    assert operators.check(home, "eve", PASSWORD)
    assert not operators.check(home, "eve", PASSWORD[:-1])
    assert "eve" in call("operator", "list", home, app=app)[1]
    secret.write_text("short")
    assert "expected 12 to 1024" in call(*words, app=app)[2]
    assert call("operator", "remove", home, "eve", app=app)[0] == 0
    assert "no operator eve" in call("operator", "remove", home, "eve", app=app)[2]


def test_away_from_loopback_it_is_served_with_tls(members: Members) -> None:
    home, port = members.coordinator.folder, supervisor.free_port()
    made = service.Service(
        host="127.0.0.1",
        page_listen="0.0.0.0",  # noqa: S104
        page_port=port,
    )
    service.create(home, made)
    (program,) = [one for one in service.programs(home, made) if one.name == "page"]
    trusted = ssl.create_default_context(cafile=home / "tls.pem")
    process = subprocess.Popen(program.command)  # noqa: S603
    try:
        while not supervisor.answers("127.0.0.1", port):
            assert process.poll() is None
            time.sleep(0.1)
        answer = httpx.get(f"https://127.0.0.1:{port}/sign-in", verify=trusted)
        assert (answer.status_code, "Organ Exchange" in answer.text) == (200, True)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/sign-in")
    finally:
        supervisor.end(process)
    unserved = service.Service(host="127.0.0.1")
    assert "page" not in [one.name for one in service.programs(home, unserved)]


def test_on_loopback_there_is_no_tls_and_elsewhere_it_must_be_there(tmp_path: Path) -> None:
    place = coordinator_page.place_of(tmp_path, "127.0.0.1", 9)
    assert re.fullmatch(r"http://[0-9a-f]{16}\.localhost:9/", place.url)
    assert coordinator_page.place_of(tmp_path, "127.0.0.1", 9) == place
    assert (tmp_path / coordinator_page.HOST).stat().st_mode & 0o777 == 0o600
    with pytest.raises(HomeError, match="no coordinator in"):
        coordinator_page.place_of(tmp_path, "0.0.0.0", 9)  # noqa: S104
