"""Organs outlive the runs that brought them: who comes later gets them, and bodies travel once."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import federation_of_three
from exchanges import by_hand, left
from flwr.app import Message
from local_grid import LocalGrid

from client import home as site_home
from client import recipient, witness
from not_core import canonical, protocol
from not_core.errors import BodyError
from not_core.protocol import DeliverRequest, Donation, Segment, SegmentRequest
from not_core.trust.delivery import DeliveryHeader, read_header, write_header
from not_core.trust.offer import peek_offer, sign_offer
from server import home as coordinator_home
from server.bank import chunks
from server.catalogue import Kept
from server.progress import Event
from server.upgrade import upgrade
from simulations.federation import exchange as simulation

HEADER = 32 * 1024
"""More than any header here, less than any body."""


@pytest.fixture(scope="module")
def prepared(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> simulation.Scenario:
    """Homes of a coordinator and three sites: an exchange among the two that give organs."""
    place = tmp_path_factory.mktemp("late")
    with pytest.MonkeyPatch.context() as monkeypatch:
        scenario: simulation.Scenario = federation_of_three(place, models["llama"], monkeypatch)(
            "homes"
        )
        simulation.prepare(scenario)
    by_hand(scenario, dead=frozenset({"clinic"}))
    return scenario


@pytest.fixture
def scenario(prepared: simulation.Scenario, tmp_path: Path) -> simulation.Scenario:
    """A copy of them; records and text lie where they lay."""
    shutil.copytree(prepared.homes, tmp_path / "homes")
    return replace(prepared, homes=tmp_path / "homes")


def forget_log(scenario: simulation.Scenario) -> None:
    """Sites have seen no log yet."""
    for name in ("hospital", "court"):
        assert witness.set_aside(site_home.read_home(scenario.home(name)))


def delivered(grid: LocalGrid) -> dict[int, int]:
    """Bytes of sealed organs that each node was sent."""
    sent: dict[int, int] = {}
    for message in grid.requests:
        if message.metadata.message_type == protocol.DELIVER:
            node = message.metadata.dst_node_id
            sent[node] = sent.get(node, 0) + len(protocol.unpack(message.content).body)
    return sent


def body_bytes(one: Kept) -> int:
    return peek_offer(one.donation.offer.encode()).body_bytes


def test_a_site_that_is_slow_to_enrol_holds_up_nobody_and_takes_part_afterwards(
    scenario: simulation.Scenario,
) -> None:
    steps: list[Event] = []

    def others_are_done() -> bool:
        tried = [one.site for one in steps if one.step == "transplant"]
        return min(tried.count("court"), tried.count("hospital")) >= 2

    awake = {"clinic": others_are_done}
    by_hand(scenario, awake=awake, enrol_seconds=1e-9, exchange="slow", notify=steps.append)
    assert left(scenario, "slow").bytes
    assert len(left(scenario, "slow").verdicts) == 6
    first = [one for one in steps if one.step == "enrol"]
    assert sorted(one.site for one in first[:2]) == ["court", "hospital"]
    assert sorted(one.site for one in first[2:]) == ["clinic", "court", "hospital"]


def test_a_site_that_is_late_again_and_again_has_no_third_pass(
    scenario: simulation.Scenario,
) -> None:
    steps: list[Event] = []
    rounds = 0

    def others_are_done() -> bool:
        """In the pass that is under way."""
        nonlocal rounds
        signed = [one.site for one in steps if one.step == "witness"]
        done = min(signed.count("court"), signed.count("hospital")) > rounds
        rounds += done
        return done

    awake = {"clinic": others_are_done}
    by_hand(scenario, awake=awake, enrol_seconds=1e-9, exchange="later", notify=steps.append)
    assert rounds == 2
    assert [one.site for one in steps if one.step == "enrol"].count("court") == 2
    assert len(left(scenario, "later").verdicts) == 4


def test_a_site_that_joins_later_is_sent_bodies_and_nobody_else_is(
    scenario: simulation.Scenario,
) -> None:
    before = left(scenario).organs
    assert len(left(scenario).verdicts) == 4
    bodies = sum(map(body_bytes, before.values()))
    made = {path: path.stat().st_mtime_ns for path in scenario.homes.glob("sites/*/organs/made/*")}
    banked = {path: path.stat().st_mtime_ns for path in (scenario.coordinator / "bank").iterdir()}
    grid = by_hand(scenario)
    sent = left(scenario).bytes
    assert sent["uploaded"] < 2 * HEADER < bodies
    assert bodies < delivered(grid)[2] < bodies + 2 * HEADER
    assert delivered(grid)[1] < HEADER
    assert delivered(grid)[3] < HEADER
    assert len(left(scenario).verdicts) == 6
    assert left(scenario).verdicts["hospital", "clinic"] == "accepted"
    for path, moment in (made | banked).items():
        assert path.stat().st_mtime_ns == moment
    assert len(list((scenario.coordinator / "bank").iterdir())) == 2
    for donor, one in left(scenario).organs.items():
        assert one.organ == before[donor].organ
        assert one.donation.offer != before[donor].donation.offer


def test_another_exchange_on_the_same_terms_trains_nothing_and_moves_headers_only(
    scenario: simulation.Scenario,
) -> None:
    made = {path: path.stat().st_mtime_ns for path in scenario.homes.glob("sites/*/organs/made/*")}
    by_hand(scenario)
    grid = by_hand(scenario, exchange="autumn")
    assert left(scenario, "autumn").bytes["uploaded"] < 2 * HEADER
    assert max(delivered(grid).values()) < 2 * HEADER
    assert left(scenario, "autumn").verdicts == left(scenario).verdicts
    assert len(left(scenario, "autumn").verdicts) == 6
    found = scenario.homes.glob("sites/*/organs/made/*")
    assert {path: path.stat().st_mtime_ns for path in found} == made
    assert len(list((scenario.coordinator / "bank").iterdir())) == 2
    autumn = scenario.home("clinic") / "organs" / "in" / "autumn"
    for one in left(scenario, "autumn").organs.values():
        whole = autumn / f"{one.organ}.organ"
        assert canonical.sha256_file(whole) == one.donation.sealed_sha256


def test_whoever_was_addressed_gets_an_organ_whose_donor_is_gone(
    scenario: simulation.Scenario,
) -> None:
    def silent(message: Message) -> Message | None:
        clinic = message.metadata.dst_node_id == 2
        return None if clinic and message.metadata.message_type == protocol.DELIVER else message

    by_hand(scenario, on_request=silent, wire_seconds=2)
    assert ("hospital", "clinic") not in left(scenario).verdicts
    by_hand(scenario, dead=frozenset({"hospital"}))
    assert left(scenario).verdicts["hospital", "clinic"] == "accepted"

    # In another exchange nobody has offered it yet.
    by_hand(scenario, dead=frozenset({"hospital"}), exchange="autumn")
    assert {donor for donor, _ in left(scenario, "autumn").verdicts} == {"court"}


def test_who_was_not_addressed_gets_nothing_without_the_donor(
    scenario: simulation.Scenario,
) -> None:
    grid = by_hand(scenario, dead=frozenset({"hospital"}))
    organs = [
        protocol.read(protocol.unpack(one.content), DeliverRequest).organ
        for one in grid.requests
        if one.metadata.message_type == protocol.DELIVER and one.metadata.dst_node_id == 2
    ]
    assert set(organs) == {left(scenario).organs["court"].organ}
    assert ("hospital", "clinic") not in left(scenario).verdicts


def test_a_body_that_is_damaged_in_the_bank_is_fetched_again(
    scenario: simulation.Scenario,
) -> None:
    one = left(scenario).organs["hospital"]
    body = peek_offer(one.donation.offer.encode()).body_sha256
    place = scenario.coordinator / "bank" / f"{body}.body"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    by_hand(scenario)
    assert body_bytes(one) < left(scenario).bytes["uploaded"] < body_bytes(one) + 2 * HEADER
    assert canonical.sha256_file(place) == body
    place.unlink()
    by_hand(scenario)
    assert canonical.sha256_file(place) == body


def test_a_header_with_another_organs_body_is_refused_by_the_site(
    scenario: simulation.Scenario,
) -> None:
    """A coordinator brings the hospital's new offer, and the court's body under it."""
    by_hand(scenario)
    clinic = site_home.load(scenario.home("clinic"))
    organ, other = (left(scenario).organs[name].organ for name in ("hospital", "court"))
    folder = clinic.folder / "organs" / "in" / "trial"
    with (folder / f"{organ}.organ").open("rb") as file:
        read_header(file)
        header = (folder / f"{organ}.organ").read_bytes()[: file.tell()]
    with (folder / f"{other}.organ").open("rb") as file:
        read_header(file)
        body = file.read()
    request = DeliverRequest(
        exchange="trial",
        organ=organ,
        offset=0,
        sealed_bytes=len(header + body),
        sealed_sha256=canonical.sha256(header + body),
    )
    held = recipient.deliver(clinic, request, header)[0].held
    assert held == len(header), "the body that it holds does not make what is announced"
    request = replace(request, offset=held)
    assert recipient.deliver(clinic, request, body)[0].held == request.sealed_bytes
    for kept_before in ("receipts", "organs/opened"):
        shutil.rmtree(clinic.folder / kept_before)
    with pytest.raises(BodyError):
        recipient.transplant(
            clinic, protocol.TransplantRequest(exchange="trial", organ=organ, mode="replace"), b""
        )
    assert not (clinic.folder / "organs" / "opened" / organ).exists()


def test_a_donor_gains_nothing_by_anothers_body(scenario: simulation.Scenario) -> None:
    """The court offers the hospital's body as its own; it holds it, and has to bring it."""
    court = site_home.load(scenario.home("court"))
    (theirs,) = (scenario.home("court") / "organs" / "in" / "trial").glob("*.organ")
    with theirs.open("rb") as file:
        stolen = peek_offer(read_header(file).envelope)
        body = file.read()
    forged: dict[str, bytes] = {}

    def forge(message: Message) -> Message:
        if message.metadata.src_node_id != 3:
            return message
        packet = protocol.unpack(message.content)
        if packet.kind == "Donation":
            donation = protocol.read(packet, Donation)
            (own,) = (scenario.home("court") / "organs" / "sealed" / "trial").glob("*.organ")
            with own.open("rb") as file:
                header = read_header(file)
            offer = replace(
                peek_offer(header.envelope),
                body_sha256=stolen.body_sha256,
                body_bytes=stolen.body_bytes,
            )
            signed = sign_offer(offer, court.identity)
            place = scenario.homes / "forged"
            with place.open("wb") as file:
                made = DeliveryHeader(
                    offer=signed.envelope.decode(), profile=header.profile, wraps=header.wraps
                )
                write_header(made, file)
            forged["whole"] = place.read_bytes() + body
            message.content = protocol.pack(
                replace(
                    donation,
                    offer=signed.envelope.decode(),
                    sealed_bytes=len(forged["whole"]),
                    sealed_sha256=canonical.sha256(forged["whole"]),
                )
            )
        return message

    asked: list[SegmentRequest] = []

    def note(message: Message) -> Message:
        if message.metadata.message_type == protocol.SEGMENT and message.metadata.dst_node_id == 3:
            asked.append(protocol.read(protocol.unpack(message.content), SegmentRequest))
        return message

    def serve(message: Message) -> Message:
        message = forge(message)
        packet = protocol.unpack(message.content)
        if message.metadata.src_node_id == 3 and packet.kind == "Segment":
            value, one = protocol.read(packet, Segment), asked[-1]
            message.content = protocol.pack(
                value, forged["whole"][one.offset : one.offset + one.length]
            )
        return message

    by_hand(scenario, on_request=note, on_reply=serve)
    assert sum(one.length for one in asked) == len(forged["whole"]), "it is not told what is there"
    failures = left(scenario).run["failures"]
    assert {(one["site"], one["step"], one["code"]) for one in failures} == {
        ("clinic", "transplant", "unseal"),
    }
    assert left(scenario).verdicts["hospital", "clinic"] == "accepted"
    assert ("court", "clinic") not in left(scenario).verdicts


