"""What a large organ costs on its way through real servers: memory of every process, and seconds.

A donor, a recipient and a coordinator are served on this machine. The base is a generated llama of
two layers; the organ is the first of them as it is, in the place of a trained one. What is measured
is the way from site to site; to donate and to try an organ takes what the model takes.
"""

import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.manifest import Span
from not_core.protocol import SEGMENT_BYTES
from not_core.service import supervisor
from server import home as coordinator_home
from server.schedule import COMPLETED
from simulations.benches import noise
from simulations.benches.bench import check_room
from simulations.federation import exchange
from simulations.federation.served import Deployment
from simulations.machine import peak_bytes
from simulations.tables import table, word

BOUND_MB = 700
"""What any process may take while an organ passes, in 10^6 bytes, imports among it."""
WITH_MODEL = frozenset({"donate", "transplant"})
"""Messages that are answered with the model in memory; no other may take more than the bound."""
VOCABULARY = 1024
LOOK_SECONDS = 0.5
COORDINATOR = "coordinator"
COSTS, TOKENS = "costs.jsonl", 64
"""Where a site notes what each message took, and what its organ says it was trained on."""
SITE_APP = "simulations.benches.served_site:app"
"""Is imported by the sites only: it takes the place of their own app and of their training."""
SITES = {"donor": True, "reader": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one kind of process, or of one kind of message: how many, seconds, largest peak."""

    who: str
    what: str
    number: int
    seconds: float | None
    peak_mb: float


def measure(out: Path, megabytes: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Pass an organ from site to site; write ``bench-served.json`` and ``bench-served.md``.

    Args:
        out: Folder for the results and, meanwhile, ten times the organ's bytes.
        megabytes: About so large an organ, in 10^6 bytes.
        say: Told what is being done.

    Returns:
        Bytes, seconds of each step, and the costs.

    Raises:
        ExchangeError: Too little space, or the exchange failed, or a process took more than
            ``BOUND_MB`` while the organ passed.
    """
    out.mkdir(parents=True, exist_ok=True)
    check_room(out, 10_000_000 * megabytes, "--megabytes")
    place = out / "files"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        say(f"generating a base with layers of {megabytes} MB")
        noise.small_tokenizer(place / "tokenizer", VOCABULARY)
        noise.base(place, 1e6 * megabytes, 2, place / "tokenizer")
        span = Span(start=0, stop=1)
        result = _pass(noise.scenario(place, "large", SITES, 100, span, TOKENS), say)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    atomic.write(out / "bench-served.json", (json.dumps(result, indent=2) + "\n").encode())
    atomic.write(out / "bench-served.md", shown(result).encode())
    judge(result)
    return result


def judge(result: Mapping[str, Any]) -> None:
    """Hold processes to ``BOUND_MB`` while an organ passes: all but those that need the model.

    Raises:
        ExchangeError: One took more; the message says which.
    """
    over = [
        f"{cost['who']}: {cost['what']} ({cost['peak_mb']:.0f} MB)"
        for cost in result["costs"]
        if cost["peak_mb"] > BOUND_MB and cost["what"] not in WITH_MODEL
    ]
    if over:
        raise ExchangeError(f"{', '.join(over)} took more than {BOUND_MB} MB")


def _pass(scenario: exchange.Scenario, say: Callable[[str], None]) -> dict[str, Any]:
    exchange.prepare(scenario, say)
    deployment = Deployment(scenario, site_app=SITE_APP)
    homes = {COORDINATOR: deployment.coordinator, **deployment.sites}
    with deployment.serving(), _Watch(homes) as watch:
        say("the exchange")
        deployment.begin("large")
        state = deployment.waited("large")
    costs = watch.costs()
    if state != COMPLETED:
        raise ExchangeError(f"the exchange has {state}")
    for name, home in deployment.sites.items():
        costs += _messages(name, home / COSTS)
    with coordinator_home.opened(deployment.coordinator) as coordinator:
        facts = coordinator.catalogue.last_run("large") or {}
        number = len(coordinator.catalogue.receipts("large"))
    if facts.get("failures") or number != 2:
        raise ExchangeError(f"{number} receipts, failures: {facts.get('failures')}")
    return {
        "sealed_bytes": facts["bytes"]["stored"],
        "segment_bytes": SEGMENT_BYTES,
        "seconds": facts["seconds"],
        "costs": [asdict(cost) for cost in costs],
    }


class _Watch:
    """Largest peaks of what is kept running for homes, and of what that has started."""

    def __init__(self, homes: Mapping[str, Path]) -> None:
        self._homes, self._stop = homes, threading.Event()
        self._peaks: dict[tuple[str, str], float] = {}

    def __enter__(self) -> "_Watch":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def costs(self) -> list[Cost]:
        """As far as is known by now."""
        return [
            Cost(who=who, what=what, number=1, seconds=None, peak_mb=round(peak / 1e6))
            for (who, what), peak in sorted(self._peaks.items())
        ]

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for who, home in self._homes.items():
                if (start := supervisor.served_by(home)) is not None:
                    self._note(who, "start", start)
                for name, pid in supervisor.pids(home).items():
                    with suppress(psutil.NoSuchProcess):
                        self._look(who, name, psutil.Process(pid))

    def _look(self, who: str, name: str, process: psutil.Process) -> None:
        """Of a site's tasks each notes its own peak; a coordinator's only task is the exchange."""
        kept = [(name, process), *((f"{name}: its server", one) for one in process.children())]
        if who == COORDINATOR:
            below = [two for _, one in kept[1:] for two in one.children()]
            kept += [("exchange", one) for one in below]
        for what, one in kept:
            self._note(who, what, one.pid)

    def _note(self, who: str, what: str, pid: int) -> None:
        with suppress(OSError):
            self._peaks[who, what] = max(self._peaks.get((who, what), 0), peak_bytes(pid))


def _messages(who: str, costs: Path) -> list[Cost]:
    rows = [json.loads(line) for line in costs.read_text(encoding="utf-8").splitlines()]
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["message"]].append(row)
    return [
        Cost(
            who=who,
            what=kind,
            number=len(found),
            seconds=round(sum(row["seconds"] for row in found), 1),
            peak_mb=round(max(row["peak_mb"] for row in found)),
        )
        for kind, found in kinds.items()
    ]


def shown(result: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    head = (
        f"A sealed organ of {result['sealed_bytes'] / 1e6:,.0f} MB in segments of "
        f"{result['segment_bytes'] / 1e6:.1f} MB, from its donor through the coordinator to a "
        "reader, all on one machine. Seconds from the start to the last reply: "
        + ", ".join(f"{step} {value:,.0f}" for step, value in result["seconds"].items())
        + ".\n\n"
    )
    names = ["who", "what", "number", "seconds", "peak_mb"]
    rows = ([word(cost[name]) for name in names] for cost in result["costs"])
    return head + table(["who", "process or message", *names[2:4], "peak MB"], rows)
