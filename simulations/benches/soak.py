"""Many exchanges of small organs by the same servers: whether memory and open files stay flat.

Two donors on a generated model of four small layers. Each exchange trains new
organs. What is looked at, after each, is every process that is kept running and what it has started
and keeps.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.manifest import Span
from not_core.service import supervisor
from server import home as coordinator_home
from server.schedule import COMPLETED
from simulations.benches import noise
from simulations.federation import exchange
from simulations.federation.served import Deployment
from simulations.tables import table, word

LAYER_BYTES = 200_000
TOKENS = 512
VOCABULARY = 1024
EXCHANGE_SECONDS = 600.0
MOST_GROWTH = 1.10
"""Largest median of the last quarter of the exchanges, as a multiple of the second quarter's."""
MORE_FILES = 4
"""Open files that a process may have more then."""
SITES = dict.fromkeys(("east", "west"), True)


def soak(out: Path, exchanges: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run exchanges one after the other; what was run is kept, and not run again.

    Args:
        out: Folder for ``soak.json``, ``soak.md`` and, until all are done, the homes.
        exchanges: How many in all.
        say: Told what is being done.

    Returns:
        Exchanges, seconds of one, and for each process its memory and open files.

    Raises:
        ExchangeError: An exchange failed, took too long or was not whole, memory or open files
            grew, or a process was started again.
    """
    place, rows = out / "files", out / "soak.jsonl"
    if not (place / "base").is_dir():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        rows.unlink(missing_ok=True)
        noise.small_tokenizer(place / "tokenizer", VOCABULARY)
        noise.base(place, LAYER_BYTES, 4, place / "tokenizer")
    scenario = noise.scenario(place, "soak", SITES, 60, Span(start=1, stop=3), TOKENS)
    exchange.prepare(scenario, say)
    deployment = Deployment(scenario)
    with deployment.serving(), rows.open("a+", encoding="utf-8") as file:
        file.seek(0)
        done = [json.loads(line) for line in file]
        run = 1 + max((row["run"] for row in done), default=0)
        for number in range(len(done), exchanges):
            started = time.monotonic()
            deployment.begin(f"soak-{number}", seed=number)
            state = deployment.waited(f"soak-{number}", EXCHANGE_SECONDS)
            if state != COMPLETED or not _whole(deployment, f"soak-{number}"):
                raise ExchangeError(f"exchange {number} is {state}, or not whole; see {place}")
            seconds = round(time.monotonic() - started, 1)
            row = {"run": run, "seconds": seconds, "processes": _look(deployment)}
            file.write(json.dumps(row) + "\n")
            file.flush()
            done.append(row)
            say(f"exchange {number + 1} of {exchanges}: {seconds} s")
    result = judged(done)
    atomic.write(out / "soak.json", (json.dumps(result, indent=2) + "\n").encode())
    atomic.write(out / "soak.md", shown(result).encode())
    shutil.rmtree(place)
    grown = [f"{one['who']}: {one['what']}" for one in result["processes"] if not one["flat"]]
    if grown:
        raise ExchangeError(f"grew over {exchanges} exchanges: {', '.join(grown)}")
    return result


def _whole(deployment: Deployment, name: str) -> bool:
    """Whether each organ of an exchange was tried at each site, and nothing went wrong."""
    with coordinator_home.opened(deployment.coordinator) as coordinator:
        facts = coordinator.catalogue.last_run(name) or {}
        receipts = coordinator.catalogue.receipts(name)
    return facts.get("failures") == [] and len(receipts) == len(SITES) ** 2


def _look(deployment: Deployment) -> list[dict[str, Any]]:
    """Memory and open files of every process, and of the server that it forks tasks from."""
    found = []
    for who, home in {"coordinator": deployment.coordinator, **deployment.sites}.items():
        start = supervisor.served_by(home)
        pids = ({} if start is None else {"start": start}) | supervisor.pids(home)
        for what, pid in pids.items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                family = {what: process}
                for child in process.children():
                    if "forkserver" in " ".join(child.cmdline()):
                        family[f"{what}: its server"] = child
                for name, one in family.items():
                    figures = {"rss": one.memory_info().rss, "files": one.num_fds()}
                    found.append({"who": who, "what": name, "pid": one.pid, **figures})
    return found


def judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the last quarter of the exchanges with the second, process by process.

    Args:
        rows: One for each exchange, in order.
    """
    quarter = max(1, len(rows) // 4)
    early, late = rows[quarter : 2 * quarter] or rows, rows[-quarter:]
    processes = []
    for who, what in dict.fromkeys(
        (one["who"], one["what"]) for row in rows for one in row["processes"]
    ):
        theirs = [
            [one for row in part for one in _of(row, who, what)] for part in (rows[:1], early, late)
        ]
        began = {(row["run"], one["pid"]) for row in rows for one in _of(row, who, what)}
        # A process may begin later than the first exchange, or end before the last.
        memory = [_median([one["rss"] / 1e6 for one in part], 1) for part in theirs]
        files = [_median([one["files"] for one in part]) for part in theirs]
        processes.append(
            {
                "who": who,
                "what": what,
                "first_mb": memory[0],
                "second_quarter_mb": memory[1],
                "last_quarter_mb": memory[2],
                "second_quarter_files": files[1],
                "last_quarter_files": files[2],
                "starts": len(began),
                "flat": _flat(memory, files) and len(began) == len({run for run, _ in began}),
            }
        )
    return {
        "exchanges": len(rows),
        "runs": max(row["run"] for row in rows),
        "seconds_second_quarter": statistics.median(row["seconds"] for row in early),
        "seconds_last_quarter": statistics.median(row["seconds"] for row in late),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "processes": processes,
    }


def _median(values: Sequence[float], digits: int = 0) -> float | None:
    """None of no value."""
    return round(statistics.median(values), digits or None) if values else None


def _flat(memory: Sequence[float | None], files: Sequence[float | None]) -> bool:
    """Whether the last quarter's are about the second's; what was not there in both is not."""
    _, before, after = memory
    _, fewer, more = files
    if before is None or after is None or fewer is None or more is None:
        return False
    return after <= MOST_GROWTH * before and more <= fewer + MORE_FILES


def _of(row: dict[str, Any], who: str, what: str) -> list[dict[str, Any]]:
    return [one for one in row["processes"] if (one["who"], one["what"]) == (who, what)]


def shown(result: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    names = [name for name in result["processes"][0] if name != "flat"]
    rows = (
        [word(one[name]) for name in names] + ["yes" if one["flat"] else "no"]
        for one in result["processes"]
    )
    return (
        f"{result['exchanges']} exchanges between two sites in {result['seconds']:,} s, by servers "
        f"that were started {result['runs']} times. One took {result['seconds_second_quarter']} s "
        f"(median) in the second quarter, {result['seconds_last_quarter']} s in the last. Flat "
        f"is what has at most {MOST_GROWTH:g} times the memory and {MORE_FILES} more open files in "
        "the last quarter than in the second (medians), and was not started in between.\n\n"
        + table([*(name.replace("_", " ") for name in names), "flat"], rows)
    )
