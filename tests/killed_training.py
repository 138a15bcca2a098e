"""Run ``organ train --dp-epsilon`` many times, kill it at random moments, and print what is left.

The moments are spread: every other one over the time that a run takes, the rest over the time in
which it learns, counted from when it was seen to have begun to: runs take more and less time.

A process of its own, which forks: what takes seconds to import is imported once. Standard output
is one JSON object a trial.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any


def train(model: Path, data: Path, folder: Path, out: str = "organ") -> int:
    """Train in a fork; its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        from not_core import commands
        from not_core.learning import resumption

        resumption.SAVE_SECONDS = 0.0
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        sys.argv = [
            *("organ", "train", "--model", str(model), "--data", str(data)),
            *("--out", str(folder / out), "--work", str(folder / "work")),
            *("--ledger", str(folder / "ledger"), "--dp-bound", "9"),
            *("--dp-epsilon", "8", "--dp-delta", "1e-3", "--dp-units-per-step", "4"),
            *("--tokens", "12288", "--rank", "4", "--threads", "1"),
        ]
        commands.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def learning(pid: int, folder: Path) -> bool:
    """Wait until a run has kept what it has learned; False if it ended without."""
    while not list((folder / "work").glob("*.safetensors")):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.002)
    return True


def left(folder: Path) -> dict[str, Any]:
    """What a trial has left behind."""
    from safetensors import safe_open

    from not_core.privacy.ledger import standalone

    (folder / "ledger").mkdir(mode=0o700, exist_ok=True)
    states = []
    for path in (folder / "work").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            states.append({"run": progress["run"], "steps": len(progress["losses"])})
    return {
        "charges": [
            {"run": one.charge.run, "result": one.result, **asdict(one.charge.mechanism)}
            for one in standalone(folder / "ledger").reservations()
        ],
        "states": states,
        "organ": (folder / "organ" / "manifest.json").is_file(),
        "partial": [path.name for path in folder.glob("organ/*")],
    }


def main() -> None:
    """Trials in folders of their own."""
    model, data, base = map(Path, sys.argv[1:4])
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from not_core.learning import clipping, private, scene  # noqa: F401
    from not_core.learning.guard import Guard, plan
    from not_core.learning.recipe import Recipe

    # Fills the accountant's cache for all that is forked.
    plan(Guard(epsilon=8, delta=1e-3, units_per_step=4), Recipe(tokens=12288, head_sample=None), 40)
    rng, trials = random.Random(int(sys.argv[4])), int(sys.argv[5])
    (base / "whole").mkdir()
    began = time.monotonic()
    pid = train(model, data, base / "whole")
    assert learning(pid, base / "whole")
    before = time.monotonic() - began
    os.waitpid(pid, 0)
    whole = time.monotonic() - began
    for number in range(trials):
        folder = base / str(number)
        folder.mkdir()
        pid = train(model, data, folder)
        span = whole
        if number % 2 and learning(pid, folder):
            span -= before
        time.sleep(span * rng.uniform(number, number + 1) / trials)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed = left(folder)
        _, again = os.waitpid(train(model, data, folder), 0)
        ended = left(folder)
        _, more = os.waitpid(train(model, data, folder, out="other"), 0)
        print(
            json.dumps(
                {
                    "killed": killed,
                    "again": os.waitstatus_to_exitcode(again),
                    "ended": ended,
                    "more": os.waitstatus_to_exitcode(more),
                    "after": left(folder),
                    "errors": (folder / "stderr").read_text(),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