@pytest.mark.parametrize(
    ("line", "code", "given"),
    [
        ("most_organs = 1", "exchange-quota", 1),
        ("most_site_bytes = 1000", "site-quota", 0),
    ],
)
def test_quotas_are_refused_by_their_codes(
    line: str, code: str, given: int, scenario: simulation.Scenario
) -> None:
    shutil.rmtree(scenario.coordinator)  # to another coordinator; what donors made, they have
    coordinator_home.create(scenario.coordinator, scenario.homes / "federation")
    forget_log(scenario)
    settings = scenario.coordinator / coordinator_home.SETTINGS
    name = line.partition(" ")[0]
    rows = [row for row in settings.read_text().splitlines() if not row.startswith(name)]
    settings.write_text("\n".join([line, *rows]))
    grid = by_hand(scenario, dead=frozenset({"clinic"}))
    failures = left(scenario).run["failures"]
    assert [(one["step"], one["code"]) for one in failures] == [
        ("enrol", "unreachable"),
        *[("donate", code)] * (2 - given),
    ]
    assert len(left(scenario).organs) == given
    assert len({donor for donor, _ in left(scenario).verdicts}) == given
    types = [one.metadata.message_type for one in grid.requests]
    assert types.count(protocol.SEGMENT) == 2 * given, "nothing of what is refused is fetched"


