"""A whole exchange, real apps and real cryptography; once on Flower's engine, then by hand."""

import base64
import gc
import io
import json
import math
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import make_model, sentences, write_jsonl
from exchanges import MARKS, by_hand, left
from flwr.app import Error, Message

import server.claims as claims_module
from client import donor, policy_file, recipient
from client import home as site_home
from client.app import WORDS
from client.records import own_split
from not_core import canonical, protocol
from not_core.errors import (
    ExchangeError,
    HomeError,
    IncompatibleOrganError,
    OfferError,
    OutputExistsError,
    PolicyError,
)
from not_core.protocol import DonateRequest, Enrolment, Receipt
from not_core.surgery import organ as organs
from not_core.trust.delivery import read_header
from not_core.trust.log import Log
from not_core.trust.offer import peek_offer
from not_core.trust.statement import claimed_payload
from server import home as coordinator_home
from server.progress import Event
from simulations.federation import exchange as simulation
from simulations.federation import report as reports
from simulations.federation.beside import read_beside
from simulations.federation.costs import privacy_costs
from simulations.federation.facts import gather
from simulations.federation.leaks import Needles, search


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exchange_on_flowers_engine(
    make_scenario: Callable[[str], simulation.Scenario], tmp_path: Path
) -> None:
    """One real run: matrix, verdicts, report, and nothing readable at the coordinator."""
    scenario = replace(make_scenario("homes"), keep_messages=True)
    assert simulation.prepare(scenario) is False
    events: list[Event] = []
    simulation.run(scenario, events.append)
    gc.collect()  # what Ray left open ends here, under this test's filter
    facts = gather(scenario)

    assert facts["failures"] == []
    assert {site["name"] for site in facts["sites"]} == {"hospital", "clinic", "court"}
    verdicts = {(e["donor"], e["recipient"]): e for e in facts["evaluations"]}
    assert set(verdicts) == {(d, r) for d in ("hospital", "court") for r in site_names(scenario)}
    assert verdicts["hospital", "clinic"]["verdict"] == "accepted"
    assert verdicts["hospital", "clinic"]["interval"][1] < 0
    assert verdicts["court", "clinic"]["verdict"] == "rejected"
    assert "perplexity changed by" in verdicts["court", "clinic"]["reason"]
    kept = {path.name for path in scenario.home("clinic").glob("organs/opened/*")}
    assert kept == {verdicts["hospital", "clinic"]["organ"]}
    for evaluation in facts["evaluations"]:
        assert {
            "domain_perplexity_before",
            "domain_perplexity_after",
            "general_perplexity_before",
            "general_perplexity_after",
            "tokens",
            "mode",
            "position",
        } <= set(evaluation)
    assert {"sites", "organs", "evaluations", "bytes", "seconds", "seed", "versions"} <= set(facts)
    revealed = {site["name"]: [r["what"] for r in site["revealed"]] for site in facts["sites"]}
    assert revealed["clinic"] == [
        "number of a revocation list",
        "profile",
        "acknowledgement",
        "receipt",
        "cosignature",
    ]
    assert set(revealed["court"]) == set(WORDS.values())

    reports.write_json(facts, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["exchange"] == "trial"
    assert "clinic" in reports.render_html(facts)

    organs = sorted((scenario.homes / "sites").glob("*/organs/made/*/organ.safetensors"))
    assert len(organs) == 2
    needles = Needles(MARKS, organs)
    outside = search([scenario.coordinator], needles)
    assert outside.bytes > 2 * sum(path.stat().st_size for path in organs)
    assert (outside.sentences, outside.organ_blocks) == (0, 0)
    inside = search([scenario.homes / "sites", tmp_path / "hospital.jsonl"], needles)
    assert inside.sentences == len(MARKS)
    assert inside.organ_blocks >= 1000

    # Resumed by hand from the same homes: everything is found done, and nothing is made again.
    made = {path: path.stat().st_mtime_ns for path in scenario.homes.rglob("*.organ")}
    again: list[Event] = []
    by_hand(scenario, notify=again.append)
    assert made == {path: path.stat().st_mtime_ns for path in scenario.homes.rglob("*.organ")}
    assert gather(scenario)["evaluations"] == facts["evaluations"]

    # The same seed in other homes, without the engine: the same organs.
    other = make_scenario("other-homes")
    simulation.prepare(other)
    by_hand(other)
    assert {o["digest"] for o in gather(other)["organs"]} == {o["digest"] for o in facts["organs"]}


def site_names(scenario: simulation.Scenario) -> set[str]:
    return {site.name for site in scenario.federation.sites}


def test_an_exchange_by_factors_ships_factors_that_each_site_expands(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    scenario = replace(scenario, terms=replace(scenario.terms, rank=4))
    simulation.prepare(scenario)
    by_hand(scenario)
    facts = gather(scenario)
    assert facts["failures"] == []
    verdicts = {(e["donor"], e["recipient"]): e["verdict"] for e in facts["evaluations"]}
    assert set(verdicts) == {(d, r) for d in ("hospital", "court") for r in site_names(scenario)}
    assert verdicts["hospital", "clinic"] == verdicts["hospital", "hospital"] == "accepted"
    assert verdicts["court", "clinic"] == "rejected"
    for organ in facts["organs"]:
        folder = scenario.home(organ["donor"]) / "organs" / "made" / organ["digest"]
        manifest = organs.read_manifest(folder)
        assert manifest.stored.form == "factors"
        assert organ["organ_bytes"] == (folder / "organ.safetensors").stat().st_size
        layers = 4 * sum(math.prod(one.shape) for one in manifest.tensors)
        assert 2 * organ["organ_bytes"] < layers
    (opened,) = scenario.home("clinic").glob("organs/opened/*")
    assert isinstance(organs.read_stored(opened), organs.CompactOrgan)

    # What a site has opened does not pass for the organ on a base that it did not grow in.
    clinic = scenario.home("clinic")
    shutil.rmtree(clinic / "receipts")
    settings = clinic / "site.toml"
    other = make_model(scenario.homes / "other", "llama", seed=1)
    settings.write_text(settings.read_text().replace(scenario.model, str(other)))
    request = protocol.TransplantRequest(exchange="trial", organ=opened.name, mode="replace")
    with pytest.raises(IncompatibleOrganError, match="own base only"):
        recipient.transplant(site_home.load(clinic), request, b"")


def test_what_privacy_costs_is_shown_beside_the_same_exchange_without(
    make_scenario: Callable[[str], simulation.Scenario], tmp_path: Path
) -> None:
    plain = make_scenario("homes")
    simulation.prepare(plain)
    by_hand(plain)
    reports.write_json(gather(plain), tmp_path / "report.json")
    scenario = replace(
        make_scenario("private"),
        donors=replace(simulation.OPEN, epsilon=8.0, units_per_step=8),
    )
    assert scenario.fingerprint != plain.fingerprint
    simulation.prepare(scenario)
    by_hand(scenario)
    other = read_beside(tmp_path, scenario)
    facts = gather(scenario, beside=other)
    assert facts["failures"] == []
    for organ in facts["organs"]:
        assert organ["privacy"].startswith("epsilon ")
        assert 7 < organ["statement"]["epsilon"] <= 8
        assert organ["steps"] == organ["statement"]["steps"]
    costs = {(one.donor, one.recipient): one for one in privacy_costs(facts)}
    assert len(costs) == len(facts["evaluations"]) == 6
    for (donor_, recipient_), cost in costs.items():
        assert cost.same == (recipient_ == "clinic"), (donor_, recipient_)
    # The same gain without privacy as that run's own report says.
    kept = {(row["donor"], row["recipient"]): row["change"] for row in other["evaluations"]}
    assert {key: cost.without for key, cost in costs.items()} == kept
    page = reports.render_html(facts)
    assert "Privacy, and what it cost" in page
    assert "Change of perplexity with and without" in page
    assert "--beside" not in page
    page = reports.render_html(gather(scenario))
    assert "--beside" in page

    reports.write_json(facts, tmp_path / "report.json")
    with pytest.raises(ExchangeError, match="has other privacy"):
        read_beside(tmp_path, scenario)
    reports.write_json(other, tmp_path / "report.json")
    slower = replace(scenario, terms=replace(scenario.terms, learning_rate=1e-4, seed=1))
    with pytest.raises(ExchangeError, match="has other seed and settings"):
        read_beside(tmp_path, slower)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ExchangeError, match="no report of an exchange"):
        read_beside(tmp_path, scenario)


def test_a_dead_site_holds_up_nobody(make_scenario: Callable[[str], simulation.Scenario]) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    by_hand(scenario, dead=frozenset({"court"}))
    facts = gather(scenario)
    assert [(f["step"], f["code"]) for f in facts["failures"]] == [("enrol", "unreachable")]
    assert {(e["donor"], e["recipient"]) for e in facts["evaluations"]} == {
        ("hospital", "hospital"),
        ("hospital", "clinic"),
    }


def test_a_silent_site_runs_into_its_time_limit(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)

    def silent(message: Message) -> Message | None:
        court = message.metadata.dst_node_id == 3
        return None if court and message.metadata.message_type == protocol.DONATE else message

    by_hand(scenario, on_request=silent, wire_seconds=3)
    facts = gather(scenario)
    assert {"site": "court", "step": "donate", "code": "timeout"} in facts["failures"]
    assert ("hospital", "clinic") in {(e["donor"], e["recipient"]) for e in facts["evaluations"]}


def test_too_few_sites_end_the_exchange(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    with pytest.raises(ExchangeError, match="1 sites enrolled"):
        by_hand(scenario, dead=frozenset({"court", "hospital"}))


def test_a_coordinator_cannot_add_a_stranger(
    make_scenario: Callable[[str], simulation.Scenario], tmp_path: Path
) -> None:
    """A profile from another federation in the roster: the donor refuses and seals nothing."""
    scenario, foreign = make_scenario("homes"), make_scenario("foreign")
    simulation.prepare(scenario)
    simulation.prepare(foreign)
    stranger = site_home.load(foreign.home("clinic")).identity.profile

    def add_stranger(message: Message) -> Message:
        if message.metadata.message_type == protocol.DONATE:
            request = protocol.read(protocol.unpack(message.content), DonateRequest)
            message.content = protocol.pack(
                replace(request, addressees=(*request.addressees, stranger))
            )
        return message

    by_hand(scenario, on_request=add_stranger)
    facts = gather(scenario)
    assert [f["code"] for f in facts["failures"]] == ["certificate", "certificate"]
    assert facts["organs"] == []
    assert not list(scenario.homes.rglob("*.organ"))


def test_a_coordinator_cannot_swap_a_recipients_key(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario, foreign = make_scenario("homes"), make_scenario("foreign")
    simulation.prepare(scenario)
    simulation.prepare(foreign)
    key = site_home.load(foreign.home("clinic")).identity.profile.sealing_key

    def swap(message: Message) -> Message:
        if message.metadata.message_type == protocol.DONATE:
            request = protocol.read(protocol.unpack(message.content), DonateRequest)
            message.content = protocol.pack(
                replace(
                    request,
                    addressees=tuple(
                        replace(one, sealing_key=key) if one.site == "clinic" else one
                        for one in request.addressees
                    ),
                )
            )
        return message

    by_hand(scenario, on_request=swap)
    facts = gather(scenario)
    assert facts["organs"] == []
    assert {(f["step"], f["code"]) for f in facts["failures"]} == {("donate", "certificate")}


def flipped(data: bytes) -> bytes:
    """Bytes with a bit of the middle one changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_bytes_tampered_with_by_the_coordinator_are_refused_by_the_site(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)

    digests: dict[str, str] = {}

    def flip(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        if packet.kind == "DeliverRequest" and message.metadata.dst_node_id == 2:
            request = protocol.read(packet, protocol.DeliverRequest)
            data = packet.body
            if request.offset == 0:
                offer = peek_offer(read_header(io.BytesIO(data)).envelope)
                body = scenario.coordinator / "bank" / f"{offer.body_sha256}.body"
                digests[request.organ] = canonical.sha256(data + flipped(body.read_bytes()))
            else:
                data = flipped(data)
            # A coordinator lies consistently: it announces the digest of what it sends.
            forged = replace(request, sealed_sha256=digests[request.organ])
            message.content = protocol.pack(forged, data)
        return message

    by_hand(scenario, on_request=flip)
    facts = gather(scenario)
    assert "clinic" not in {e["recipient"] for e in facts["evaluations"]}
    assert {"site": "clinic", "step": "transplant", "code": "body"} in facts["failures"]
    assert not list(scenario.home("clinic").glob("organs/opened/*"))


def test_an_organ_delivered_under_anothers_name_is_refused_however_often(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    """A coordinator hands the clinic the court's organ and calls it the hospital's."""
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    by_hand(scenario)
    digests = {o["donor"]: o["digest"] for o in gather(scenario)["organs"]}
    home = scenario.home("clinic")
    sealed = home / "organs" / "in" / "trial"
    (sealed / f"{digests['hospital']}.organ").write_bytes(
        (sealed / f"{digests['court']}.organ").read_bytes()
    )
    shutil.rmtree(home / "organs" / "opened", ignore_errors=True)
    shutil.rmtree(home / "receipts")
    request = protocol.TransplantRequest(
        exchange="trial", organ=digests["hospital"], mode="replace"
    )
    for _ in range(2):
        with pytest.raises(OfferError, match="not the one announced"):
            recipient.transplant(site_home.load(home), request, b"")
    assert not list(home.glob("receipts/**/*.json"))


def test_a_recipient_that_joins_later_gets_the_organs(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    """The roster grows, so donors seal anew; what was delivered before is replaced."""
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    by_hand(scenario, dead=frozenset({"court"}))
    by_hand(scenario)
    facts = gather(scenario)
    assert facts["failures"] == []
    assert len(facts["evaluations"]) == 6


def test_only_who_is_invited_is_asked(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    with coordinator_home.opened(scenario.coordinator) as coordinator:
        for number, site in enumerate(scenario.federation.sites, 1):
            coordinator.catalogue.admitted(site.name, number, b"word")
    asked: set[str] = set()

    def ask(message: Message) -> Message:
        asked.add(scenario.federation.sites[message.metadata.dst_node_id - 1].name)
        return message

    by_hand(scenario, invited=("hospital", "clinic"), on_request=ask)
    facts = gather(scenario)
    assert asked == {"hospital", "clinic"}
    assert facts["failures"] == []
    tried = {(one["donor"], one["recipient"]) for one in facts["evaluations"]}
    assert tried == {("hospital", "hospital"), ("hospital", "clinic")}


def test_a_donor_may_be_tried_so_often_and_no_more(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    policy = scenario.home("clinic") / "policy.toml"
    policy.write_text(policy.read_text().replace("most_trials = 20", "most_trials = 1"))
    by_hand(scenario)
    assert gather(scenario)["failures"] == []
    more = replace(scenario, terms=replace(scenario.terms, seed=7))
    by_hand(more)
    facts = gather(more)
    refused = [f for f in facts["failures"] if f["site"] == "clinic"]
    assert refused == [{"site": "clinic", "step": "transplant", "code": "policy"}] * 2


@pytest.mark.parametrize(
    "line",
    ["most_layers = 2", "most_passes = 0.5", "most_tokens = 100", 'addressees = ["elsewhere"]'],
)
def test_a_policy_bounds_what_a_coordinator_may_ask(
    line: str, make_scenario: Callable[[str], simulation.Scenario]
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    policy = scenario.home("hospital") / "policy.toml"
    name = line.split(" ")[0]
    kept = [row for row in policy.read_text().splitlines() if not row.startswith(name)]
    policy.write_text("\n".join([*kept, line]))
    by_hand(scenario)
    facts = gather(scenario)
    assert {"site": "hospital", "step": "donate", "code": "policy"} in facts["failures"]
    assert not list(scenario.home("hospital").glob("organs/made/*"))


def test_a_node_that_has_left_fails_alone(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    by_hand(scenario, gone=frozenset({"court"}))
    assert [(f["step"], f["code"]) for f in gather(scenario)["failures"]] == [
        ("enrol", "unreachable")
    ]


def test_a_document_never_changes_sides(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    site = site_home.load(scenario.home("clinic"))
    before = own_split(site)
    records = Path(site.settings.records)
    write_jsonl(records, [*sentences(60, 77), *sentences(40, 2, (0, 20))[5:]])
    after = own_split(site)
    assert not set(after.held_out) & set(before.train)
    assert not set(after.train) & set(before.held_out)
    assert len(after.held_out) >= site.settings.held_out
    assert set(before.held_out) & set(after.held_out)


def test_a_public_profile_is_not_enough_to_enrol(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    """The court answers with the clinic's old, signed enrolment."""
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    kept: list[Message] = []

    def keep(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        if packet.kind == "SignedEnrolment" and message.metadata.src_node_id == 2:
            kept.append(message)
        return message

    by_hand(scenario, on_reply=keep)

    def replay(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        if packet.kind == "SignedEnrolment" and message.metadata.src_node_id == 3:
            message.content = kept[0].content
        return message

    by_hand(scenario, on_reply=replay)
    failures = [(f["step"], f["code"]) for f in left(scenario).run["failures"]]
    assert failures == [("enrol", "signature")]


def test_an_odd_model_leaves_only_its_own_site_out(
    make_scenario: Callable[[str], simulation.Scenario], tmp_path: Path
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    other = make_model(tmp_path / "other-model", "llama", seed=5)
    toml = scenario.home("hospital") / "site.toml"
    toml.write_text(toml.read_text().replace(scenario.model, str(other)))
    by_hand(scenario)
    facts = gather(scenario)
    assert facts["failures"] == [{"site": "hospital", "step": "enrol", "code": "other-base"}]
    assert {e["recipient"] for e in facts["evaluations"]} == {"clinic", "court"}


@pytest.mark.parametrize(("bases", "common"), [("", None), ("a", "a"), ("abb", "b")])
def test_the_base_of_most_sites_is_that_of_the_exchange(bases: str, common: str | None) -> None:
    sites: Any = [SimpleNamespace(base_weights=one) for one in bases]
    assert claims_module.common_base(sites) == common


@pytest.mark.parametrize("bases", ["ab", "abab"])
def test_no_half_of_the_sites_decides_which_model_an_exchange_has(bases: str) -> None:
    sites: Any = [SimpleNamespace(base_weights=one) for one in bases]
    with pytest.raises(ExchangeError, match="--site"):
        claims_module.common_base(sites)


def test_a_reply_that_breaks_the_coordinators_code_fails_one_site_only(
    make_scenario: Callable[[str], simulation.Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    verify = claims_module.verify_offer

    def burst(envelope: bytes, profile: Any, trust: Any, **more: Any) -> Any:
        if profile.site == "court":
            raise ZeroDivisionError
        return verify(envelope, profile, trust, **more)

    monkeypatch.setattr(claims_module, "verify_offer", burst)
    by_hand(scenario)
    facts = gather(scenario)
    assert facts["failures"] == [{"site": "court", "step": "donate", "code": "internal"}]
    assert {e["donor"] for e in facts["evaluations"]} == {"hospital"}


def test_an_insert_exchange_reaches_verdicts(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = replace(make_scenario("homes"), mode="insert")
    simulation.prepare(scenario)
    by_hand(scenario)
    facts = gather(scenario)
    assert facts["failures"] == []
    assert {e["mode"] for e in facts["evaluations"]} == {"insert"}
    assert len(facts["evaluations"]) == 6


@pytest.mark.parametrize(
    ("part", "codes"),
    [("header", {"wraps", "format"}), ("body", {"body"})],  # the bit may leave base64 valid, or not
)
def test_bytes_tampered_with_on_the_way_in_are_refused_by_the_coordinator(
    part: str, codes: set[str], make_scenario: Callable[[str], simulation.Scenario]
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)

    def flip(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        if packet.kind == "Segment" and message.metadata.src_node_id == 1:
            value = protocol.read(packet, protocol.Segment)
            if (value.offset == 0) == (part == "header"):
                message.content = protocol.pack(value, flipped(packet.body))
        return message

    by_hand(scenario, on_reply=flip)
    facts = gather(scenario)
    (failure,) = [one for one in facts["failures"] if one["step"] == "segment"]
    assert failure["site"] == "hospital"
    assert failure["code"] in codes
    assert {e["donor"] for e in facts["evaluations"]} == {"court"}
    assert len(list((scenario.coordinator / "bank").iterdir())) == 1
    assert not list((scenario.coordinator / "incoming").iterdir())


def exchanged(
    make_scenario: Callable[[str], simulation.Scenario],
) -> tuple[simulation.Scenario, Path, Path]:
    """After an exchange: the clinic's home, and the organ that it accepted."""
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    by_hand(scenario)
    clinic = scenario.home("clinic")
    (accepted,) = (clinic / "organs" / "opened").iterdir()
    return scenario, clinic, accepted


def test_an_accepted_organ_outlives_another_trial_of_it(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario, clinic, accepted = exchanged(make_scenario)
    files = {path.name: path.read_bytes() for path in accepted.iterdir()}
    policy_file.change(site_home.read_home(clinic), ["least_gain=0.99"])
    by_hand(scenario, exchange="again")
    again = left(scenario, "again").receipts
    (said,) = (one for one in again if (one.organ, one.recipient) == (accepted.name, "clinic"))
    assert said.verdict == "rejected"
    assert {path.name: path.read_bytes() for path in accepted.iterdir()} == files
    assert list((clinic / "organs" / "trying").iterdir()) == []


def test_a_kept_receipt_is_sent_again_while_the_policy_is_the_same(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    _, clinic, accepted = exchanged(make_scenario)
    request = protocol.TransplantRequest(exchange="trial", organ=accepted.name, mode="replace")

    def sent(*changes: str) -> str:
        policy_file.change(site_home.read_home(clinic), changes)
        return recipient.transplant(site_home.load(clinic), request, b"")[0].receipt

    first = sent("most_tokens=100")
    opened = len(site_home.read_home(clinic).log.entries("organ"))
    assert sent("most_tokens=200") == first
    assert len(site_home.read_home(clinic).log.entries("organ")) == opened
    stricter = sent("least_gain=0.99")
    assert json.loads(claimed_payload(stricter.encode()))["verdict"] == "rejected"
    assert sent("least_gain=") != stricter
    with pytest.raises(PolicyError, match="reports on no fewer than 100000"):
        sent("least_documents=100000")


def test_an_organ_of_many_segments_goes_on_where_it_was_cut_off(
    make_scenario: Callable[[str], simulation.Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its way in from the hospital, and on its way out to the clinic."""
    monkeypatch.setattr("server.collection.SEGMENT_BYTES", 20_000)
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    hospital, clinic = 1, 2
    came: dict[str, list[int]] = {"SegmentRequest": [], "DeliverRequest": []}
    organ, lost = "", []

    def run(cut: int | None, exchange: str = "trial") -> dict[str, list[int]]:
        """Offsets of an exchange in which the answer to one request of each kind is lost."""
        for offsets in came.values():
            offsets.clear()

        def on_request(message: Message) -> Message:
            nonlocal organ
            packet = protocol.unpack(message.content)
            if packet.kind not in came:
                return message
            kind: Any = getattr(protocol, packet.kind)
            value = protocol.read(packet, kind)
            if packet.kind == "SegmentRequest" and message.metadata.dst_node_id == hospital:
                organ = value.organ
            elif message.metadata.dst_node_id != clinic or value.organ != organ:
                return message
            came[packet.kind].append(value.offset)
            if len(came[packet.kind]) == cut:
                lost.append(message)
            return message

        def on_reply(reply: Message) -> Message:
            return Message(Error(5, "gone"), reply_to=lost.pop()) if lost else reply

        by_hand(scenario, on_request=on_request, on_reply=on_reply, exchange=exchange)
        return {kind: list(offsets) for kind, offsets in came.items()}

    first = run(cut=6)["SegmentRequest"]
    (part,) = (scenario.coordinator / "incoming").iterdir()
    assert part.stat().st_size == 4 * 20_000, "the first had the header, the last was lost"
    header, *rest = run(cut=None)["SegmentRequest"]
    assert (header, rest[0]) == (0, first[-1])
    assert rest == list(range(rest[0], rest[-1] + 1, 20_000)), "each once"

    shutil.rmtree(scenario.home("clinic") / "organs")
    cut_off = run(cut=3, exchange="again")["DeliverRequest"]
    assert len(cut_off) == 3
    header, *rest = run(cut=None, exchange="again")["DeliverRequest"]
    assert header == 0
    assert min(rest) > cut_off[-1], "what it has is not sent again"
    assert gather(scenario)["failures"] == []


def test_a_forged_receipt_is_refused(make_scenario: Callable[[str], simulation.Scenario]) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)

    def forge(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        if packet.kind == "Trial" and message.metadata.src_node_id == 2:
            trial = protocol.read(packet, protocol.Trial)
            envelope = json.loads(trial.receipt)
            receipt = json.loads(base64.b64decode(envelope["payload"]))
            receipt["domain_perplexity_after"] = 1.0
            payload = base64.b64encode(canonical.encode(receipt)).decode()
            forged = canonical.encode(envelope | {"payload": payload}).decode()
            message.content = protocol.pack(replace(trial, receipt=forged))
        return message

    by_hand(scenario, on_reply=forge)
    facts = gather(scenario)
    assert "clinic" not in {e["recipient"] for e in facts["evaluations"]}
    assert {f["code"] for f in facts["failures"]} == {"signature"}


def test_the_default_policy_lets_no_organ_leave_unasked(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    home = scenario.home("hospital")
    policy = (home / "policy.toml").read_text().replace('"always"', '"ask"')
    (home / "policy.toml").write_text(policy)
    by_hand(scenario)
    waits = {"site": "hospital", "step": "donate", "code": "approval"}
    assert waits in gather(scenario)["failures"]
    assert not list(scenario.homes.glob("sites/hospital/organs/sealed/**/*.organ"))

    from typer.testing import CliRunner

    from client.commands import app

    runner = CliRunner()
    (row,) = json.loads(runner.invoke(app, ["pending", str(home), "--json"]).stdout)
    waiting = row["organ"]
    assert row["tokens"] >= scenario.terms.tokens
    assert runner.invoke(app, ["approve", str(home), waiting[:10]]).exit_code == 0
    by_hand(scenario)
    assert {o["digest"] for o in gather(scenario)["organs"]} >= {waiting}


def test_what_a_killed_training_left_blocks_no_approval_and_is_swept(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    home = scenario.home("hospital")
    policy = (home / "policy.toml").read_text().replace('"always"', '"ask"')
    (home / "policy.toml").write_text(policy)
    by_hand(scenario)
    (organ,) = home.glob("organs/made/" + "[0-9a-f]" * 64)
    young, old = (organ.with_name(f".{organ.name}.{age}.partial") for age in ("young", "old"))
    shutil.copytree(organ, young)
    shutil.copytree(organ, old)
    os.utime(old, (0, 0))
    site = site_home.load(home)
    assert [manifest.digest for manifest in donor.pending(site)] == [organ.name]
    assert young.exists()
    assert not old.exists()


def test_homes_are_private_and_not_mixed_up(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    assert simulation.prepare(scenario) is True
    assert stat.S_IMODE(scenario.home("clinic").stat().st_mode) == 0o700
    assert stat.S_IMODE(scenario.coordinator.stat().st_mode) == 0o700
    with pytest.raises(OutputExistsError, match="--fresh"):
        simulation.prepare(replace(make_scenario("homes"), mode="insert"))
    (scenario.homes / simulation.READY).unlink()
    with pytest.raises(HomeError, match="not made by"):
        simulation.remove(scenario.homes)


def test_a_handlers_error_tells_the_coordinator_a_code_only(
    make_scenario: Callable[[str], simulation.Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = make_scenario("homes")
    simulation.prepare(scenario)
    secret = MARKS[0]

    def burst(*args: object) -> None:
        raise KeyError(secret)

    monkeypatch.setattr("client.records.read_records", burst)
    replies: list[bytes] = []

    def keep(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        replies.append(packet.value + packet.body)
        return message

    by_hand(scenario, on_reply=keep)
    assert {f["code"] for f in left(scenario).run["failures"]} == {"internal"}
    assert not [reply for reply in replies if b"marked" in reply]
    log = (scenario.home("hospital") / "site.log").read_text()
    (line,) = map(json.loads, log.splitlines())
    assert (line["request"], line["says"]) == ("DonateRequest", "KeyError")
    assert "marked" not in log


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET bytes = 9 WHERE number = 2",
        "UPDATE entries SET hash = previous WHERE number = 2",
        "DELETE FROM entries WHERE number = 1",
        "DELETE FROM entries WHERE number = 2",
        "UPDATE entries SET number = 9 WHERE number = 2",
    ],
)
def test_a_changed_log_is_found(change: str, tmp_path: Path) -> None:
    import sqlite3

    log = Log(tmp_path / "log.db")
    for i in range(4):
        log.append("released", what="offer", digest=canonical.sha256(str(i).encode()))
    assert log.verify() == (4, log.entries()[-1].hash)
    with sqlite3.connect(tmp_path / "log.db") as database:
        assert database.execute(change).rowcount == 1
    database.close()
    with pytest.raises(HomeError, match="does not continue the chain"):
        log.verify()


def test_a_log_that_was_cut_off_differs_from_its_kept_head(tmp_path: Path) -> None:
    """The chain alone cannot tell: the operator's copy of count and head can."""
    import sqlite3

    log = Log(tmp_path / "log.db")
    for i in range(3):
        log.append("released", what="offer", size=i)
    kept = log.verify()
    with sqlite3.connect(tmp_path / "log.db") as database:
        database.execute("DELETE FROM entries WHERE number = 3")
    database.close()
    assert log.verify() != kept


def test_the_protocol_round_trips_and_refuses_others() -> None:
    from not_core.errors import FormatError
    from not_core.protocol import Refusal, Segment

    value = Segment(organ="0" * 64, offset=5)
    packet = protocol.unpack(protocol.pack(value, b"\x00\xff"))
    assert (protocol.read(packet, Segment), packet.body) == (value, b"\x00\xff")
    for cls in (Refusal, Receipt, Enrolment):
        with pytest.raises(FormatError, match="expected"):
            protocol.read(packet, cls)
    with pytest.raises(FormatError, match="canonical"):
        canonical.decode(Segment, b'{"organ": "%s", "offset": 5}' % (b"0" * 64), "segment")
