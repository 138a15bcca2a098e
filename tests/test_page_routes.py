"""Every route of both pages, the forms too, asked with what nobody thought of: no 5xx."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import (
    FORM,
    ORIGIN,
    PASSWORD,
    PLACE,
    Members,
    browser,
    cheap_passwords,
    operated,
    sign_in,
    site,
)
from starlette.testclient import TestClient

from client.page import app as site_page
from not_core.page import limits
from server.page import app as coordinator_page

ODD = st.one_of(
    st.sampled_from(
        ["", ".", "..", "spring", "0", "-1", "1e9", "9" * 400, "nan", "\0", "\u202e", "ab" * 32]
    ),
    st.text(max_size=40),
)
RIGHT = FORM | {"exchange": "autumn", "name": "ada", "password": PASSWORD}
FIELDS = st.dictionaries(st.sampled_from([*FORM, "name", "password", "next", "token"]), ODD)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TestClient]]:
    place = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REQUESTS", 10**6)
        patch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        patch.setattr(coordinator_page, "MOST_FAILURES", 10**6)
        cheap_passwords(patch)
        members = Members(place / "members")
        members.exchange("spring")
        operated(members.coordinator)
        operator = browser(coordinator_page.page_of(members.coordinator, PLACE))
        sign_in(operator, "ada")
        owner = browser(site_page.page_of(site(place), PLACE, "token"))
        owner.get("/sign-in?token=token")
        yield [operator, owner]
        members.coordinator.catalogue.close()


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Method and path of each route but those whose answer does not end, and signing out."""
    found: Any = client.app
    return [
        (method, one.path)
        for one in found.routes
        if isinstance(one, APIRoute) and not one.path.endswith("/events")
        for method in one.methods
        if one.path != "/sign-out"
    ]


def asked(client: TestClient, method: str, path: str) -> set[int]:
    """The codes of a route's answers to what nobody thought of."""
    codes: set[int] = set()

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(parts=st.lists(ODD, min_size=5, max_size=5), fields=FIELDS)
    def ask(parts: list[str], fields: dict[str, str]) -> None:
        words = (quote(part, safe="") for part in parts)
        steps = [next(words) if step[:1] == "{" else step for step in path.split("/")]
        fields = RIGHT | fields
        if path == "/exchanges":  # of which others are refused
            fields = {key: fields[key] for key in FORM}
        data = {"data": fields} if method == "POST" else {"params": fields}
        answer = client.request(method, ORIGIN + "/".join(steps), **data)
        codes.add(answer.status_code)
        assert answer.status_code < 500, (method, path, parts, fields)

    ask()
    return codes


def test_no_route_fails_whatever_it_is_asked(pages: list[TestClient]) -> None:
    codes: set[int] = set()
    for client in pages:
        for method, path in routes(client):
            codes |= asked(client, method, path)
    assert {200, 303, 400, 404, 422} <= codes
