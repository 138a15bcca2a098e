"""What pages say: of strangers' text, of signatures, and in their APIs."""

import asyncio
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import (
    FORM,
    HOSTILE,
    PLACE,
    PORT,
    Members,
    asked,
    browser,
    cheap_passwords,
    damage,
    operated,
    sign_in,
    site,
)
from schemathesis import Case
from starlette.testclient import TestClient
from starlette.types import Message

from client import home as site_home
from client import progress
from client.page import app as site_page
from client.page.burn_down import Point, chart, points
from client.page.views import Views as SiteViews
from not_core import canonical
from not_core.page import limits, live
from not_core.page.application import OPENAPI
from not_core.privacy.charge import Bound
from not_core.protocol import ADMISSION_TYPE, Admission
from not_core.trust import authority, federation, keys
from not_core.trust.offer import peek_offer
from not_core.trust.statement import sign_statement
from server import database
from server import home as coordinator_home
from server import log as log_of
from server.catalogue import Happened
from server.holdings import holdings
from server.page import app as coordinator_page
from server.page import log as log_page
from server.page import views as page_views
from server.page.rows import Wanted
from server.page.views import Views
from server.schedule import CANCELLED, RUNNING

TOKEN = "a-token-of-a-test"
KEY = "-----BEGIN PUBLIC KEY-----\nof a node\n"
FINISH = FORM | {"exchange": "autumn", "sites": "3"}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        made = Members(tmp_path_factory.mktemp("members"))
        made.exchange("spring", HOSTILE)
        return made


