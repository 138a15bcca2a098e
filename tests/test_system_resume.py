"""A run that dies is resumed by the same command, and nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import sentences, write_jsonl

from not_core.trust.log import Log

SITES = """
exchange = "resumed"
[[site]]
name = "hospital"
domain = "medicine"
donates = true
records = "hospital.jsonl"
[[site]]
name = "clinic"
domain = "medicine"
donates = false
records = "clinic.jsonl"
"""


@pytest.mark.real
def test_a_killed_run_is_resumed(models: dict[str, Path], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "hospital.jsonl", sentences(120, 1, (0, 20)))
    write_jsonl(tmp_path / "clinic.jsonl", sentences(40, 2, (0, 20)))
    (tmp_path / "sites.toml").write_text(SITES)
    homes, out = tmp_path / "homes", tmp_path / "out"
    command = [
        *(sys.executable, "-c", "from simulations.commands import main; main()", "exchange"),
        *("--sites", str(tmp_path / "sites.toml"), "--model", str(models["llama"])),
        *("--homes", str(homes), "--out", str(out), "--tokens", "6000"),
    ]
    log = homes / "sites" / "hospital" / "log.db"

    first = subprocess.Popen(  # noqa: S603 - our own interpreter
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (log.is_file() and any(e.event == "trained" for e in Log(log).entries())):
            assert first.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not out.exists()
    kept = homes.glob("sites/*/organs/made/*/organ.safetensors")
    made = {path: path.stat().st_mtime_ns for path in kept}
    assert len(made) == 1

    second = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert second.returncode == 0, second.stderr
    assert "resuming" in second.stderr
    report = json.loads((out / "report.json").read_text())
    assert {(e["donor"], e["recipient"]) for e in report["evaluations"]} == {
        ("hospital", "hospital"),
        ("hospital", "clinic"),
    }
    assert report["failures"] == []
    assert made == {path: path.stat().st_mtime_ns for path in made}
    events = [entry.event for entry in Log(log).entries()]
    assert events.count("trained") == 1
    assert Log(log).verify()[0] == len(events)

    third = subprocess.run(  # noqa: S603 - our own interpreter
        [*command, "--seed", "1"], capture_output=True, text=True, check=False
    )
    assert third.returncode == 1
    assert "--fresh" in third.stderr
