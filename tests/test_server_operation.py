"""What an operator meets: ports that others have, homes that are served, and what health says."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pages import Members
from pages import asked as asked_for
from servers import in_thread
from starlette.applications import Starlette
from starlette.testclient import TestClient
from trust_world import World

from not_core import checkup
from not_core.errors import BankError
from not_core.service import supervisor, tls
from not_core.service.monitor import WELL
from not_core.service.supervisor import LOOPBACK, free_port
from server import commands, database, health, keeper, service, status, upgrade
from server import home as homes
from server.catalogue import Happened

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    found = Members(tmp_path)
    yield found
    found.coordinator.catalogue.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's home that can be served."""
    members = Members(tmp_path_factory.mktemp("operation"))
    members.exchange("spring")
    members.exchange("autumn")
    members.coordinator.catalogue.close()
    home = members.coordinator.folder
    ports = {name: free_port() for name in ("port", "flower_port", "monitor_port", "page_port")}
    service.create(home, service.Service(host="north.example", listen=LOOPBACK, **ports))
    return home


@pytest.mark.parametrize("setting", ["port", "flower_port", "page_port", "monitor_port"])
def test_nothing_starts_while_a_port_is_anothers(
    made: Path, call: Call, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(service, "ENDING_SECONDS", 0.0)
    port = getattr(service.load(made), setting)
    with socket.create_server((LOOPBACK, port)):
        code, _, said = call("start", made, app=commands.app)
    assert code == 1
    assert str(port) in said
    assert setting in said
    assert not (made / "logs").exists(), "nothing was started"


def test_a_port_of_what_is_being_ended_is_waited_for(made: Path) -> None:
    port = service.load(made).port
    code = f"import socket, time; s = socket.create_server(('{LOOPBACK}', {port})); time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", code]):  # noqa: S603
        while not supervisor.answers(LOOPBACK, port):
            time.sleep(0.05)
        service.refuse_taken(service.load(made))
        assert not supervisor.answers(LOOPBACK, port)