def test_organs_are_listed_and_forgotten(
    scenario: simulation.Scenario, call: Callable[..., tuple[int, str, str]]
) -> None:
    import json

    from server.commands import app

    by_hand(scenario, exchange="autumn")
    rows = json.loads(call("organs", scenario.coordinator, "--json", app=app)[1])
    assert [row["donor"] for row in rows] == ["court", "hospital"]
    hospital = rows[1]
    assert hospital["exchanges"] == "autumn, trial"
    assert hospital["stored"] == body_bytes(left(scenario).organs["hospital"])
    assert (hospital["domain"], hospital["privacy"], hospital["span"]) == (
        "medicine",
        "none",
        "2:5",
    )
    assert hospital["accepted"] == "1 of 2"  # clinic and court, each once
    organ = hospital["organ"]
    assert call("forget", scenario.coordinator, "", app=app)[0] == 1
    assert call("forget", scenario.coordinator, organ[:12], app=app)[0] == 0
    (rest,) = json.loads(call("organs", scenario.coordinator, "--json", app=app)[1])
    assert rest["donor"] == "court"
    assert len(list((scenario.coordinator / "bank").iterdir())) == 1
    assert ("hospital", "court") in left(scenario).verdicts, "receipts stay"
    by_hand(scenario)
    assert len(left(scenario).organs) == 2


