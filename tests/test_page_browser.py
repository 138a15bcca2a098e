"""Pages in a real browser, around a real exchange: seen live, approved, judged by axe-core.

``ORGAN_SCREENSHOTS`` names a folder for pictures of them; see ``make screenshots``.
"""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import federation_of_three
from exchanges import by_hand
from pages import PASSWORD, cheap_passwords, damage, operated
from pages import site as spent_site

from client import donor
from client.home import read_home
from client.page import app as site_page
from client.policy import Policy
from not_core.page import live
from not_core.page.application import Page, Place
from not_core.page.serving import Server, config_of
from not_core.service.supervisor import free_port
from server import home as coordinator_home
from server.catalogue import Happened
from server.page import app as coordinator_page
from server.page import log, views
from simulations.federation.exchange import Scenario, prepare

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "a-token-of-a-test"
SCREENSHOTS = os.environ.get("ORGAN_SCREENSHOTS")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
FORM = {"exchange": "trial", "sites": "3", "span": "2:5", "tokens": "9000", "learning-rate": "0.01"}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt install chromium)")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


class Tab:
    """A browser's tab; knows what was said in its console, and what it asked of whom."""

    def __init__(self, chromium: Any) -> None:
        self.context = chromium.new_context(viewport=WIDE, reduced_motion="reduce")
        self.wrong: list[str] = []
        self.context.route("**/*", self._asked)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda said: self._said(said.type, said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def _asked(self, route: Any) -> None:
        if not str(urlsplit(route.request.url).hostname).endswith(".localhost"):
            self.wrong.append(f"asked {route.request.url}")
            route.abort()
            return
        route.continue_()

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.wrong.append(text)

    def judge(self, name: str) -> None:
        """Have axe-core look at what is shown: wide and light, narrow and dark."""
        from axe_playwright_python.sync_playwright import Axe

        axe = Axe()
        for scheme, size in (("light", WIDE), ("dark", NARROW)):
            self.page.emulate_media(color_scheme=scheme)
            self.page.set_viewport_size(size)
            found = axe.run(self.page, options={"resultTypes": ["violations"]})
            bad = [
                (one["id"], [node["html"] for node in one["nodes"]])
                for one in found.response["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert bad == [], (name, scheme)
            fits = "document.documentElement.scrollWidth <= window.innerWidth"
            assert self.page.evaluate(fits), f"{name} is wider than its window of {size}"
        self.page.set_viewport_size(WIDE)
        self.page.emulate_media(color_scheme="light")

    def picture(self, name: str) -> None:
        """A picture for the README, where one is asked for."""
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    made = Tab(chromium)
    yield made
    made.context.close()
    assert made.wrong == []


@contextmanager
def served(make: Callable[[Place], Page]) -> Iterator[str]:
    """A page at a port of its own; its address."""
    place = Place.private(free_port())
    server = Server(config_of(make(place), place))
    listening = socket.create_server((place.listen, place.port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield place.url
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Scenario:
    """Three sites, two of them donors whose operators are asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        make = federation_of_three(tmp_path_factory.mktemp("trial"), models["llama"], patch)
        made: Scenario = replace(make("trial"), donors=Policy(release_organs="ask"))
        prepare(made)
        return made


def carry_out(scenario: Scenario, number: int) -> threading.Thread:
    """Do what 'organ-coordinator start' does for an exchange that was asked for."""

    def run() -> None:
        with coordinator_home.opened(scenario.coordinator) as coordinator:
            coordinator.catalogue.schedule.running("trial", number, time.time())
            by_hand(scenario)
            coordinator.catalogue.schedule.ended("trial", "completed")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def begin(page: Any) -> None:
    for name, value in FORM.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_role("button", name="Begin").click()


def sign_in(tab: Tab, url: str) -> None:
    tab.page.goto(url)
    tab.page.get_by_label("Name").fill("ada")
    tab.page.get_by_label("Password").fill(PASSWORD)
    tab.page.get_by_role("button", name="Sign in").click()
    tab.page.get_by_role("heading", name="Exchanges").wait_for()


def test_an_exchange_is_begun_seen_approved_and_searched(
    scenario: Scenario, chromium: Any, tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_passwords(monkeypatch)
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.2)
    with (
        coordinator_home.opened(scenario.coordinator) as coordinator,
        served(lambda place: coordinator_page.page_of(coordinator, place)) as url,
    ):
        operated(coordinator)
        page = tab.page
        page.goto(url)
        tab.judge("sign-in")
        sign_in(tab, url)
        tab.judge("no exchange")
        begin(page)
        page.get_by_text("No organ has been offered yet").wait_for()
        thread = carry_out(scenario, 1)
        # By itself: nobody loads the page again.
        page.locator("td", has_text="approval").first.wait_for()
        page.get_by_text("completed").wait_for()
        thread.join()
        with served(
            lambda place: site_page.page_of(scenario.home("hospital"), place, TOKEN)
        ) as site:
            approve(chromium, f"{site}sign-in?token={TOKEN}")
        court = read_home(scenario.home("court"))
        donor.decide(court, donor.pending(court)[0].digest, "approved")
        page.goto(url)
        page.get_by_text("Begin an exchange").click()
        tab.judge("exchanges")
        begin(page)
        page.locator("[data-live]").wait_for()
        tab.judge("running")
        thread = carry_out(scenario, 2)
        page.get_by_role("cell", name="accepted").first.wait_for()
        page.get_by_text("completed").wait_for()
        thread.join()
        tab.judge("exchange")
        tab.picture("exchange")
        with monkeypatch.context() as patch:
            patch.setattr(views, "MOST_CELLS", 3)  # a row
            page.reload()
            page.get_by_role("link", name="Next").click()
            page.get_by_role("link", name="Previous").wait_for()
            tab.judge("second page")
        page.goto(url)
        page.get_by_text("Begin an exchange").click()
        begin(page)
        page.locator("[data-live]").wait_for()
        page.locator("[aria-labelledby=events]").focus()
        coordinator.catalogue.happened("trial", Happened(time.time(), "clinic", "donate", "quota"))
        page.locator("td", has_text="quota").wait_for()  # nobody carries it out: it stays live
        focused = "document.activeElement.getAttribute('aria-labelledby')"
        assert page.evaluate(focused) == "events"
        page.get_by_text("Cancel…").click()
        page.get_by_role("button", name="Cancel trial").click()
        page.get_by_text("cancelling").first.wait_for()
        page.get_by_role("link", name="Organ bank").click()
        page.get_by_label("Name or domain").fill("astronomy")
        page.get_by_role("button", name="Search").click()
        page.get_by_text("No organ is like that").wait_for()
        tab.judge("nothing found")
        page.get_by_label("Name or domain").fill("medicine")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("heading", name="1 organ").wait_for()
        tab.judge("organs")
        page.get_by_role("link", name="hospital/").click()
        page.get_by_text("Why to believe the offer").wait_for()
        assert page.locator(".chain li.bad").count() == 0
        tab.judge("organ")
        tab.picture("organ")
        page.get_by_role("link", name="clinic").first.click()
        page.get_by_text("Why to believe the receipt").wait_for()
        tab.judge("receipt")
        page.get_by_role("link", name="Log").click()
        page.get_by_text("and the log has only grown since").nth(2).wait_for()
        tab.judge("log")
        tab.picture("log")
        page.get_by_label("Digest, or its first digits").fill("0" * 64)
        page.get_by_role("button", name="Search").click()
        page.get_by_text("No entry is on such a digest").wait_for()
        tab.judge("no entry")
        page.get_by_role("link", name="All entries").click()
        with monkeypatch.context() as patch:
            patch.setattr(log, "MOST_CHECKED", 1)
            page.reload()
            page.get_by_text("not checked").wait_for(state="attached")
            tab.judge("log that is not checked")
        page.get_by_role("link", name="0", exact=True).click()
        page.get_by_role("heading", name="Entry 0").wait_for()
        assert page.locator(".chain li.bad").count() == 0
        tab.judge("proof")
        damage(
            coordinator,
            "UPDATE log_entries SET leaf = CAST(replace(leaf, 'offered', 'expelled') AS BLOB)",
        )
        page.reload()
        page.get_by_text("no proof that the coordinator's log of").wait_for()
        assert page.locator(".chain li.bad").count() == 1
        tab.judge("refused proof")
        page.get_by_role("link", name="Sites").click()
        tab.judge("sites")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()


def approve(chromium: Any, url: str) -> None:
    """See in a site's page what waits, and let it leave."""
    tab = Tab(chromium)
    page = tab.page
    page.goto(url)
    page.get_by_role("heading", name="1 organ waits for your word").wait_for()
    tab.judge("approvals")
    page.get_by_role("link", name="hospital/").click()
    page.get_by_text("nothing bounds what this organ may have memorised").first.wait_for()
    tab.judge("dossier")
    page.get_by_role("button", name="Approve").click()
    page.get_by_role("heading", name="Nothing waits for you").wait_for()
    page.get_by_text("approved", exact=True).wait_for()
    tab.context.close()
    assert tab.wrong == []


def test_a_site_rejects_and_sees_what_is_left(tab: Tab, tmp_path: Path) -> None:
    home = spent_site(tmp_path)
    with served(lambda place: site_page.page_of(home, place, TOKEN)) as url:
        page = tab.page
        page.goto(url)
        page.get_by_text("Open the address that the terminal shows").wait_for()
        tab.judge("sign-in")
        page.goto(f"{url}sign-in?token={TOKEN}")
        page.get_by_role("link", name="version 2").click()
        tab.picture("dossier")
        page.get_by_role("button", name="Reject").click()
        page.get_by_text("rejected", exact=True).wait_for()
        for link in ("Organs tried", "Privacy", "Log", "What leaves"):
            page.get_by_role("link", name=link).click()
            page.get_by_role("heading", name=link).first.wait_for()
            tab.judge(link)
            if link == "Privacy":
                tab.picture("privacy")
