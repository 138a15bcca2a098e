"""Homes of a coordinator and a site as pages show them: signed by real keys, trained by nobody."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from trust_world import manifest, organ_folder

from client import home as site_home
from client.policy import Policy
from not_core import canonical
from not_core.manifest import DifferentialPrivacy, TrainingFacts
from not_core.page.application import Page, Place
from not_core.privacy.accounting import Mechanism
from not_core.protocol import RECEIPT_TYPE, Donation, Enrolment, Receipt
from not_core.trust import authority, federation, keys, sealing, signing
from not_core.trust.profile import read_request
from not_core.trust.statement import sign_statement
from not_core.trust.tree_head import COSIGNATURE_TYPE, Cosignature
from server import home as coordinator_home
from server import operators
from server.asked import Asked, read
from server.catalogue import Happened
from server.home import Coordinator
from server.witnesses import signed_head

PORT = 9093
ORIGIN = f"http://127.0.0.1:{PORT}"
PLACE = Place(port=PORT)
PASSWORD = "correct horse battery"
HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(1)>' onload='x {{ 7 * 7 }}"""
WORDS: dict[str, object] = {
    **{"exchange": "spring", "sites": 2, "span": "1:3", "tokens": 100, "rank": 0},
    **{"learning-rate": 0.001, "seed": 0},
}
"""An exchange, as an operator asks for it."""
FORM = {key: str(one) for key, one in (WORDS | {"mode": "replace", "invited": ""}).items()}
"""The same, as a browser does."""
CHANGES = {("north", "north"): -0.16, ("north", "south"): -0.08, ("south", "north"): 0.05}


def asked(**changes: object) -> Asked:
    """An exchange that is asked for by such words."""
    return read(WORDS | changes)


def cheap_passwords(monkeypatch: Any) -> None:
    """Stretch passwords as little as Argon2id can."""
    monkeypatch.setattr(operators, "KIBIBYTES", 64)
    monkeypatch.setattr(operators, "PASSES", 1)


class Members:
    """A federation of three sites, and what they have signed for a coordinator."""

    def __init__(self, place: Path) -> None:
        self.place = place
        authority.create_root(place / "federation", "regional")
        self.sites = {name: self._admit(name) for name in ("north", "south", "west")}
        coordinator_home.create(place / "coordinator", place / "federation")
        self.coordinator = coordinator_home.load(place / "coordinator")

    def exchange(self, name: str, domain: str = "radiology notes") -> list[str]:
        """Carry an exchange out: two organs, three receipts; the organs' digests."""
        catalogue, organs = self.coordinator.catalogue, {}
        for site in self.sites.values():
            catalogue.enrolled(name, self._enrolment(name, site, domain))
            catalogue.happened(name, Happened(1.7e9, site.site, "enrol", ""))
        for donor in ("north", "south"):
            organs[donor] = self._donate(name, donor, domain)
            catalogue.happened(name, Happened(1.7e9, donor, "donate", ""))
        for (donor, recipient), change in CHANGES.items():
            self._try(name, organs[donor], donor, recipient, change)
        catalogue.happened(name, Happened(1.7e9, "west", "transplant", "timeout"))
        self.witness("north", "south")
        return list(organs.values())

    def witness(self, *sites: str) -> None:
        """Have sites sign what the log is now."""
        head = signed_head(self.coordinator).head
        for name in sites:
            said = canonical.encode(Cosignature(site=name, head=head))
            envelope = sign_statement(said, COSIGNATURE_TYPE, self.sites[name])
            profile = self.sites[name].profile
            self.coordinator.catalogue.log.witnessed(head, profile, envelope)

    def _admit(self, name: str) -> keys.Identity:
        folder = self.place / name
        profile = authority.admit(self.place / "federation", keys.create(folder, name))
        return keys.install(folder, profile, federation.load_trust(self.place / "federation"))

    def _enrolment(self, exchange: str, site: keys.Identity, domain: str) -> Enrolment:
        return Enrolment(
            exchange=exchange,
            nonce="0" * 64,
            profile=site.profile,
            domain=domain,
            donates=site.site != "west",
            family="gpt2",
            layers=4,
            base_weights="ab" * 32,
        )

    def _donate(self, exchange: str, donor: str, domain: str) -> str:
        site = self.sites[donor]
        facts = manifest(donor=donor, domain=domain)
        folder = organ_folder(self.place / f"{exchange}-{donor}", facts)
        signing.sign_folder(folder, site)
        audience = sealing.Audience(
            addressees=[one.profile for one in self.sites.values()], exchange=exchange
        )
        sealed = self.place / f"{exchange}-{donor}.organ"
        signed = sealing.seal(folder, site, audience, sealed)
        data = sealed.read_bytes()
        donation = Donation(
            offer=signed.envelope.decode(),
            sealed_bytes=len(data),
            sealed_sha256=canonical.sha256(data),
            organ_bytes=108,
            tokens=9_000,
            steps=40,
            privacy="none" if donor == "north" else "epsilon 2 at delta 1e-06 a record",
        )
        kept, offer = self.coordinator, signed.offer
        kept.catalogue.reserve(exchange, offer, donation, kept.settings.quotas)
        start = len(data) - offer.body_bytes
        sealed.write_bytes(data[start:])
        kept.bank.put(offer.body_sha256, sealed)
        kept.catalogue.offered(exchange, offer, donation, data[:start])
        return facts.digest

    def _try(self, exchange: str, organ: str, donor: str, recipient: str, change: float) -> None:
        found = receipt(exchange, organ, donor, recipient, change)
        envelope = sign_statement(canonical.encode(found), RECEIPT_TYPE, self.sites[recipient])
        self.coordinator.catalogue.received(found, envelope)


