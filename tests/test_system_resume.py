"""A run that dies is resumed by the same command, and nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
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
    assert report["failures"] == []
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


@pytest.mark.real
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_ends_at_once_and_says_how_to_go_on(
    number: int, code: int, models: dict[str, Path], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "hospital.jsonl", sentences(120, 1, (0, 20)))
    write_jsonl(tmp_path / "clinic.jsonl", sentences(40, 2, (0, 20)))
    (tmp_path / "sites.toml").write_text(SITES)
    homes = tmp_path / "homes"
    command = [
        *(sys.executable, "-c", "from simulations.commands import main; main()", "exchange"),
        *("--sites", str(tmp_path / "sites.toml"), "--model", str(models["llama"])),
        *("--homes", str(homes), "--out", str(tmp_path / "out"), "--tokens", "60000"),
    ]
    run = subprocess.Popen(  # noqa: S603 - our own interpreter
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stderr is not None
    try:
        said = ""
        while "has enrolled" not in said:
            line = run.stderr.readline()
            assert line, said
            said += line
        run.send_signal(number)
        assert run.wait(timeout=30) == code
    finally:
        with suppress(ProcessLookupError):  # Ray's agents take seconds to notice
            os.killpg(run.pid, signal.SIGKILL)
        said += run.stderr.read()
        run.stderr.close()
    last = said.splitlines()[-1]
    assert last == f"stopped: what is finished is kept in {homes}; the same command goes on there"
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