def test_a_home_of_the_first_version_keeps_its_organs(scenario: simulation.Scenario) -> None:
    """Whole files in the bank, a catalogue without versions, no settings."""
    home = scenario.coordinator
    with coordinator_home.opened(home) as coordinator:
        organs = coordinator.catalogue.organs("trial")
        for one in organs:
            assert one.header is not None
            offer = peek_offer(one.donation.offer.encode())
            body = b"".join(chunks(coordinator.bank, offer.body_sha256))
            coordinator.bank.remove(offer.body_sha256)
            (home / "bank" / f"{one.organ}.organ").write_bytes(one.header + body)
    (home / coordinator_home.SETTINGS).unlink()
    (home / coordinator_home.LOG_KEY).unlink()
    database = sqlite3.connect(home / "catalogue.db")
    for statement in (
        "DROP TABLE bodies",
        "DROP TABLE contacts",
        "DROP TABLE events",
        "DROP TABLE log_entries",
        "DROP TABLE log_nodes",
        "DROP TABLE witnesses",
        "DROP TABLE alembic_version",
        "ALTER TABLE organs DROP COLUMN header",
        "DROP INDEX ix_receipts_verdict",
        "ALTER TABLE receipts DROP COLUMN donor",
        "ALTER TABLE receipts DROP COLUMN verdict",
    ):
        database.execute(statement)
    database.commit()
    database.close()
    (home / "bank" / ("0" * 64 + ".organ")).write_bytes(b"no sealed organ")

    for _ in range(2):
        upgrade(home)
    assert list(left(scenario).organs.values()) == organs
    assert [path.name for path in (home / "bank").glob("*.organ")] == ["0" * 64 + ".organ"]
    assert not list((home / "incoming").iterdir())
    forget_log(scenario)
    by_hand(scenario)
    assert left(scenario).bytes["uploaded"] < 2 * HEADER
    assert len(left(scenario).verdicts) == 6