def damage(coordinator: Coordinator, change: str) -> None:
    """Change a catalogue behind its coordinator's back."""
    with sqlite3.connect(coordinator.folder / coordinator_home.CATALOGUE) as database:
        database.execute(change)
    database.close()


def receipt(exchange: str, organ: str, donor: str, recipient: str, change: float) -> Receipt:
    """What a recipient found of an organ."""
    return Receipt(
        exchange=exchange,
        organ=organ,
        donor=donor,
        recipient=recipient,
        mode="replace",
        position=1,
        domain_perplexity_before=40.0,
        domain_perplexity_after=round(40 * (1 + change), 1),
        general_perplexity_before=48.3,
        general_perplexity_after=48.9,
        change=change,
        interval=(change - 0.02, change + 0.02),
        documents=20,
        general_documents=12,
        tokens=800,
        verdict="accepted" if change < -0.02 else "rejected",
        reason="domain perplexity changed",
    )


def operated(coordinator: Coordinator) -> None:
    """Let rita read and ada operate."""
    operators.add(coordinator.folder, "rita", "reader", PASSWORD.encode())
    operators.add(coordinator.folder, "ada", "operator", PASSWORD.encode())


def site(place: Path, domain: str = "radiology notes") -> Path:
    """Home of an admitted site with two organs that wait, two charges and two receipts."""
    authority.create_root(place / "root", "regional")
    settings = site_home.Settings(site="north", model="", records="", general="", domain=domain)
    folder = place / "north"
    site_home.create(folder, settings, Policy(epsilon=8.0, addressees=("south", "west")))
    request = read_request(folder / site_home.IDENTITY / keys.REQUEST)
    profile = authority.admit(place / "root", request)
    trust = federation.load_trust(place / "root")
    keys.install(folder / site_home.IDENTITY, profile, trust)
    north = site_home.load(folder)
    bound = north.policy.bound
    assert bound is not None
    for number in (1, 2):
        facts = private(manifest(version=number, domain=domain))
        mechanism = Mechanism(0.05, 1.1, 200 * number)
        units = [canonical.sha256(str(one).encode()) for one in range(40)]
        north.ledger.reserve(
            f"run-{number}", units, "record", mechanism, bound=bound, label="notes", together=True
        )
        made = organ_folder(north.place("organs", "made", facts.digest), facts)
        (made / "README.md").write_text(f"# A card\n\n{domain}\n")
        signing.sign_folder(made, north.identity)
        north.ledger.settle(f"run-{number}", facts.digest)
        found = receipt("spring", facts.digest, "south", "north", (0.05, -0.09)[number - 1])
        envelope = sign_statement(canonical.encode(found), RECEIPT_TYPE, north.identity)
        north.place("receipts", "spring", f"{number}.json").write_bytes(envelope)
        north.log.append("trained", what="organ", digest=facts.digest)
    return folder


def private(facts: Any) -> Any:
    """A manifest of an organ that was trained with differential privacy."""
    training = TrainingFacts(
        scaffold="in-situ",
        rank=None,
        tokens=9_000,
        steps=200,
        seed=0,
        learning_rate=1e-3,
        block_tokens=64,
        step_tokens=512,
        head_sample=None,
        precision="float32",
        device="cpu",
        threads=1,
        libraries={},
    )
    stated = DifferentialPrivacy(
        unit="record",
        sampling_probability=0.05,
        noise_multiplier=1.1,
        clip=1.0,
        steps=200,
        units_per_step=8,
        most_blocks_per_unit=1,
        delta=1e-6,
        epsilon=2.4,
        accountant="a test",
    )
    return replace(facts, training=training, privacy=stated)


def browser(page: Page, **headers: str) -> TestClient:
    """Somebody with a browser, who is not signed in."""
    told = {"accept": "text/html", "origin": ORIGIN, "sec-fetch-site": "same-origin"} | headers
    client = TestClient(page.app, base_url=ORIGIN, headers=told, follow_redirects=False)
    return client


def sign_in(client: TestClient, name: str, password: str = PASSWORD) -> httpx.Response:
    """Sign in at a coordinator's page."""
    return client.post("/sign-in", data={"name": name, "password": password})


def routes(page: Page) -> set[tuple[str, str]]:
    """Method and path of all that a page answers."""
    found = set()
    for route in page.app.routes:
        methods = route.methods if isinstance(route, APIRoute) else {"GET"}
        found |= {(method, str(getattr(route, "path", ""))) for method in methods or ()}
    return found