@pytest.fixture
def operator(members: Members, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    cheap_passwords(monkeypatch)
    operated(members.coordinator)
    client = browser(coordinator_page.page_of(members.coordinator, PLACE))
    sign_in(client, "ada")
    return client


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        home = site(tmp_path_factory.mktemp("site"), HOSTILE)
    client = browser(site_page.page_of(home, PLACE, TOKEN))
    client.get(f"/sign-in?token={TOKEN}")
    return client


def test_strangers_text_is_text(operator: TestClient, owner: TestClient, members: Members) -> None:
    organ = members.coordinator.catalogue.donations("spring")[0][0]
    waiting = owner.get("/api/pending").json()[0]["organ"]
    for client, path in (
        (operator, "/organs"),
        (operator, f"/organs/spring/{organ}"),
        (operator, "/sites"),
        (owner, "/"),
        (owner, f"/approvals/{waiting}"),
    ):
        text = client.get(path).text
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>" not in text
        assert "<img src=x" not in text
        assert "{{ 7 * 7 }}" in text
        assert " style=" not in text


def test_the_bank_is_searched_by_words_base_donor_and_privacy(members: Members) -> None:
    views = Views(members.coordinator)

    def donors(**wanted: str) -> list[str]:
        bank = views.organs(Wanted(**wanted))  # type: ignore[arg-type]
        return [row.donor for row in bank.rows]

    assert donors() == ["north", "south"]
    assert donors(words="SCRIPT north/notes") == ["north"]
    assert donors(words="nothing of that kind") == []
    assert donors(base="ab" * 32) == ["north", "south"]
    assert donors(base="cd" * 32) == []
    assert donors(donor="south") == ["south"]
    assert donors(privacy="stated") == ["south"]
    assert donors(privacy="none") == ["north"]


def test_an_organ_and_a_receipt_are_believed_as_far_as_the_federation_goes(tmp_path: Path) -> None:
    members = Members(tmp_path)
    organ = members.exchange("spring")[0]
    views = Views(members.coordinator)

    def failing(what: str = "organ") -> list[str]:
        receipt = ("spring", organ, "south", "replace")
        found = views.organ("spring", organ) if what == "organ" else views.receipt(*receipt)
        assert found is not None
        return [link.what for link in found.links if not link.holds]

    assert failing() == failing("receipt") == []
    kept = members.coordinator.catalogue.organs("spring")
    (offer,) = [peek_offer(one.donation.offer.encode()) for one in kept if one.organ == organ]
    members.coordinator.bank.remove(offer.body_sha256)
    assert failing() == ["Sealed bytes"]
    kept, envelope = members.coordinator.catalogue.signed_receipt(
        "spring", organ, "south", "replace"
    ) or (None, b"")
    assert kept is not None
    members.coordinator.catalogue.received(kept, envelope.replace(b'"sig":"M', b'"sig":"N'))
    assert failing("receipt") == ["Signature of the receipt"]
    damage(
        members.coordinator,
        "UPDATE log_entries SET leaf = CAST(replace(leaf, 'offered', 'admitted') AS BLOB)",
    )
    assert failing() == ["Sealed bytes", "Log"]
    _, revoked = authority.revoke(tmp_path / "federation", "north", "key-compromise")
    keys.install_list(members.coordinator.folder, revoked)
    chain = ["Certificate of the site", "Signature of the offer", "Sealed bytes", "Log"]
    assert failing() == chain
    assert federation.load_trust(members.coordinator.folder).revoked.number == revoked.number
    (north,) = [row for row in views.sites() if row.site == "north"]
    assert not north.vouched.holds
    assert "key-compromise" in north.vouched.says


def test_the_log_shows_who_signed_it_and_proves_its_entries(tmp_path: Path) -> None:
    members = Members(tmp_path)
    members.exchange("spring")
    views = Views(members.coordinator)
    log = views.log()
    assert log.whole.holds
    assert [(one.site, one.size, one.holds.holds) for one in log.witnesses] == [
        ("north", 5, True),
        ("south", 5, True),
    ]
    assert [one.number for one in log.entries] == [4, 3, 2, 1, 0]
    for one in log.entries:
        proof = views.proof(one.number)
        assert proof is not None
        assert (proof.logged.index, proof.logged.entry) == (one.number, one.entry)
        assert proof.holds.holds
    assert views.proof(5) is None

    # One that was taken out, and the tree made anew: only what sites have signed tells.
    kept = [one.entry for one in reversed(log.entries)][1:]
    damage(members.coordinator, "DELETE FROM log_entries")
    damage(members.coordinator, "DELETE FROM log_nodes")
    engine = database.connect(coordinator_home.catalogue_of(members.coordinator.folder))
    with database.writing(engine) as session:
        for entry in kept:
            facts = {"site": entry.site, "exchange": entry.exchange, "digest": entry.digest}
            log_of.append(session, entry.event, **facts)
    engine.dispose()
    log = views.log()
    assert log.whole.holds
    assert [one.holds.holds for one in log.witnesses] == [False, False]
    digest = next(one.digest for one in kept if one.event == "offered")
    (organ,) = [
        one.organ
        for one in members.coordinator.catalogue.organs("spring")
        if canonical.sha256(one.donation.offer.encode()) == digest
    ]
    found = views.organ("spring", organ)
    assert found is not None
    (link,) = [one for one in found.links if one.what == "Log"]
    assert (link.holds, "cosignature of north does not hold" in link.says) == (False, True)


def test_a_receipt_that_says_another_thing_than_was_signed_does_not_hold(tmp_path: Path) -> None:
    members = Members(tmp_path)
    organ = members.exchange("spring")[0]
    change = "UPDATE receipts SET receipt = CAST(replace(receipt, '-0.08', '-0.58') AS BLOB)"
    damage(members.coordinator, change)
    found = Views(members.coordinator).receipt("spring", organ, "south", "replace")
    assert found is not None
    assert found.receipt.change == -0.58
    (link,) = [one for one in found.links if not one.holds]
    assert link.what == "Signature of the receipt"
    assert "something else than is shown" in link.says


def test_what_is_done_in_a_sites_absence_is_no_word_of_it(tmp_path: Path) -> None:
    members = Members(tmp_path)
    members.exchange("spring")
    catalogue = members.coordinator.catalogue
    absent = [("collect", ""), ("bank", "bank"), ("deliver", "bank"), ("donate", "timeout")]
    catalogue.happened("spring", *(Happened(1.8e9, "south", *one) for one in absent))
    assert catalogue.contacts()["south"] == 1.7e9
    catalogue.happened("spring", Happened(1.8e9, "south", "donate", "policy"))
    assert catalogue.contacts()["south"] == 1.8e9


def test_the_matrix_has_each_organ_at_each_site(members: Members) -> None:
    found = Views(members.coordinator).exchange("spring")
    assert found is not None
    assert found.recipients == ["north", "south", "west"]
    assert [[cell.tint if cell else "" for cell in row.cells] for row in found.matrix] == [
        ["better-4", "better-2", ""],
        ["worse-1", "", ""],
    ]
    assert (found.row.accepted, found.row.receipts, found.row.trials) == (1, 3, 6)
    assert found.events[0].code == "timeout"
    seen = {row.site: row.seen for row in Views(members.coordinator).sites()}
    assert seen == {"north": 1.7e9, "south": 1.7e9, "west": 1.7e9}


def test_an_organ_of_two_exchanges_is_one_organ(tmp_path: Path) -> None:
    members = Members(tmp_path)
    organs = members.exchange("spring")
    assert members.exchange("autumn") == organs
    bank = Views(members.coordinator).organs(Wanted())
    assert (bank.found, bank.all) == (2, 2)
    assert [(row.exchanges, row.accepted, row.tried) for row in bank.rows] == [
        (("autumn", "spring"), 1, 1),
        (("autumn", "spring"), 0, 1),
    ]
    listed = {one.offer.donor: one.row["accepted"] for one in holdings(members.coordinator)}
    assert listed == {"north": "1 of 1", "south": "0 of 1"}


def test_long_lists_are_shown_a_part_at_a_time(
    operator: TestClient, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_views, "MOST_ORGANS", 1)
    monkeypatch.setattr(page_views, "MOST_CELLS", 5)  # of three recipients: a row
    monkeypatch.setattr(page_views, "MOST_EVENTS", 4)
    monkeypatch.setattr(log_page, "MOST_ENTRIES", 2)
    for number, donor in ((1, "north"), (2, "south"), (3, "south")):  # there are two
        found = operator.get(f"/api/exchanges/spring?page={number}").json()
        assert [row["organ"]["donor"] for row in found["matrix"]] == [donor]
        bank = operator.get(f"/api/organs?page={number}").json()
        assert ([row["donor"] for row in bank["rows"]], bank["found"]) == ([donor], 2)
    text = operator.get("/exchanges/spring").text
    assert '<a href="/exchanges/spring?page=2" rel="next">Next</a>' in text
    assert "The latest 4 of 6." in text
    text = operator.get("/organs?page=2&donor=&privacy=any").text
    assert (
        '<a href="/organs?words=&amp;base=&amp;donor=&amp;privacy=any&amp;page=1" rel="prev">'
        in text
    )
    size = operator.get("/api/log").json()["head"]["size"]
    pages = [operator.get(f"/api/log?page={one}").json()["entries"] for one in range(1, 4)]
    numbers = [entry["number"] for entries in pages for entry in entries]
    assert numbers == list(range(size - 1, -1, -1))[:6]
    assert operator.get("/organs?page=0").status_code == 422


def test_lists_are_counted_without_a_look_into_receipts(tmp_path: Path) -> None:
    members = Members(tmp_path)
    organ, _ = members.exchange("spring")
    damage(members.coordinator, "UPDATE receipts SET receipt = 'x' WHERE donor = 'south'")
    views = Views(members.coordinator)
    assert [row.receipts for row in views.exchanges()] == [3]
    assert views.organs(Wanted()).found == 2
    found = views.organ("spring", organ)
    assert found is not None
    assert [one.recipient for one in found.receipts] == ["north", "south"], "and no other organ's"


def test_what_went_wrong_with_an_organ_stands_in_its_cell(
    operator: TestClient, members: Members
) -> None:
    organ = members.coordinator.catalogue.donations("spring")[1][0]
    failed = Happened(1.7e9, "west", "transplant", "quarantine", organ)
    members.coordinator.catalogue.happened("spring", failed)
    text = operator.get("/exchanges/spring").text
    assert text.count('<td class="none"><span class="state bad">quarantine</span></td>') == 1
    assert text.count('<td class="none">no receipt</td>') == 2


def test_an_entry_is_found_by_its_number_and_entries_by_a_digest(
    operator: TestClient, members: Members
) -> None:
    catalogue = members.coordinator.catalogue
    catalogue.admitted("east", 7, b"a word")
    catalogue.expelled("east")
    expelled, admitted = (one.number for one in catalogue.log.entries(2))
    for number, event in ((admitted, "admitted"), (expelled, "expelled")):
        assert (
            operator.get(f"/api/log/entries/{number}").json()["logged"]["entry"]["event"] == event
        )
        assert f"<h1>Entry {number}</h1>" in operator.get(f"/log/entries/{number}").text
    digest = canonical.sha256(b"a word")
    for digits in (digest, digest[:9]):
        found = operator.get(f"/api/log?digest={digits}").json()["entries"]
        assert [one["number"] for one in found] == [expelled, admitted]
    assert "No entry is on such a digest" in operator.get(f"/log?digest={'0' * 64}").text
    assert operator.get(f"/log/entries/{expelled + 1}").status_code == 404
    organ = catalogue.donations("spring")[0][0]
    for path in (f"/organs/spring/{organ}", f"/exchanges/spring/receipts/{organ}/south/replace"):
        (number,) = re.findall(r'<a href="/log/entries/([0-9]+)">See it', operator.get(path).text)
        assert operator.get(f"/api/log/entries/{number}").json()["holds"]["holds"]


def test_what_nobody_checked_is_said_to_be_so(
    operator: TestClient, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchecked = 'class="plain"><b>All of the log</b><span class="unseen">: not checked</span>'
    assert unchecked not in operator.get("/log").text
    monkeypatch.setattr(log_page, "MOST_CHECKED", 1)
    assert unchecked in operator.get("/log").text
    assert operator.get("/api/log").json()["whole"]["holds"] is None


def test_a_site_that_only_has_a_node_is_vouched_for_by_its_admission(tmp_path: Path) -> None:
    members = Members(tmp_path)
    catalogue, north = members.coordinator.catalogue, members.sites["north"]
    said = canonical.encode(Admission(profile=north.profile, node_key=KEY))
    catalogue.admitted("north", 1, sign_statement(said, ADMISSION_TYPE, north))
    catalogue.admitted("ghost", 2, b"{}")
    views = Views(members.coordinator)

    def standing() -> dict[str, bool | None]:
        return {row.site: row.vouched.holds for row in views.sites()}

    assert standing() == {"ghost": False, "north": True}
    _, revoked = authority.revoke(tmp_path / "federation", "north", "key-compromise")
    keys.install_list(members.coordinator.folder, revoked)
    assert standing() == {"ghost": False, "north": False}


def test_an_operator_begins_an_exchange_and_cancels_it(
    operator: TestClient, members: Members
) -> None:
    catalogue = members.coordinator.catalogue
    for wrong in ({"span": "3:1"}, {"sites": "1"}, {"exchange": "Not A Name"}, {"seed": "-1"}):
        assert operator.post("/exchanges", data=FINISH | wrong).status_code == 400, wrong
    refused = operator.post("/exchanges", data=FINISH | {"learning-rate": "0,001"}).text
    assert "learning-rate: Input should be a valid number" in refused
    assert "not &#39;0,001&#39;; correct it." in refused
    assert 'name="learning-rate" inputmode="decimal" required value="0,001"' in refused
    assert [one.name for one in catalogue.schedule.begun()] == []
    begun = operator.post("/exchanges", data=FINISH)
    assert (begun.status_code, begun.headers["location"]) == (303, "/exchanges/autumn")
    (one,) = catalogue.schedule.begun()
    assert (one.state, one.asked) == (RUNNING, asked(exchange="autumn", sites=3))
    assert 'data-live="/exchanges/autumn/events"' in operator.get("/exchanges/autumn").text
    other = operator.post("/exchanges", data=FINISH | {"tokens": "101"})
    assert (other.status_code, "begun with other terms" in other.text) == (400, True)
    assert operator.post("/exchanges/autumn/cancel").status_code == 303
    assert operator.post("/exchanges", data=FINISH).status_code == 400  # being cancelled
    catalogue.schedule.ended("autumn", CANCELLED)
    assert "data-live" not in operator.get("/exchanges/autumn").text
    assert operator.post("/exchanges", data=FINISH).status_code == 303


def test_one_that_waits_for_its_time_is_not_said_to_run(
    operator: TestClient, members: Members
) -> None:
    catalogue = members.coordinator.catalogue
    catalogue.schedule.begin(asked(exchange="later"), at=4102444800.0)
    shown = operator.get("/exchanges/later").text
    assert '<span class="state wait">scheduled</span>; begins 2100-01-01 00:00 UTC' in shown
    assert operator.get("/api/exchanges/later").json()["row"]["state"] == "scheduled"
    assert operator.post("/exchanges/later/cancel").status_code == 303
    assert ">cancelling</span>" in operator.get("/exchanges/later").text


def test_a_stream_has_a_piece_for_each_change_and_an_end(members: Members) -> None:
    states = iter([("one", False), ("one", False), ("two\nlines", False), ("three", True)])

    async def run() -> list[str]:
        return [text async for text in live._events(lambda: next(states))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "EVERY_SECONDS", 0.0)
        assert asyncio.run(run()) == [
            "retry: 1000\n\n",
            "event: piece\ndata: one\n\n",
            "event: piece\ndata: two\ndata: lines\n\n",
            "event: piece\ndata: three\n\n",
            "event: end\ndata: \n\n",
        ]


def test_a_piece_that_takes_long_is_rendered_seldom() -> None:
    states, pauses = iter([("one", False), ("two", True)]), list[float]()

    def piece() -> tuple[str, bool]:
        time.sleep(0.02)
        return next(states)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> int:
        return len([text async for text in live._events(piece)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "EVERY_SECONDS", 0.0)
        patch.setattr(live.asyncio, "sleep", sleep)
        assert asyncio.run(run()) == 4
    assert pauses[0] >= 9 * 0.02


def test_a_piece_is_rendered_once_for_all_until_it_changes() -> None:
    latest, rendered = live.Latest(), iter("abcd")
    asked = [("spring", 1), ("spring", 1), ("autumn", 1), ("spring", 2), ("spring", 2)]
    texts = [latest.text(key, stamp, lambda: next(rendered)) for key, stamp in asked]
    assert texts == ["a", "a", "b", "c", "c"]


def test_no_more_than_a_few_streams_are_open_at_once(
    operator: TestClient, members: Members
) -> None:
    members.coordinator.catalogue.schedule.begin(asked(exchange="live"))
    headers = operator.headers | {"host": f"127.0.0.1:{PORT}", "cookie": cookies(operator)}
    request = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/exchanges/live/events",
        "query_string": b"",
        "headers": [(key.encode(), one.encode()) for key, one in headers.items()],
    }

    async def run() -> list[int]:
        codes: list[int] = []
        answered, left = asyncio.Semaphore(0), asyncio.Event()

        async def heard() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                codes.append(message["status"])
                answered.release()

        streams = [
            asyncio.create_task(operator.app(dict(request), heard, told))
            for _ in range(limits.STREAMS)
        ]
        for _ in streams:
            await answered.acquire()
        await operator.app(dict(request), heard, told)
        left.set()
        await asyncio.gather(*streams)
        await operator.app(dict(request), heard, told)
        return codes

    assert asyncio.run(run()) == [200] * limits.STREAMS + [429, 200]


def test_a_site_shows_what_is_left_and_what_it_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = site(tmp_path)
    client = browser(site_page.page_of(home, PLACE, TOKEN))
    client.get(f"/sign-in?token={TOKEN}")
    spent = client.get("/api/ledger").json()
    left = [point["left"] for point in spent["points"]]
    assert left[0] == spent["bound"] == 8.0
    assert left[0] > left[1] > left[2] == pytest.approx(8.0 - spent["spent"])
    assert f"{left[2]:.2f}" in client.get("/privacy").text
    first, second = [one["organ"] for one in client.get("/api/pending").json()]
    client.post(f"/approvals/{first}/approve")
    client.post(f"/approvals/{second}/reject")
    status = client.get("/api/status").json()
    assert status["waiting"] == []
    assert [one["event"] for one in status["decisions"]] == ["rejected", "approved"]
    assert all(one["stands"] for one in status["decisions"])
    assert client.get(f"/approvals/{first}").status_code == 404
    assert f'action="/approvals/{first}/reject"' in client.get("/").text
    assert f'action="/approvals/{second}/approve"' in client.get("/").text
    client.post(f"/approvals/{first}/reject")
    decided = client.get("/api/status").json()["decisions"]
    assert [(one["event"], one["stands"]) for one in decided] == [
        ("rejected", True),
        ("rejected", True),
        ("approved", False),
    ]
    assert f'action="/approvals/{first}/reject"' not in client.get("/").text
    assert client.get("/api/log").json()["broken"] == ""
    import sqlite3

    with sqlite3.connect(home / "log.db") as database:
        database.execute("UPDATE entries SET what = 'nothing' WHERE number = 2")
    database.close()
    assert "does not continue the chain" in client.get("/api/log").json()["broken"]
    assert client.get("/log").status_code == 200
    assert client.get("/privacy").status_code == 409


def test_a_site_shows_what_became_of_the_coordinators_log(tmp_path: Path) -> None:
    home = site(tmp_path)
    views = SiteViews(home)
    unseen = views.log()
    assert unseen.shown is None
    assert "no tree head has come" in unseen.doubtful  # it holds receipts of an exchange
    place = home / "heads"
    place.mkdir()
    (place / "000001.json").write_text("{}")
    assert "not valid" in views.log().doubtful
    (place / "000001.json").unlink()
    shutil.rmtree(home / "receipts")
    assert views.log().doubtful == ""


def test_what_is_spent_is_said_though_the_bound_was_lowered(tmp_path: Path) -> None:
    home = site(tmp_path)
    views = SiteViews(home)
    before = views.spending()
    assert before.spent == pytest.approx(site_home.read_home(home).spent)
    assert before.points[-1].left == pytest.approx(8.0 - before.spent)
    policy = home / "policy.toml"
    lowered = before.spent / 2
    policy.write_text(policy.read_text().replace("epsilon = 8.0", f"epsilon = {lowered}"))
    after = views.spending()
    assert (after.bound, after.spent) == (lowered, before.spent)
    assert after.points[-1].left < 0
    page = browser(site_page.page_of(home, PLACE, "token"))
    page.get("/sign-in?token=token")
    text = page.get("/privacy").text
    assert "More is spent than the policy" in text
    assert f"<dd>{before.spent:.2f}</dd>" in text


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ({"step": "training", "done": 40, "total": 100, "process": os.getpid()}, True),
        ({"step": "training", "done": 40, "total": 100, "process": 2**22 + 1}, False),
        ({"step": "training", "done": None, "total": 100, "process": os.getpid()}, False),
        ({"step": "training", "done": 40, "total": 100}, False),
    ],
)
def test_what_a_killed_process_left_is_not_shown_as_work(
    kept: dict[str, Any], shown: bool, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "progress.json").write_text(
        json.dumps(kept, sort_keys=True, separators=(",", ":"))
    )
    assert (progress.read(tmp_path) is not None) == shown


