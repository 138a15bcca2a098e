"""The exchange as it is deployed: real servers over TLS on loopback, and who must not get in."""

import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import federation_of_three
from exchanges import MARKS, by_hand
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from metrics import figures

import client.commands
import server.commands
from client import home as site_home
from client import service as site_service
from not_core import canonical
from not_core.errors import CertificateError, RevokedError, ServiceError
from not_core.protocol import Enrolment, Receipt, SignedEnrolment
from not_core.service import supervisor, tls
from not_core.service.flower import command
from not_core.trust import authority, keys, revocation
from not_core.trust.federation import load_trust
from not_core.trust.profile import read_request
from not_core.trust.revocation import LIST
from not_core.trust.statement import claimed_payload
from server import claims, service
from server import home as coordinator_home
from simulations.federation import exchange as simulation
from simulations.federation.leaks import Needles, search
from simulations.federation.served import Deployment, until

CARRIED = "clinic-without-network"
"""Copy of the clinic's home, beside the homes, from before it was served."""


@pytest.fixture(scope="module")
def exchanged(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, simulation.Scenario]]:
    """Three sites and a coordinator that are served and have exchanged; and a simulation of it."""
    place = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make = federation_of_three(place, models["llama"], monkeypatch)
        simulated, served = make("simulated"), make("served")
        for one in (simulated, served):
            simulation.prepare(one)
    shutil.copytree(served.home("clinic"), place / CARRIED)
    by_hand(simulated)
    deployment = Deployment(served)
    with deployment.serving():
        deployment.begin("trial")
        assert deployment.waited("trial") == "completed"
        yield deployment, simulated


@contextmanager
def replaced(
    deployment: Deployment, home: Path, statement: str, environment: dict[str, str]
) -> Iterator[None]:
    """Another coordinator or site in the place of ours: the same but for one statement."""
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])
    deployment.stop(home)
    try:
        deployment.start(home, statement, environment)
        deployment.wait_for_gateway()
        yield
    finally:
        deployment.stop(home)
        deployment.start(home)
        deployment.wait_for_gateway()


def outcome(home: Path) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Organ digests by donor, and verdicts by donor and recipient."""
    coordinator = coordinator_home.load(home)
    try:
        organs = {donor: digest for digest, donor, _ in coordinator.catalogue.donations("trial")}
        receipts = coordinator.catalogue.receipts("trial")
    finally:
        coordinator.catalogue.close()
    return organs, {(one.donor, one.recipient): one.verdict for one in receipts}


def test_servers_come_to_what_a_simulation_comes_to(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    deployment, simulated = exchanged
    organs, verdicts = outcome(deployment.coordinator)
    assert (organs, verdicts) == outcome(simulated.coordinator)
    assert organs.keys() == {"hospital", "court"}
    assert len(verdicts) == 6


def test_nothing_readable_is_at_the_coordinator(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    """Its catalogue, its bank, Flower's state with every message, and all logs."""
    deployment, _ = exchanged
    homes = deployment.sites.values()
    organs = [path for home in homes for path in home.glob("organs/made/*/organ.safetensors")]
    needles = Needles(MARKS, organs)
    logs = [home / name for home in homes for name in ("logs", "site.log", "log.db", "run")]
    outside = [deployment.coordinator, *(path for path in logs if path.exists())]
    found = search(outside, needles)
    assert (found.sentences, found.organ_blocks) == (0, 0)
    assert found.files > 20
    inside = search([deployment.scenario.homes.parent / "hospital.jsonl", *organs], needles)
    assert inside.sentences == len(MARKS)
    assert inside.organ_blocks > 0


