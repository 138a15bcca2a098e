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


def test_a_sites_monitor_tells_what_is_wrong_and_what_has_left(home: Path) -> None:
    Log(home / "log.db").append("released", what="profile", digest="0" * 64)
    Log(home / "log.db").append("released", what="profile", digest="1" * 64)
    port = supervisor.free_port()
    with (
        monitor.answering(monitored(home), port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        supervisor.held(home),
    ):
        rows = {"supernode": {"pid": os.getpid(), "since": 0, "starts": 1}}
        (home / "run" / supervisor.STATUS).write_text(json.dumps(rows))
        well = client.get("/healthz")
        assert (well.status_code, set(well.json().values())) == (200, {"ok"})
        found = figures(client)
        assert found["organ_released", "profile"] == 2
        assert found["organ_pending_approvals",] == 0
        assert found["organ_revocation_due_seconds",] > 0

        beat = service.beat_of(home)
        beat.touch()
        then = time.time() - service.STALL_SECONDS - 60
        os.utime(beat, (then, then))
        with sqlite3.connect(home / "log.db") as database:
            database.execute("UPDATE entries SET what = 'organ' WHERE event = 'released'")
        (home / "identity" / "federation.crl").write_bytes(b"nothing")
        ill = client.get("/healthz")
    assert ill.status_code == 503
    said = ill.json()
    assert said["node"] == "has not looked for messages lately"
    assert said["log"].startswith("home: ")
    assert said["federation"] != "ok"
    assert said["processes"] == "ok"