def test_a_home_that_is_served_is_neither_upgraded_nor_served_again(
    made: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROBE_SECONDS", 0.1)
    upgraded: list[Path] = []
    monkeypatch.setattr(upgrade, "upgrade", upgraded.append)
    with supervisor.held(made), socket.create_server((LOOPBACK, service.load(made).monitor_port)):
        code, _, said = call("start", made, app=commands.app)
    assert code == 1
    assert "served by another process" in said
    assert upgraded == []


@contextmanager
def encrypted(port: int, certificate: Path) -> Iterator[None]:
    """Something that answers there by TLS."""
    key = certificate.with_suffix(".key")
    config = uvicorn.Config(
        Starlette(), ws="none", ssl_certfile=certificate, ssl_keyfile=str(key), log_level="error"
    )
    with in_thread(uvicorn.Server(config), port):
        yield


def test_health_says_when_exchanges_are_not_looked_after(made: Path) -> None:
    client = TestClient(health.monitored(made, service.load(made)))

    def said() -> str:
        return str(client.get("/healthz").json()["keeper"])

    beat = keeper.beat_of(made)
    assert "logs/keeper.log" in said()
    beat.parent.mkdir(exist_ok=True)
    beat.touch()
    assert said() == WELL
    long_ago = time.time() - health.LOOKED_SECONDS - 1
    os.utime(beat, (long_ago, long_ago))
    assert "logs/keeper.log" in said()


def test_health_is_not_fooled_by_who_took_a_port(made: Path, tmp_path: Path) -> None:
    served = service.load(made)
    client = TestClient(health.monitored(made, served))
    tls.create(tmp_path / "other.pem", tmp_path / "other.key", [served.host, LOOPBACK])

    def said() -> tuple[str, str]:
        found = client.get("/healthz").json()
        return found["flower"], found["gateway"]

    def runs(**processes: int | None) -> None:
        rows = {name: {"pid": pid, "since": 0, "starts": 1} for name, pid in processes.items()}
        (made / "run" / supervisor.STATUS).write_text(json.dumps(rows))

    own = (made / "flower" / "loopback.pem", made / "tls.pem")
    with supervisor.held(made):
        runs(superlink=os.getpid(), gateway=os.getpid())
        assert all("nothing answers" in one for one in said())
        with encrypted(served.flower_port, own[0]), encrypted(served.port, own[1]):
            assert said() == (WELL, WELL)
            runs(superlink=None, gateway=None)
            assert said()[0] == "superlink does not run; see logs/superlink.log"
            assert said()[1] == "gateway does not run; see logs/gateway.log"
        runs(superlink=os.getpid(), gateway=os.getpid())
        other = tmp_path / "other.pem"
        with encrypted(served.flower_port, other), encrypted(served.port, other):
            assert "is not superlink" in said()[0]
            assert "is not gateway" in said()[1]


def test_status_says_who_is_there_and_why_nothing_came(
    members: Members, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    coordinator, home = members.coordinator, members.coordinator.folder
    catalogue, now = coordinator.catalogue, time.time()
    members.exchange("spring")
    for name, at in (("autumn", 4102444800.0), ("summer", 0.0), ("winter", 0.0)):
        catalogue.schedule.begin(asked_for(exchange=name), at)
    catalogue.schedule.running("winter", 1, now - 50)
    catalogue.schedule.ended("winter", "completed")
    for node, site in enumerate(("north", "south", "west"), 2**63):
        catalogue.admitted(site, node, b"word")
    catalogue.happened("winter", Happened(now - 100, "north", "donate", "timeout"))  # a run before
    catalogue.happened("winter", Happened(now - 20, "north", "enrol", ""))
    catalogue.happened("winter", Happened(now - 10, "north", "donate", "approval"))
    catalogue.happened("winter", Happened(now - 9, f"node-{2**63 + 2}", "enrol", "strange"))
    catalogue.heard(["south"], now - 3 * 86_400)

    def said(*words: str) -> Any:
        code, out, wrong = call("status", home, *words, "--json", app=commands.app)
        assert code == 0, wrong
        return json.loads(out)

    facts = said()
    assert facts["processes"] == "stopped"
    assert not any(one["online"] for one in facts["sites"]), "nobody hears them"
    with supervisor.held(home):
        (home / "run" / supervisor.STATUS).write_text('{"keeper": {"pid": 7}}')
        facts, human = said(), call("status", home, app=commands.app)[1]
    assert facts["processes"] == {"keeper": 7}
    sites = {one["site"]: (one["node"], one["heard"], one["online"]) for one in facts["sites"]}
    assert sites["north"] == (str(2**63), "just now", True)
    assert sites["south"][1:] == ("3 days ago", False)
    assert sites["west"][2] is False
    exchanges = {one.pop("exchange"): one for one in facts["exchanges"]}
    assert exchanges["autumn"]["state"] == "scheduled 2100-01-01 00:00 UTC"
    assert exchanges["summer"]["state"] == "waits for two sites"
    assert exchanges["spring"] | {"receipts": 0} == {
        **{"state": "recorded", "runs": 0, "organs": 2, "receipts": 0, "failures": 1}
    }
    assert sum(exchanges["spring"]["receipts"].values()) == 3
    assert exchanges["winter"] == {
        **{
            "state": "completed, but nothing came",
            "runs": 1,
            "organs": 0,
            "receipts": {},
            "failures": 2,
        }
    }
    for words in ("scheduled 2100-01-01 00:00 UTC", "3 days ago", str(2**63 + 1), "accepted"):
        assert words in human

    one = said("winter")
    approval, strange = one["failures"]
    assert (approval["site"], approval["step"], approval["code"]) == ("north", "donate", "approval")
    assert "organ-site approve" in approval["means"]
    assert strange["site"] == "west", "as its node"
    assert "site.log" in strange["means"]
    other = said("spring")
    assert [row["donor"] for row in other["organs"]] == ["north", "south"]
    assert len(other["receipts"]) == 3
    human = call("status", home, "winter", app=commands.app)[1]
    assert "organ-site approve" in human
    code, _, wrong = call("status", home, "nothing", app=commands.app)
    assert (code, "no exchange nothing" in wrong) == (1, True)


def test_a_site_is_online_while_the_keeper_hears_of_it() -> None:
    assert status.ONLINE_SECONDS > 2 * keeper.HEARD_SECONDS


def test_a_monitor_reads_no_donation_to_count_them(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with homes.opened(made) as loaded, database.writing(loaded.catalogue._engine) as session:
        session.connection().exec_driver_sql("UPDATE organs SET donation = 'not to be decoded'")
    text = TestClient(health.monitored(made, service.load(made))).get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    organs = {name: float(figures[f"organ_{name}"]) for name in ("organs", "stored_bytes")}
    assert organs["organs"] == 2, "each once, of two exchanges"
    assert organs["stored_bytes"] > 400
    assert sum(float(value) for name, value in figures.items() if "receipts" in name) == 6


def test_a_home_without_an_address_is_given_one(members: Members, call: Call) -> None:
    home = members.coordinator.folder
    code, _, said = call("start", home, app=commands.app)
    assert (code, "organ-coordinator serve-at" in said) == (1, True)
    words = ("serve-at", home, "--host", "north.example", "--port", 9999)
    code, out, _ = call(*words, "--json", app=commands.app)
    assert (code, json.loads(out)["address"]) == (0, "north.example:9999")
    assert service.load(home).host == "north.example"
    nowhere = members.place / "nowhere"
    for command in ("start", "stop"):
        code, _, said = call(command, nowhere, app=commands.app)
        assert (code, "there is no home" in said or "no coordinator in" in said) == (1, True)


def files(home: Path, *names: str) -> dict[str, bytes]:
    return {name: (home / name).read_bytes() for name in names}


def test_another_address_leaves_flower_and_what_sites_have(members: Members, call: Call) -> None:
    home = members.coordinator.folder

    def served_at(*words: object) -> str:
        code, out, wrong = call("serve-at", home, *words, "--json", app=commands.app)
        assert code == 0, wrong
        return str(json.loads(out)["sites"])

    assert call("serve-at", home, "--port", 9999, app=commands.app)[0] == 2, "it has no host"
    assert "must be given the certificate" in served_at("--host", "north.example")
    flower = ("flower/secret", "flower/loopback.key", "flower/loopback.pem")
    before = files(home, *flower, "tls.pem", "tls.key")
    assert "stay connected" in served_at("--host", "north.example")
    assert "with the certificate that they have" in served_at("--port", 9999)
    assert files(home, *before) == before
    assert (service.load(home).host, service.load(home).port) == ("north.example", 9999)
    assert "which is new" in served_at("--host", "south.example", "--page-port", 9998)
    found = service.load(home)
    assert (found.host, found.port, found.page_port) == ("south.example", 9999, 9998)
    assert files(home, *flower, "tls.key") == {k: v for k, v in before.items() if k != "tls.pem"}
    tls.check_serves((home / "tls.pem").read_bytes(), "south.example")
    with supervisor.held(home):
        code, _, said = call("serve-at", home, "--port", 9997, app=commands.app)
    assert (code, "stop it first" in said) == (1, True)


@pytest.mark.parametrize("gone", [("service.toml",), ("service.toml", "tls.pem"), ("tls.pem",)])
def test_what_was_cut_off_is_completed_by_the_same_command(
    made: Path, tmp_path: Path, call: Call, gone: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    before = files(home, "flower/secret", "flower/loopback.key", "tls.key")
    for name in gone:
        (home / name).unlink()
    words = ("serve-at", home, "--host", "north.example", "--json")
    code, out, wrong = call(*words, app=commands.app)
    assert code == 0, wrong
    assert "must be given the certificate" in json.loads(out)["sites"], "whether or not they were"
    assert files(home, *before) == before
    with encrypted(port := free_port(), home / "tls.pem"):
        tls.handshake(LOOPBACK, port, home / "tls.pem", "north.example")


def test_a_cut_off_init_leaves_nothing_in_its_way(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, world = tmp_path / "home", World(tmp_path / "world")
    root = world.place / "federation" / "root.pem"
    words = ("init", home, "--root", root, "--host", "north.example")
    with monkeypatch.context() as patch:
        patch.setattr(tls, "create", full_disk)
        assert call(*words, app=commands.app)[0] == 1
    assert not home.exists()
    assert call(*words, app=commands.app)[0] == 0
    assert service.load(home).host == "north.example"


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_home_has_no_port_twice(made: Path, tmp_path: Path, call: Call) -> None:
    world = World(tmp_path / "world")
    root, port = world.place / "federation" / "root.pem", service.load(made).port
    asked = ("--port", 9092, "--flower-port", 9092)
    words = ("init", tmp_path / "home", "--root", root, "--host", "north.example", *asked)
    code, _, said = call(*words, app=commands.app)
    assert (code, "port and flower_port are all 9092" in said) == (1, True)
    assert not (tmp_path / "home").exists()
    before = files(made, "service.toml")
    code, _, said = call("serve-at", made, "--page-port", port, app=commands.app)
    assert (code, f"port and page_port are all {port}" in said) == (1, True)
    assert files(made, "service.toml") == before


@pytest.mark.parametrize("ends", ["completed", "failed", "cancelled"])
def test_who_waits_for_an_exchange_is_told_how_it_ended(
    members: Members, call: Call, ends: str
) -> None:
    coordinator, home = members.coordinator, members.coordinator.folder
    for node, site in enumerate(("north", "south"), 1):
        coordinator.catalogue.admitted(site, node, b"word")

    def carry_out() -> None:
        while not coordinator.catalogue.schedule.unfinished():
            time.sleep(0.05)
        coordinator.catalogue.schedule.running("spring", 1, time.time())
        if ends == "completed":
            members.exchange("spring")
        failed = Happened(time.time(), "north", "donate", "policy")
        coordinator.catalogue.happened("spring", failed)
        coordinator.catalogue.schedule.ended("spring", ends)

    asked = ("--span", "1:2", "--tokens", 10, "--sites", 2, "--wait", "--json")
    with ThreadPoolExecutor() as pool:
        carried = pool.submit(carry_out)
        code, out, _ = call("exchange", home, "spring", *asked, app=commands.app)
        carried.result()
    facts = json.loads(out)
    assert (code, facts["state"]) == (int(ends != "completed"), ends)
    assert [one["code"] for one in facts["failures"]] == ["policy"]
    assert len(facts["organs"]) == (2 if ends == "completed" else 0)
    came = ends == "completed"
    assert (len(facts["receipts"]), sum(facts["verdicts"].values())) == ((3, 3) if came else (0, 0))


def test_an_exchange_is_said_to_run_only_while_it_does(members: Members, call: Call) -> None:
    coordinator, home = members.coordinator, members.coordinator.folder
    asked = ("--span", "1:2", "--tokens", 10, "--sites", 2, "--json")
    at = ("--at", "2100-01-01T00:00")
    code, out, _ = call("exchange", home, "spring", *asked, *at, app=commands.app)
    assert (code, json.loads(out)["state"]) == (0, "scheduled 2100-01-01 00:00 UTC")
    coordinator.catalogue.schedule.running("spring", 1, time.time())

    def state() -> str:
        out = call("status", home, "--json", app=commands.app)[1]
        return str(json.loads(out)["exchanges"][0]["state"])

    assert state() == "waits for 'organ-coordinator start'"
    with supervisor.held(home):
        (home / "run" / supervisor.STATUS).write_text('{"keeper": {"pid": 7}}')
        assert state() == "running"


def test_health_says_when_the_bank_is_away_and_nothing_makes_another(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> dict[str, str]:
        found = TestClient(health.monitored(made, service.load(made))).get("/healthz").json()
        return {name: found[name] for name in ("catalogue", "bank", "disk")}

    assert said() == {"catalogue": WELL, "bank": WELL, "disk": WELL}
    (made / "bank").rename(tmp_path / "away")
    assert said()["catalogue"] == WELL
    assert "mount it" in said()["bank"]
    part = tmp_path / "part"
    part.write_bytes(b"sealed")
    with homes.opened(made) as coordinator:
        for use in (
            lambda: coordinator.bank.put("0" * 64, part),
            lambda: coordinator.bank.size("0" * 64),
            lambda: coordinator.bank.remove("0" * 64),
        ):
            with pytest.raises(BankError, match="is away"):
                use()
    assert part.exists()
    assert not (made / "bank").exists()
    (tmp_path / "away").rename(made / "bank")
    assert said()["bank"] == WELL
    monkeypatch.setattr(checkup, "LEAST_FREE", 2**60)
    assert "organ-coordinator forget" in said()["disk"]


def test_an_organ_whose_store_failed_is_forgotten_by_a_second_command(
    tmp_path: Path, members: Members, call: Call
) -> None:
    (organ, other), home = members.exchange("spring"), members.coordinator.folder
    before = len(list((home / "bank").iterdir()))
    (home / "bank").rename(tmp_path / "away")
    code, _, said = call("forget", home, organ, app=commands.app)
    assert (code, "is away" in said) == (1, True)
    (tmp_path / "away").rename(home / "bank")
    assert call("forget", home, organ, app=commands.app)[0] == 0
    rows = json.loads(call("organs", home, "--json", app=commands.app)[1])
    assert [row["organ"] for row in rows] == [other]
    assert len(list((home / "bank").iterdir())) == before - 1
