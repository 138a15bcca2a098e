"""Expulsion, rotation and the air gap, through whole exchanges."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import federation_of_three
from exchanges import by_hand
from flwr.app import Message

import client.commands
import server.commands
from client import by_hand as carried
from client import donor
from client import home as site_home
from not_core import canonical, protocol
from not_core.errors import PolicyError
from not_core.protocol import Receipt
from not_core.trust import authority, federation, keys
from not_core.trust.log import Log
from not_core.trust.profile import read_profile, read_request
from not_core.trust.register import read_register
from not_core.trust.statement import claimed_payload
from simulations.federation import exchange as simulation
from simulations.federation.facts import gather


@pytest.fixture(scope="module")
def trained(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> simulation.Scenario:
    """A prepared exchange whose donors have trained already; only copies of it are used."""
    with pytest.MonkeyPatch.context() as patch:
        make = federation_of_three(tmp_path_factory.mktemp("trained"), models["llama"], patch)
        scenario = make("homes")
        simulation.prepare(scenario)
    clinic = read_profile(scenario.home("clinic") / "identity" / keys.PROFILE)
    request = protocol.DonateRequest(exchange="trial", terms=scenario.terms, addressees=(clinic,))
    for name in ("hospital", "court"):
        donor.donate(site_home.load(scenario.home(name)), request, b"")
        shutil.rmtree(scenario.home(name) / "organs" / "sealed")
    return scenario


@pytest.fixture
def scenario(trained: simulation.Scenario, tmp_path: Path) -> simulation.Scenario:
    shutil.copytree(trained.homes, tmp_path / "homes")
    return replace(trained, homes=tmp_path / "homes")


def revoke(scenario: simulation.Scenario, site: str, reason: str = "key-compromise") -> None:
    """The federation expels a site and hands the list to the coordinator."""
    fed = scenario.homes / "federation"
    authority.revoke(fed, site, reason)
    keys.install_list(scenario.coordinator, federation.load_trust(fed).revoked)


def verdicts(scenario: simulation.Scenario) -> dict[tuple[str, str], str]:
    found = gather(scenario)["evaluations"]
    return {(one["donor"], one["recipient"]): one["verdict"] for one in found}


def test_an_expelled_site_is_out_and_all_others_know(scenario: simulation.Scenario) -> None:
    revoke(scenario, "court")
    by_hand(scenario)
    assert set(verdicts(scenario)) == {("hospital", "hospital"), ("hospital", "clinic")}
    codes = [(one["step"], one["code"]) for one in gather(scenario)["failures"]]
    assert codes == [("enrol", "revoked")]
    for name in ("hospital", "clinic"):
        site = site_home.load(scenario.home(name))
        assert site.trust.revoked.number == 2
        events = [one.what for one in site.log.entries() if one.event == "installed"]
        assert events == ["revocation list 2"]


def test_all_that_leaves_is_in_the_sites_logs(scenario: simulation.Scenario) -> None:
    came: Counter[str] = Counter()

    def on_reply(message: Message) -> Message:
        packet = protocol.unpack(message.content)
        came[canonical.sha256(bytes(packet.value) + bytes(packet.body))] += 1
        return message

    by_hand(scenario, on_reply=on_reply)
    logs = [Log(home / "log.db").entries() for home in (scenario.homes / "sites").iterdir()]
    told = Counter(row.digest for log in logs for row in log if row.event == "released")
    assert came == told
    assert came.total() > 12  # a list, an enrolment, offers, segments, receipts of three sites


def test_an_organ_of_a_site_that_is_expelled_meanwhile_is_refused(
    scenario: simulation.Scenario,
) -> None:
    """It was sealed, offered and delivered before; the recipients heard of it another way."""
    fed = scenario.homes / "federation"

    def on_request(message: Message) -> Message | None:
        if message.metadata.message_type == protocol.TRANSPLANT:
            if read_register(fed).list_number == 1:
                authority.revoke(fed, "court", "key-compromise")
            found = federation.load_trust(fed).revoked
            keys.install_list(scenario.home("clinic") / "identity", found)
        return message

    by_hand(scenario, on_request=on_request)
    assert ("court", "clinic") not in verdicts(scenario)
    assert verdicts(scenario)["hospital", "clinic"] == "accepted"
    failures = gather(scenario)["failures"]
    assert {"site": "clinic", "step": "transplant", "code": "revoked"} in failures
    opened = [path.name for path in scenario.home("clinic").glob("organs/opened/*")]
    assert len(opened) == 1


def test_a_coordinator_that_withholds_the_list_is_found_out(
    scenario: simulation.Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = scenario.home("hospital") / "policy.toml"
    policy.write_text(policy.read_text().replace("days = 7.0", "days = 0.0"))
    fed = scenario.homes / "federation"
    now = federation.load_trust(fed).revoked.due + 3600
    authority.publish(fed, now=now - 60)  # which the coordinator does not hand on
    monkeypatch.setattr("time.time", lambda: now)
    by_hand(scenario)
    failures = [(one["site"], one["step"], one["code"]) for one in gather(scenario)["failures"]]
    assert ("hospital", "donate", "stale-list") in failures
    assert ("court", "hospital") not in verdicts(scenario)
    assert verdicts(scenario)["court", "clinic"] == "rejected"  # a week of grace there

    keys.install_list(scenario.coordinator, federation.load_trust(fed).revoked)
    by_hand(scenario)
    assert verdicts(scenario)["hospital", "clinic"] == "accepted"


def test_a_coordinator_with_an_old_list_changes_nothing(scenario: simulation.Scenario) -> None:
    fed = scenario.homes / "federation"
    authority.revoke(fed, "court", "key-compromise")
    for name in ("hospital", "clinic"):
        keys.install_list(scenario.home(name) / "identity", federation.load_trust(fed).revoked)
    by_hand(scenario)  # the coordinator knows nothing: it offers court, and sends the old list
    codes = {(one["step"], one["code"]) for one in gather(scenario)["failures"]}
    assert codes == {("revoke", "stale-list"), ("donate", "revoked"), ("transplant", "revoked")}
    assert verdicts(scenario).keys() <= {("hospital", "hospital"), ("court", "court")}
    assert site_home.load(scenario.home("clinic")).trust.revoked.number == 2


def test_rotated_keys_take_part_with_the_organs_that_they_had(
    scenario: simulation.Scenario,
) -> None:
    by_hand(scenario)
    before = gather(scenario)
    fed = scenario.homes / "federation"
    for name in ("hospital", "clinic"):
        identity = scenario.home(name) / "identity"
        keys.rotate(identity)
        profile = authority.admit(fed, read_request(identity / "request.json"), again=True)
        keys.install(identity, profile, federation.load_trust(fed))
        revoke(scenario, name, "superseded")
    by_hand(scenario)
    after = gather(scenario)
    assert after["failures"] == []
    assert {one["digest"] for one in after["organs"]} == {one["digest"] for one in before["organs"]}
    made = scenario.home("hospital") / "organs" / "made"
    assert len([path for path in made.iterdir() if path.is_dir()]) == 1
    assert after["evaluations"] == before["evaluations"]

    clinic = scenario.home("clinic")
    shutil.rmtree(clinic / "receipts")
    shutil.rmtree(clinic / "organs" / "opened")
    by_hand(scenario)
    assert gather(scenario)["failures"] == []
    assert gather(scenario)["evaluations"] == before["evaluations"]


def test_an_organ_carried_by_hand_gets_the_same_verdict(
    scenario: simulation.Scenario, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    clinic, copy = scenario.home("clinic"), tmp_path / "clinic-without-network"
    shutil.copytree(clinic, copy)
    by_hand(scenario)
    for organ in gather(scenario)["organs"]:
        path, start = tmp_path / f"{organ['digest']}.organ", organ["digest"][:12]
        words = ("export", scenario.coordinator, start, "--exchange", "trial", "--out", path)
        assert call(*words, app=server.commands.app)[0] == 0
        assert call(*words, app=server.commands.app)[0] == 1, "it is there"
        receipt = tmp_path / "receipt.json"
        code, out, err = call(
            *("receive", copy, path, "--receipt", receipt, "--json"), app=client.commands.app
        )
        assert code == 0, err
        (through,) = clinic.glob(f"receipts/trial/{path.stem}-*.json")
        told = canonical.decode(Receipt, claimed_payload(through.read_bytes()), "receipt")
        brought = canonical.decode(Receipt, claimed_payload(receipt.read_bytes()), "receipt")
        assert brought == told
        assert json.loads(out)["verdict"] == told.verdict
    names = [{one.name for one in home.glob("organs/opened/*")} for home in (clinic, copy)]
    assert names[0] == names[1]
    assert len(names[0]) == 1


def test_an_organ_is_offered_by_hand_and_received(
    scenario: simulation.Scenario, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    hospital = scenario.home("hospital")
    policy = hospital / "policy.toml"
    policy.write_text(policy.read_text().replace('"always"', '"ask"'))
    (made,) = [path.name for path in hospital.glob("organs/made/*") if path.is_dir()]
    profile = scenario.home("clinic") / "identity" / "site.profile"
    out = tmp_path / "x.organ"
    words = ("offer", hospital, made[:10], "--to", profile, "--out", out)
    code, _, err = call(*words, app=client.commands.app)
    assert (code, "waits for approval" in " ".join(err.split())) == (1, True)
    assert not out.exists()
    assert call("approve", hospital, made, app=client.commands.app)[0] == 0
    assert call(*words, app=client.commands.app)[0] == 0
    site = site_home.load(hospital)
    (row,) = [one for one in site.log.entries() if one.what == "sealed organ"]
    assert (row.event, row.digest) == ("released", canonical.sha256_file(out))
    receipt, _ = carried.receive(site_home.load(scenario.home("clinic")), out, "replace")
    assert (receipt.organ, receipt.exchange, receipt.verdict) == (made, "by-hand", "accepted")
    code, _, err = call("receive", scenario.home("court"), out, app=client.commands.app)
    assert (code, "not to court" in " ".join(err.split())) == (1, True)
    narrow = replace(site, policy=replace(site.policy, addressees=("court",)))
    with pytest.raises(PolicyError, match="clinic is not one"):
        carried.offer(narrow, made, [read_profile(profile)], "by-hand", 1, tmp_path / "y")


def test_the_coordinators_command_takes_in_a_list(
    scenario: simulation.Scenario, call: Callable[..., tuple[int, str, str]]
) -> None:
    fed, app = scenario.homes / "federation", server.commands.app
    old = (fed / "federation.crl").read_bytes()
    authority.revoke(fed, "court", "privilege-withdrawn")
    code, out, _ = call("crl", scenario.coordinator, fed / "federation.crl", "--json", app=app)
    assert (code, json.loads(out)["revocation_list"], json.loads(out)["revoked"]) == (0, 2, 1)
    (fed / "federation.crl").write_bytes(old)
    code, _, err = call("crl", scenario.coordinator, fed / "federation.crl", app=app)
    assert (code, "may hide a revocation" in " ".join(err.split())) == (1, True)
