"""Signals to real processes: exit codes, one line that says how to go on, nothing half-written."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_model, sentences, write_jsonl

ROOT = Path(__file__).parent.parent
SECONDS = 120
STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("stop") / "m", "llama", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "records.jsonl", sentences(40, 1))


def started(*words: object, first: str = "", **more: int) -> subprocess.Popen[str]:
    """``organ`` in a process of its own."""
    script = f"{first}\nfrom not_core.commands import main\nmain()"
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", script, *map(str, words)],
        cwd=ROOT,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


def until(process: subprocess.Popen[str], there: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_training_that_is_stopped_says_what_is_kept_and_goes_on(
    number: int, code: int, model: Path, data: Path, tmp_path: Path
) -> None:
    work, out = tmp_path / "work", tmp_path / "organ"
    words = ("train", "--model", model, "--data", data, "--out", out, "--work", work)
    words = (*words, "--tokens", 10_000, "--rank", 2, "--threads", 1, "--span", "0:2")
    first = "from not_core.learning import resumption\nresumption.SAVE_SECONDS = 0.1"
    process = started(*words, first=first)
    until(process, lambda: list(work.glob("training-*.safetensors")))
    process.send_signal(number)
    told, said = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    assert told == ""
    assert said == (
        f"stopped: what was learned up to a minute ago is kept in {work}; the same command goes "
        "on there\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"work", "records.jsonl"}
    assert not [path for path in work.iterdir() if path.name.endswith(".partial")]
    kept = next(work.glob("training-*.safetensors"))
    if number == signal.SIGTERM:  # what is kept is the same
        return
    script = (
        "from not_core.learning import course\n"
        "step, taken = course.Course._step, []\n"
        "def counted(*given):\n"
        "    taken.append(1)\n"
        "    step(*given)\n"
        "course.Course._step = counted\n"
        "import atexit, sys\n"
        "atexit.register(lambda: print('steps taken:', len(taken), file=sys.stderr))"
    )
    told, said = started(*words, "--json", first=script).communicate(timeout=SECONDS)
    assert out.is_dir(), said
    assert not kept.exists()
    steps = int(told.split('"steps": ')[1].split(",")[0])
    assert int(said.split("steps taken: ")[1]) < steps, "it began anew"


def test_training_without_a_folder_to_go_on_from_says_so(
    model: Path, data: Path, tmp_path: Path
) -> None:
    # A bar with a rate tells that training has begun.
    ours, theirs = pty.openpty()
    words = ("train", "--model", model, "--data", data, "--out", tmp_path / "organ")
    words = (*words, "--tokens", 10_000_000, "--threads", 1, "--span", "0:2")
    process = started(*words, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while b"/s " not in said:
        said += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=SECONDS) == 130
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # all ends are closed
            break
    os.close(ours)
    assert b"nothing is kept without --work, a folder to go on from\r\n" in said
    assert b"Traceback" not in said
    assert b"training" in said
    assert {path.name for path in tmp_path.iterdir()} == {"records.jsonl"}


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_measurement_of_an_experiment_ends_with_it(
    number: int, code: int, tmp_path: Path
) -> None:
    """Finished ones are kept; the process of the one that runs is not left behind."""
    (tmp_path / "slow.py").write_text(
        "import json, os, sys, time\n"
        "from pathlib import Path\n"
        "case = json.loads(sys.argv[1])\n"
        "if case['seed']:\n"
        "    Path(case['method']).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "print(json.dumps({'done': case['seed']}))\n"
    )
    out, running = tmp_path / "out", tmp_path / "lora"
    script = (
        "import typer\n"
        "from pathlib import Path\n"
        "from not_core.commands.program import run as program, say\n"
        "from simulations.experiments.clinic import Visit\n"
        "from simulations.experiments import cells\n"
        "cells._base = lambda model: 'digest'\n"
        "from simulations.experiment_commands import resumed\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "@resumed\n"
        "def experiment(out: Path) -> None:\n"
        "    cases = [Visit(method='lora', records=0, seed=seed) for seed in range(2)]\n"
        "    list(cells.run(cases, 'm', out, say, module='slow'))\n"
        "program(app)\n"
    )
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", script, str(out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(process, lambda: running.is_file() and running.read_text())
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    assert said.splitlines()[-1] == (
        f"stopped: what is finished is kept in {out}; the same command goes on there"
    )
    assert "Traceback" not in said
    assert [path.name.split("-")[2] for path in out.iterdir()] == ["seed0"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.read_text()), 0)


def test_what_no_signal_stops_has_its_handlers_back(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    before = [signal.getsignal(number) for number, _ in STOPS]
    assert call("families")[0] == 0
    assert [signal.getsignal(number) for number, _ in STOPS] == before