def test_flower_listens_to_its_own_machine_only(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    """Whatever a deployment listens on besides: its control and runtime ask nobody who they are."""
    deployment, _ = exchanged
    heard = {}
    for home in (deployment.coordinator, *deployment.sites.values()):
        serving = supervisor.served_by(home)
        assert serving is not None
        for process in (one := psutil.Process(serving), *one.children(recursive=True)):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    heard[each.laddr.port] = each.laddr.ip
    served = deployment.service
    assert {served.port, served.flower_port} <= heard.keys()
    assert len(heard) >= 2 + len(deployment.sites), "of each site, its node"
    assert set(heard.values()) == {"127.0.0.1"}
    written = service.load(deployment.coordinator)
    elsewhere = service.programs(deployment.coordinator, replace(written, listen="192.0.2.1"))
    assert not [one.name for one in elsewhere if "192.0.2.1" in one.command]


def test_the_gateway_passes_on_nothing_but_a_sites_calls(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    deployment, _ = exchanged
    own = ssl.create_default_context(cafile=str(deployment.coordinator / "tls.pem"))
    with httpx.Client(base_url=f"https://{deployment.address}", verify=own) as client:
        for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs", "/"):
            assert client.post(path).status_code == 404
        nobody = client.post(
            "/v1/fleet/pull-messages",
            content=b"",
            headers={"content-type": PROTOBUF_MEDIA_TYPE},
        )
        assert nobody.status_code == 401
    with (
        httpx.Client(base_url=f"https://{deployment.address}") as stranger,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE"),
    ):
        stranger.post("/v1/fleet/pull-messages")


def test_a_node_that_nobody_admitted_and_a_wrong_coordinator_are_refused(
    exchanged: tuple[Deployment, simulation.Scenario], tmp_path: Path
) -> None:
    deployment, _ = exchanged
    clinic = deployment.sites["clinic"] / "node"
    stranger = tmp_path / "stranger.key"
    stranger.write_bytes(site_service.node_key())
    tls.create(tmp_path / "other.pem", tmp_path / "other.key", ["127.0.0.1"])
    for key, certificate, reason in (
        (stranger, deployment.coordinator / "tls.pem", b"[code: 2004]"),  # an unknown key
        (clinic / "key", tmp_path / "other.pem", b"CERTIFICATE_VERIFY_FAILED"),
    ):
        arguments = (
            *("--superlink", deployment.address, "--max-retries", "1"),
            *("--root-certificates", str(certificate)),
            *("--auth-supernode-private-key", str(key)),
            *("--isolation", "process", "--port", str(supervisor.free_port())),
        )
        node = command("supernode", str(tmp_path / "beat"), "1", *arguments)
        done = subprocess.run(node, capture_output=True, timeout=60)  # noqa: S603
        assert done.returncode != 0
        assert reason in done.stdout + done.stderr
    log = (deployment.sites["clinic"] / "logs" / "supernode.log").read_bytes()
    assert b"SuperNode ID" in log, "the clinic's own, with both, was let in"


def test_a_node_is_admitted_on_a_members_word_only(
    exchanged: tuple[Deployment, simulation.Scenario], tmp_path: Path
) -> None:
    deployment, simulated = exchanged
    coordinator = coordinator_home.load(deployment.coordinator)
    try:
        theirs = (deployment.sites["clinic"] / "node" / "admission").read_bytes()
        assert service.admit(coordinator, theirs)[0] == "clinic", "again, it changes nothing"
        other = Deployment(simulated).sites["clinic"] / "node" / "admission"
        with pytest.raises(CertificateError):
            claims.admission(other.read_bytes(), coordinator.trust)
    finally:
        coordinator.catalogue.close()


EVIL = """
import os, pathlib
pathlib.Path(os.environ["ORGAN_HOSTILE_MARK"], "ran").write_text("code of the run")
from flwr.clientapp import ClientApp
app = ClientApp()
"""


def test_a_hostile_coordinator_runs_no_code_at_a_site_and_is_told_nothing(
    exchanged: tuple[Deployment, simulation.Scenario], tmp_path: Path
) -> None:
    """It brings a bundle with other code under our names, and asks for what no site answers."""
    deployment, _ = exchanged
    home = deployment.coordinator
    environment = {"ORGAN_HOSTILE_MARK": str(tmp_path)}
    with replaced(deployment, home, "server.service.APP = 'hostile_server:app'", environment):
        pyproject = (
            '[project]\nname = "evil"\nversion = "1"\ndescription = "x"\nlicense = "MIT"\n'
            '[tool.flwr.app]\npublisher = "evil"\n[tool.flwr.app.components]\n'
            'serverapp = "client.app:app"\nclientapp = "client.app:app"\n'
        )
        bundle, _ = build_fab_from_files(
            {
                "pyproject.toml": pyproject.encode(),
                "client/__init__.py": EVIL.encode(),
                "client/app.py": EVIL.encode(),
                "not_core/__init__.py": EVIL.encode(),
            }
        )
        fab = Fab(canonical.sha256(bundle), bundle, {})
        with service.control_of(home)._client() as client:
            client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        until((tmp_path / "replies.json").is_file, 240, "replies to a hostile coordinator")
    replies = json.loads((tmp_path / "replies.json").read_text())
    assert not (tmp_path / "ran").exists()
    assert len(replies) == 12
    for kind, answer, text in replies:
        if kind == "query.enrol" and answer == "SignedEnrolment":
            signed = canonical.decode(SignedEnrolment, text.encode(), "reply")
            payload = claimed_payload(signed.envelope.encode())
            assert canonical.decode(Enrolment, payload, "enrolment").exchange == "hostile"
        elif kind == "query.enrol":
            assert (answer, text) == ("Refusal", '{"code":"format"}')
        else:
            assert (answer, text) == ("error", "see the site's own log")
    assert [answer for _, answer, _ in replies].count("SignedEnrolment") == 3


def test_a_monitor_says_that_all_is_well(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    deployment, _ = exchanged
    with httpx.Client(base_url=f"http://127.0.0.1:{deployment.service.monitor_port}") as client:
        health = client.get("/healthz")
        assert (health.status_code, set(health.json().values())) == (200, {"ok"})
        found = figures(client)
    assert found["organ_sites",] == 3
    assert found["organ_organs",] == 2
    assert found["organ_exchanges", "completed"] >= 1
    verdicts = [value for name, value in found.items() if name[0] == "organ_receipts"]
    assert sum(verdicts) == 6
    for program in ("superlink", "superexec", "keeper", "gateway"):
        assert found["organ_process_starts", program] >= 1
        assert found["organ_process_resident_bytes", program] > 20e6
        assert found["organ_process_open_files", program] >= 3


def test_what_a_hostile_coordinator_changes_is_believed_by_nobody(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    """A swapped key, an organ of an earlier exchange, one that lacks its end, an edited offer."""
    deployment, _ = exchanged
    home, statement = deployment.coordinator, "server.service.APP = 'tampering_server:app'"
    with replaced(deployment, home, statement, {}):
        for name in ("tampered", "edited"):
            deployment.begin(name)
            assert deployment.waited(name, 300) == "completed"
    donated = ("hospital", "donate")
    assert failed(deployment, "tampered") == {
        donated: "certificate",
        ("clinic", "transplant"): "audience",
        ("hospital", "transplant"): "truncated",
    }
    assert failed(deployment, "edited") == {
        donated: "certificate",
        ("clinic", "transplant"): "signature",
        ("hospital", "transplant"): "signature",
    }
    with coordinator_home.opened(home) as coordinator:
        for name in ("tampered", "edited"):
            receipts = coordinator.catalogue.receipts(name)
            assert [(one.donor, one.recipient) for one in receipts] == [("court", "court")]


def failed(deployment: Deployment, name: str) -> dict[tuple[str, str], str]:
    """Codes of what failed in the last run of an exchange, by site and step."""
    with coordinator_home.opened(deployment.coordinator) as coordinator:
        facts = coordinator.catalogue.last_run(name)
    assert facts is not None
    return {(one["site"], one["step"]): one["code"] for one in facts["failures"]}


def test_what_an_error_says_at_a_site_stays_there(
    exchanged: tuple[Deployment, simulation.Scenario], tmp_path: Path
) -> None:
    """An error in its work, and one in what Flower does with the answer."""
    deployment, _ = exchanged
    hospital, told = deployment.sites["hospital"], tmp_path / "told"
    words, statement = "words of planted patient 7341", "client.service.APP = 'bursting:app'"
    with replaced(deployment, hospital, statement, {"BURST": words, "BURST_FILE": str(told)}):
        deployment.begin("bursting")
        assert deployment.waited("bursting", 300) == "completed"
    assert told.exists()
    assert failed(deployment, "bursting") == {("hospital", "donate"): "internal"}
    planted = Needles([words], [])
    others = [home for name, home in deployment.sites.items() if name != "hospital"]
    assert search([deployment.coordinator, *others], planted).sentences == 0
    assert search([hospital / "site.log"], planted).sentences == 0


def test_carried_by_hand_an_organ_comes_to_what_flower_brought_it_to(
    exchanged: tuple[Deployment, simulation.Scenario],
    call: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    deployment, _ = exchanged
    clinic = deployment.scenario.homes.parent / CARRIED
    with coordinator_home.opened(deployment.coordinator) as coordinator:
        verdicts = {
            one.organ: one.verdict
            for one in coordinator.catalogue.receipts("trial")
            if one.recipient == "clinic"
        }
    assert len(verdicts) == 2
    for organ, verdict in verdicts.items():
        path, home = tmp_path / f"{organ}.organ", deployment.coordinator
        words = ("export", home, organ, "--exchange", "trial", "--out", path)
        assert call(*words, app=server.commands.app)[0] == 0
        code, out, err = call("receive", clinic, path, "--json", app=client.commands.app)
        assert code == 0, err
        assert json.loads(out)["verdict"] == verdict
        (through,) = deployment.sites["clinic"].glob(f"receipts/trial/{organ}-*.json")
        (brought,) = clinic.glob(f"receipts/*/{organ}-*.json")
        told = [
            canonical.decode(Receipt, claimed_payload(one.read_bytes()), "receipt")
            for one in (through, brought)
        ]
        assert told[0] == told[1]


def test_an_exchange_is_cancelled_and_sites_are_heard_of(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    deployment, _ = exchanged
    coordinator = coordinator_home.load(deployment.coordinator)
    catalogue = coordinator.catalogue
    try:
        deployment.begin("cancelled", sites=9)  # which do not come
        until(lambda: catalogue.schedule.unfinished()[0].run, 60, "a run of the exchange")
        catalogue.schedule.cancel("cancelled")
        assert deployment.waited("cancelled") == "cancelled"
        (begun,) = [one for one in catalogue.schedule.begun() if one.name == "cancelled"]
        control = service.control_of(deployment.coordinator)
        (run,) = [one for one in control.runs() if one.identifier == begun.run]
        assert (run.status, run.outcome) == ("finished", "stopped")
        assert set(catalogue.contacts()) >= set(deployment.sites)
    finally:
        catalogue.close()


def test_one_home_is_served_once(exchanged: tuple[Deployment, simulation.Scenario]) -> None:
    deployment, _ = exchanged
    for home in (deployment.coordinator, deployment.sites["clinic"]):
        with pytest.raises(ServiceError, match="served by another"), supervisor.held(home):
            pass


def rotated(deployment: Deployment, site: str) -> bytes:
    """Give a site new keys, revoke its old certificate, and return its renewed admission."""
    home, fed = deployment.sites[site], deployment.scenario.homes / "federation"
    keys.rotate(home / "identity")
    profile = authority.admit(fed, read_request(home / "identity" / "request.json"), again=True)
    keys.install(home / "identity", profile, load_trust(fed))
    authority.revoke(fed, site, "superseded")
    certificate = deployment.coordinator / "tls.pem"
    return site_service.connect(site_home.load(home), deployment.address, certificate).read_bytes()


def test_a_site_with_new_keys_keeps_its_node(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    """By a new admission of the same node, in time; afterwards by another node."""
    deployment, _ = exchanged
    coordinator = coordinator_home.load(deployment.coordinator)
    try:
        before = coordinator.catalogue.nodes()
        assert service.admit(coordinator, rotated(deployment, "court")) == (
            "court",
            before["court"][0],
        )
        late = rotated(deployment, "hospital")
        found = revocation.load(
            deployment.scenario.homes / "federation" / LIST, coordinator.trust.root
        )
        keys.install_list(deployment.coordinator, found)
        until(lambda: "hospital" not in coordinator.catalogue.nodes(), 30, "node of hospital")
        assert coordinator.catalogue.nodes().keys() == {"clinic", "court"}
        coordinator = replace(coordinator, trust=load_trust(deployment.coordinator))
        with pytest.raises(ServiceError, match="connect --new-key"):
            service.admit(coordinator, late)
        new = site_service.connect(
            site_home.load(deployment.sites["hospital"]),
            deployment.address,
            deployment.coordinator / "tls.pem",
            new_key=True,
        )
        site, node = service.admit(coordinator, new.read_bytes())
        assert (site, node == before["hospital"][0]) == ("hospital", False)
    finally:
        coordinator.catalogue.close()


def test_the_node_of_an_expelled_site_is_taken_back(
    exchanged: tuple[Deployment, simulation.Scenario],
) -> None:
    deployment, _ = exchanged
    federation = deployment.scenario.homes / "federation"
    authority.revoke(federation, "clinic", "privilege-withdrawn")
    coordinator = coordinator_home.load(deployment.coordinator)
    try:
        assert set(coordinator.catalogue.nodes()) == set(deployment.sites)
        found = revocation.load(federation / LIST, coordinator.trust.root)
        keys.install_list(deployment.coordinator, found)
        until(lambda: "clinic" not in coordinator.catalogue.nodes(), 30, "node of clinic")
        theirs = (deployment.sites["clinic"] / "node" / "admission").read_bytes()
        trust = coordinator_home.load(deployment.coordinator).trust
        with pytest.raises(RevokedError):
            claims.admission(theirs, trust)
    finally:
        coordinator.catalogue.close()
