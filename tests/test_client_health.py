"""What a site's monitor says of it."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from metrics import figures
from test_client_doctor import make

from client import service
from client.health import monitored
from not_core.service import monitor, supervisor
from not_core.trust.log import Log


@pytest.fixture(scope="module")
def home(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("health"), models["llama"])


def test_a_site_that_is_served_says_so_to_whoever_starts_it_again(home: Path) -> None:
    code = "from client.commands import main; main()"
    with supervisor.held(home), socket.create_server(("127.0.0.1", 0)) as monitors:
        port = str(monitors.getsockname()[1])
        words = ["start", str(home), "--monitor-port", port]
        command = [sys.executable, "-P", "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 1
    assert "served by another process" in done.stderr


def test_a_sites_monitor_tells_what_is_wrong_and_what_has_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Log(home / "log.db").append("released", what="profile", digest="0" * 64)
    Log(home / "log.db").append("released", what="profile", digest="1" * 64)
    delivered = home / "organs" / "in" / "spring" / "x.part"
    delivered.parent.mkdir(parents=True)
    delivered.write_bytes(b"12345")
    port, beat = supervisor.free_port(), service.Beat(home)
    monkeypatch.setattr(monitor, "KEPT_SECONDS", 0.0)
    with (
        monitor.answering(monitored(home, beat), port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        supervisor.held(home),
    ):
        rows = {"supernode": {"pid": os.getpid(), "since": 0, "starts": 1}}
        (home / "run" / supervisor.STATUS).write_text(json.dumps(rows))
        assert client.get("/healthz").json()["node"] != "ok", "no node has looked for messages"
        beat.path.touch()
        well = client.get("/healthz")
        assert (well.status_code, set(well.json().values())) == (200, {"ok"})
        found = figures(client)
        assert found["organ_released", "profile"] == 2
        assert found["organ_pending_approvals",] == 0
        assert (found["organ_delivered_files",], found["organ_delivered_bytes",]) == (1, 5)
        assert found["organ_delivered_files_most",] == 1000
        assert found["organ_delivered_bytes_most",] == 64 * 2**30
        assert found["organ_revocation_due_seconds",] > 0

        monkeypatch.setattr(service, "STALL_SECONDS", 0.0)
        with sqlite3.connect(home / "log.db") as database:
            database.execute("UPDATE entries SET what = 'organ' WHERE event = 'released'")
        (home / "identity" / "federation.crl").write_bytes(b"nothing")
        ill = client.get("/healthz")
    assert ill.status_code == 503
    said = ill.json()
    assert said["node"] == "has not looked for messages lately; see logs/supernode.log"
    assert said["log"].startswith("home: ")
    assert said["federation"] != "ok"
    assert said["processes"] == "ok"


def test_a_beat_is_judged_by_when_it_changed_and_not_by_what_time_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a clock was set, or a machine slept, a node that looks for messages is well."""
    monkeypatch.setattr(service, "STALL_SECONDS", 0.4)
    beat = service.Beat(tmp_path)
    beat.path.parent.mkdir()
    assert beat.still(), "it has never looked for any"
    assert not beat.stalled(), "but may take its time to begin"
    for hours in range(12):
        beat.path.touch()
        then = time.time() + (hours - 6) * 3600
        os.utime(beat.path, (then, then))
        assert not beat.still()
        time.sleep(0.05)
    time.sleep(0.45)
    assert beat.still()
    beat.path.touch()
    assert not beat.still()


def test_a_node_that_begins_is_not_judged_by_the_beat_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.3)
    home = tmp_path / "home"
    (home / "node").mkdir(parents=True)
    (home / "run").mkdir()
    for name in ("coordinator", "admission"):
        (home / "node" / name).write_text("127.0.0.1:9092")
    beat = service.Beat(home)
    beat.path.touch()
    programs = service.programs(home, 1.0, None, beat)
    (node,) = [one for one in programs if one.name == "supernode"]
    assert str(beat.path) in node.command
    assert not beat.path.exists(), "that of the last run is gone"

    def asked(seconds: float) -> bool:
        """As a supervisor asks of a node that has had time to begin."""
        said, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            said.append(node.stalled())
            time.sleep(0.02)
        return said[-1]

    assert not asked(0.6), "it may take its time"
    beat.path.touch()
    assert not asked(0.3)
    assert asked(0.3)
    time.sleep(0.35)  # it is ended; another is started, which is left alone at first
    assert not asked(0.3)
    assert asked(0.3)


def test_nodes_that_are_not_let_in_are_not_well_however_many_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.1)
    beat = service.Beat(tmp_path)
    beat.path.parent.mkdir()
    beat.path.touch()
    assert not beat.still(), "it was let in"
    time.sleep(0.5)
    for _ in range(5):  # none lives as long as it may do nothing
        assert not beat.stalled()
        assert beat.still()
        time.sleep(0.15)