def test_a_burn_down_falls_by_steps() -> None:
    bound = Bound(8.0, 1e-6)
    assert points([], bound) == [Point("", 8.0)]
    over = chart([Point("", 8.0), Point("2027-01-01 10:00", -1.0)], bound)
    assert over.line.endswith("700.0,216.0")  # the floor
    drawn = chart([Point("", 8.0), Point("2027-01-01 10:00", 4.0)], bound)
    assert drawn.line == "52.0,18.0 376.0,18.0 376.0,117.0 700.0,117.0"
    assert [(mark.x, mark.y) for mark in drawn.dots] == [(376.0, 117.0)]
    assert [mark.words for mark in drawn.across] == ["0", "2", "4", "6", "8"]


def cookies(client: TestClient) -> str:
    """What a browser sends of them."""
    return "; ".join(f"{key}={one}" for key, one in client.cookies.items())


def conforms(client: TestClient, **real: str) -> int:
    """Ask an API for what its document allows and forbids, and for what there is.

    How many operations it has.
    """
    nobody = {"host": f"127.0.0.1:{PORT}"}
    signed_in = nobody | {"cookie": cookies(client)}
    schema = schemathesis.openapi.from_asgi(OPENAPI, client.app, headers=signed_in)
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:

        @settings(max_examples=10, deadline=None, database=None, derandomize=True)
        @given(case=operation.as_strategy(), headers=st.sampled_from([signed_in, nobody]))
        def ask(case: Case, headers: dict[str, str]) -> None:
            case.call_and_validate(headers=headers)

        ask()
        names = [one.name for one in operation.path_parameters]
        there = operation.Case(path_parameters={name: real[name] for name in names})
        assert there.call_and_validate(headers=signed_in).status_code == 200
    return len(operations)


def test_the_apis_keep_to_their_documents(
    operator: TestClient, owner: TestClient, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No 5xx, no status and no value that the documents do not have."""
    monkeypatch.setattr(limits, "REQUESTS", 10**6)
    organ = members.coordinator.catalogue.donations("spring")[0][0]
    parts = {"exchange": "spring", "organ": organ, "recipient": "north", "mode": "replace"}
    parts["entry"] = "0"
    assert conforms(operator, **parts) == 8
    assert conforms(owner, organ=owner.get("/api/pending").json()[0]["organ"]) == 7
