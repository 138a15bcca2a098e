"""A site that donates under differential privacy, and what it says of it."""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, write_jsonl

from client import commands, donor, recipient, reveals
from client import home as site_home
from client.app import WORDS
from client.home import Site
from client.page.views import Views
from client.policy import Policy
from client.records import held_out_texts, own_units
from not_core import protocol
from not_core.errors import HomeError, LedgerError, NotError, PolicyError, PrivacyError
from not_core.manifest import DifferentialPrivacy, Manifest, Span
from not_core.protocol import DonateRequest, Donation, Receipt, Terms, TransplantRequest
from not_core.surgery import organ as organs
from not_core.trust import authority, federation, keys
from not_core.trust.offer import Offer, peek_offer
from not_core.trust.profile import Profile, read_request

TERMS = Terms(span=Span(start=2, stop=4), rank=2, tokens=9_000, learning_rate=1e-3, seed=0)
POLICY = Policy(release_organs="always", epsilon=4.0, units_per_step=8)


class Members:
    """A hospital with 200 records, and a clinic, on a tiny model."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, str(model)
        authority.create_root(place / "root", "regional")

    def member(self, name: str, policy: Policy, count: int, **more: Any) -> Site:
        records = write_jsonl(self.place / f"{name}.jsonl", sentences(count, len(name)))
        general = write_jsonl(self.place / "general.jsonl", sentences(12, 2))
        settings = {"site": name, "model": self.model, "domain": "care", "records": str(records)}
        settings |= {"general": str(general), "held_out": 30} | more
        home = self.place / name
        site_home.create(home, site_home.settings(settings), policy)
        request = read_request(home / "identity" / keys.REQUEST)
        profile = authority.admit(self.place / "root", request)
        keys.install(home / "identity", profile, federation.load_trust(self.place / "root"))
        return site_home.load(home)


@pytest.fixture
def members(tmp_path: Path, models: dict[str, Path]) -> Members:
    return Members(tmp_path, models["llama"])


def ask(site: Site, to: Site, terms: Terms = TERMS) -> Donation:
    request = DonateRequest(exchange="trial", terms=terms, addressees=(to.identity.profile,))
    return donor.donate(site, request, b"")[0]


def manifest_of(site: Site, donation: Donation) -> Manifest:
    digest = peek_offer(donation.offer.encode()).organ_digest
    return organs.read_manifest(site.folder / "organs" / "made" / digest)


def hand_over(site: Site, to: Site, donation: Donation) -> str:
    digest = peek_offer(donation.offer.encode()).organ_digest
    asked = protocol.SegmentRequest(
        exchange="trial", organ=digest, offset=0, length=donation.sealed_bytes
    )
    delivery = protocol.DeliverRequest(
        exchange="trial",
        organ=digest,
        offset=0,
        sealed_bytes=donation.sealed_bytes,
        sealed_sha256=donation.sealed_sha256,
    )
    recipient.deliver(to, delivery, donor.segment(site, asked, b"")[1])
    return digest


def test_a_private_donation_is_charged_stated_kept_and_taken(members: Members) -> None:
    hospital = members.member("hospital", POLICY, 200)
    clinic = members.member(
        "clinic", Policy(most_epsilon_taken=4.0, least_documents=5), 60, held_out=20
    )
    donation = ask(hospital, clinic)
    stated = manifest_of(hospital, donation).privacy
    assert isinstance(stated, DifferentialPrivacy)
    assert 3 < stated.epsilon <= 4
    assert (stated.unit, stated.delta, stated.units_per_step) == ("record", 1e-6, 8)
    assert donation.privacy == stated.words
    assert (donation.steps, donation.tokens) == (stated.steps, stated.steps * 8 * 256)

    (charge,) = hospital.ledger.reservations()
    assert (charge.state, charge.charge.label) == ("settled", "organ")
    assert charge.charge.count == len(own_units(hospital).train) < 200
    assert charge.charge.epsilon == pytest.approx(stated.epsilon)
    assert not list(hospital.folder.glob("work/*.safetensors"))

    again = ask(hospital, clinic)
    assert peek_offer(again.offer.encode()) == peek_offer(donation.offer.encode())
    with pytest.raises(LedgerError, match="bound is 4") as caught:
        ask(hospital, clinic, replace(TERMS, seed=7))
    assert caught.value.code == "ledger"
    assert hospital.ledger.reservations() == [charge]

    organ = hand_over(hospital, clinic, donation)
    request = TransplantRequest(exchange="trial", organ=organ, mode="replace")
    trial, _ = recipient.transplant(clinic, request, b"")
    payload = receipt_in(trial)
    assert payload["verdict"] in {"accepted", "rejected"}
    for name, digits in reveals.DIGITS.items():
        for value in payload[name] if name == "interval" else [payload[name]]:
            assert name == "reason" or value == round(value, digits), name
    own, _ = recipient.transplant(hospital, request, b"")
    assert receipt_in(own)["documents"] == len(own_units(hospital).held_out)

    strict = replace(clinic, policy=Policy(most_epsilon_taken=1.0))
    with pytest.raises(PolicyError, match="takes epsilon 1"):
        recipient.transplant(strict, replace(request, mode="insert"), b"")


def receipt_in(trial: protocol.Trial) -> dict[str, Any]:
    payload = base64.b64decode(json.loads(trial.receipt)["payload"])
    return dict(json.loads(payload))


def test_what_was_paid_for_is_not_lost_before_it_is_written(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = members.member("hospital", POLICY, 200)
    clinic = members.member("clinic", Policy(), 60)

    def full(*words: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as disk:
        disk.setattr(donor, "_keep", full)
        with pytest.raises(OSError, match="no space"):
            ask(hospital, clinic)
    (charge,) = hospital.ledger.reservations()
    assert charge.state == "settled"
    ask(hospital, clinic)
    assert hospital.ledger.reservations() == [charge]
    assert not list(hospital.folder.glob("work/*.safetensors"))


def test_an_organ_that_states_too_little_is_not_signed(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = members.member("hospital", POLICY, 200)

    def understated(privacy: DifferentialPrivacy) -> None:
        raise PrivacyError("the organ claims less than its own numbers give")

    monkeypatch.setattr(donor, "check_statement", understated)
    with pytest.raises(PrivacyError):
        ask(hospital, hospital)
    assert not list(hospital.folder.glob("organs/made/*"))


def test_each_organ_costs_what_the_policy_gives_it(members: Members) -> None:
    policy = replace(POLICY, epsilon=6.0, epsilon_per_organ=3.0)
    hospital = members.member("hospital", policy, 200)
    clinic = members.member("clinic", Policy(), 60)
    for seed in (0, 1):
        stated = manifest_of(hospital, ask(hospital, clinic, replace(TERMS, seed=seed))).privacy
        assert isinstance(stated, DifferentialPrivacy)
        assert stated.epsilon <= 3
    # With other terms for one organ it is another organ, and is charged.
    other = replace(hospital, policy=replace(policy, epsilon=50.0, epsilon_per_organ=1.0))
    ask(other, clinic)
    assert len(hospital.ledger.reservations()) == 3


def test_organs_that_wait_are_so_many_and_then_no_other_is_trained(members: Members) -> None:
    hospital = members.member("hospital", Policy(most_made=2), 60)
    clinic = members.member("clinic", Policy(), 60)

    def made() -> list[str]:
        return sorted(one.name for one in hospital.folder.glob("organs/made/" + "[0-9a-f]" * 64))

    def begun() -> int:
        return sum(one.event == donor.TRAINING for one in hospital.log.entries())

    few = replace(TERMS, tokens=500)
    for seed in (0, 1):
        with pytest.raises(PolicyError, match="waits for approval"):
            ask(hospital, clinic, replace(few, seed=seed))
    before = made()
    assert (len(before), begun()) == (2, 2)
    with pytest.raises(PolicyError, match="2 organs wait for approval, the policy allows 2"):
        ask(hospital, clinic, replace(few, seed=2))
    assert (made(), begun()) == (before, 2)
    # One that there is already is still offered, once it is approved; and there is room again.
    donor.decide(hospital, before[0], "approved")
    offered = set()
    for seed in (0, 1):
        with suppress(PolicyError):
            offer = peek_offer(ask(hospital, clinic, replace(few, seed=seed)).offer.encode())
            offered.add(offer.organ_digest)
    assert offered == {before[0]}
    with pytest.raises(PolicyError, match="waits for approval"):
        ask(hospital, clinic, replace(few, seed=2))
    assert (len(made()), begun()) == (3, 3)
    with pytest.raises(PolicyError, match="2 organs wait for approval"):
        ask(hospital, clinic, replace(few, seed=3))
    ask(replace(hospital, policy=Policy(release_organs="always")), clinic, replace(few, seed=3))


def test_passes_are_bounded_by_planned_numbers(members: Members) -> None:
    hospital = members.member("hospital", replace(POLICY, most_passes=0.1), 200)
    clinic = members.member("clinic", Policy(), 60)
    with pytest.raises(PolicyError, match=r"the records have \d+"):
        ask(hospital, clinic)
    assert hospital.ledger.reservations() == []


def test_what_cannot_be_private_is_refused_by_its_code(members: Members) -> None:
    few = members.member("few", replace(POLICY, units_per_step=500), 100)
    with pytest.raises(NotError, match="draw fewer") as caught:
        ask(few, few)
    assert caught.value.code == "privacy"


def test_subjects_are_split_whole(members: Members, tmp_path: Path) -> None:
    hospital = members.member("hospital", POLICY, 200, unit_field="who", held_out=100)
    texts = sentences(200, 3)
    rows = [{"text": text, "who": f"patient {i % 60}"} for i, text in enumerate(texts)]
    (tmp_path / "hospital.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = own_units(hospital)
    trained = {text for unit in split.train for text in unit.texts}
    away = {row["who"] for row in rows if row["text"] in split.held_out}
    assert {row["who"] for row in rows if row["text"] in trained}.isdisjoint(away)
    assert len(trained) + len(split.held_out) == 200
    assert set(held_out_texts(hospital)) == set(split.held_out)
    assert hospital.unit == "subject"


def test_a_unit_keeps_its_side_as_records_come_and_go(members: Members, tmp_path: Path) -> None:
    hospital = members.member("hospital", POLICY, 200)
    before = own_units(hospital)
    write_jsonl(tmp_path / "hospital.jsonl", [*sentences(200, 8)[50:], *sentences(900, 5)])
    after = own_units(hospital)
    assert len(after.train) > 2 * len(before.train)
    assert not set(after.held_out) & {unit.texts[0] for unit in before.train}
    assert not set(before.held_out) & {unit.texts[0] for unit in after.train}


def test_an_organ_is_not_measured_by_another_split_than_it_was_trained_under(
    members: Members,
) -> None:
    hospital = members.member("hospital", replace(POLICY, epsilon=None), 200)
    clinic = members.member("clinic", Policy(), 60)
    organ = hand_over(hospital, clinic, ask(hospital, clinic))
    later = replace(hospital, policy=POLICY)
    request = TransplantRequest(exchange="trial", organ=organ, mode="replace")
    with pytest.raises(PolicyError, match="trained by document, its records are split by record"):
        recipient.transplant(later, request, b"")


def test_a_policy_for_one_organ_needs_one_for_all(tmp_path: Path) -> None:
    for table in ({"epsilon_per_organ": 1.0}, {"epsilon": 1.0, "epsilon_per_organ": 2.0}):
        with pytest.raises(HomeError, match="an epsilon that bounds all organs"):
            site_home.policy(table)


def test_the_operator_sees_what_is_spent_and_left(
    members: Members, call: Callable[..., tuple[int, str, str]]
) -> None:
    hospital = members.member("hospital", replace(POLICY, release_organs="ask"), 200)
    clinic = members.member("clinic", Policy(), 60)
    with pytest.raises(PolicyError, match="waits for approval"):
        ask(hospital, clinic)
    code, out, err = call("pending", hospital.folder, "--json", app=commands.app)
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["privacy"].startswith("epsilon ")
    assert 3 < row["epsilon spent"] <= 4
    assert row["epsilon spent"] + row["epsilon left"] == pytest.approx(4)
    facts = json.loads(call("status", hospital.folder, "--json", app=commands.app)[1])
    assert facts["privacy"]["epsilon spent"] == row["epsilon spent"]
    facts = json.loads(call("status", clinic.folder, "--json", app=commands.app)[1])
    assert facts["privacy"] == "none"
    assert not (clinic.folder / "ledger.db").exists()


@pytest.mark.parametrize("epsilon", [4.0, None])
def test_an_organ_is_audited_where_the_policy_says_so(
    epsilon: float | None, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = replace(POLICY, release_organs="ask", epsilon=epsilon, audit_canaries=40)
    hospital, clinic = members.member("hospital", policy, 200), members.member("clinic", POLICY, 60)
    with pytest.raises(PolicyError, match="approval"):
        ask(hospital, clinic)
    (made,) = donor.pending(hospital)
    report = donor.audit(hospital, made)
    assert report is not None
    assert (made.audit, report.canaries) == (report.digest, 40)
    assert report.verdict == ("too weak to tell" if epsilon else "no claim")
    assert not (hospital.folder / "work" / "canaries.seed").exists()
    if epsilon:  # canaries are nobody's, and cost nobody anything
        (charge,) = hospital.ledger.reservations()
        assert charge.charge.count == len(own_units(hospital).train)

    dossier = Views(hospital.folder).dossier(made.digest)
    assert dossier is not None
    assert dossier.audit == report
    donor.decide(hospital, made.digest, "approved")
    contradicts = replace(report, verdict="contradicts the claim")
    monkeypatch.setattr(donor, "audit", lambda site, manifest: contradicts)
    with pytest.raises(PolicyError, match="contradicts the privacy"):
        ask(hospital, clinic)
    monkeypatch.undo()
    assert manifest_of(hospital, ask(hospital, clinic)) == made


def test_a_home_is_made_with_privacy(
    call: Callable[..., tuple[int, str, str]], models: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"text": text, "who": "a"} for text in sentences(5, 1)]
    records = tmp_path / "r.jsonl"
    records.write_text("\n".join(map(json.dumps, rows)))
    words = (
        *("init", "--site", "lab", "--model", models["llama"], "--records", records),
        *("--general", records, "--domain", "medicine", "--unit-field", "who"),
    )
    code, _, err = call(*words, tmp_path / "home", app=commands.app)
    assert (code, "--dp-epsilon" in err) == (2, True)
    code, _, err = call(*words, "--dp-epsilon", "-1", tmp_path / "home", app=commands.app)
    assert (code, "epsilon" in err) == (1, True)
    more = ("--unprotected", "--dp-epsilon", 8, "--dp-epsilon-per-organ", 2, "--dp-delta", 1e-7)
    assert call(*words, *more, tmp_path / "home", app=commands.app)[0] == 0
    settings, policy = site_home.settings_of(tmp_path / "home")
    assert settings.unit_field == "who"
    assert (policy.epsilon, policy.epsilon_per_organ, policy.delta) == (8, 2, 1e-7)


def test_every_field_that_leaves_has_words(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A field that is added to a value that leaves is added to the list, or this fails."""
    for value, words in reveals.WORDS.items():
        assert set(words) == {field.name for field in fields(value)}, value.__name__
    names = {value.__name__ for value in reveals.WORDS}
    assert names >= set(WORDS) | {"Refusal"}
    assert {Profile, Offer, Receipt, Manifest} <= set(reveals.WORDS)
    assert set(reveals.DIGITS) <= set(reveals.WORDS[Receipt])

    settings = {"site": "lab", "model": "m", "records": "r", "general": "g", "domain": "care"}
    policy = Policy(least_documents=17)
    site_home.create(tmp_path / "home", site_home.settings(dict(settings)), policy)
    code, out, _ = call("reveals", tmp_path / "home", "--json", app=commands.app)
    rows = {(row["value"], row["field"]): row for row in json.loads(out)}
    assert code == 0
    assert len(rows) == sum(map(len, reveals.WORDS.values()))
    rounding = rows["Receipt", "change"]["rounding"]
    assert rounding == "to 0.001; no receipt on fewer than 17 documents"
    assert "planned" in rows["Donation", "tokens"]["says"]
    assert "root of 2" in rows["Manifest", "privacy"]["says"]
    assert rows["Manifest", "training"]["reader"] == "addressees"
    assert all(row["says"] for row in rows.values())


def test_the_same_terms_bring_the_same_organ_however_the_records_have_changed(
    members: Members,
) -> None:
    """Whether an organ is made anew is seen by the coordinator, and no epsilon is of that."""
    hospital, clinic = members.member("hospital", POLICY, 200), members.member("clinic", POLICY, 60)
    before = peek_offer(ask(hospital, clinic).offer.encode()).organ_digest
    records = Path(hospital.settings.records)
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[1:]))
    assert peek_offer(ask(hospital, clinic).offer.encode()).organ_digest == before
    assert len(hospital.ledger.reservations()) == 1
