"""What an exchange costs its coordinator, by the number of sites and of donors.

The real coordinator runs in a process of its own, on a real home; a second process plays all sites
(see ``bare_sites``). Between them is a pipe in place of Flower, whose cost is not in the figures:
what the pipe takes is counted apart. Processor seconds are those of the coordinator's process.
"""

import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from multiprocessing import connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from not_core import atomic, canonical
from not_core.errors import ExchangeError
from not_core.manifest import Span
from not_core.protocol import (
    Terms,
    pack,
    unpack,
)
from server import claims, database, dispatch, home
from server.asked import Asked
from server.catalogue import Catalogue
from server.dispatch import Dispatch
from server.enrolling import Enrolling
from server.exchange import Exchange, Settings
from server.home import Coordinator
from server.log import Log
from server.page.rows import Wanted
from server.page.views import Views
from server.witnesses import request, signed_head
from simulations.benches.bench import check_room
from simulations.benches.clock import Clock
from simulations.benches.pipe_grid import STEPS, WAITING, Pipe, PipeGrid
from simulations.benches.superlink import looks
from simulations.machine import peak_bytes, system

if TYPE_CHECKING:
    from simulations.benches.bare_sites import BareSites

NAME = "bench"
VERIFYING = ("reply", "enrolment", "offer", "header", "sealed", "receipt", "cosignature")
WAITING_MESSAGES = (10, 100, 500, 2000)
"""At how many a look for replies is measured in Flower's state."""
PROOFS, VIEWS = 50, 3
"""How many proofs are timed, and how often each view is."""
ONCE = 2000
"""A point of more trials is measured only once."""
ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def settings(sites: int) -> Settings:
    """What is measured: an exchange of so many sites."""
    terms = Terms(span=Span(start=1, stop=3), rank=None, tokens=64, learning_rate=1e-3, seed=0)
    return Settings(asked=Asked.of(terms, exchange=NAME, sites=sites))


def coordinate(folder: Path, sites: int, pipe: Pipe) -> dict[str, Any]:
    """Run an exchange as its coordinator, and say what it took of this process.

    Args:
        folder: The coordinator's home.
        sites: How many take part.
        pipe: To them.
    """
    coordinator = home.load(folder)
    steps, parts, writes = Clock(WAITING), Clock("rest"), Counter[str]()
    _watch(steps, parts, writes)
    grid = PipeGrid(pipe, sites, steps)
    idle, started, cpu_started = peak_bytes(), time.monotonic(), time.process_time()
    exchange = _Watched(grid, coordinator, settings(sites))
    exchange.clock = steps
    exchange.run()
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    peak = peak_bytes()
    facts = coordinator.catalogue.last_run(NAME) or {}
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 3),
        "steps": steps.so_far(),
        "parts": parts.so_far(),
        "idle_mb": round(idle / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "messages": dict(grid.sent),
        "sent_bytes": dict(grid.sent_bytes),
        "received_bytes": dict(grid.received_bytes),
        "delivered_bytes": grid.delivered_bytes,
        "most_under_way": grid.most_under_way,
        "most_under_way_bytes": grid.most_under_way_bytes,
        "writes": writes["writes"],
        "failures": facts["failures"],
        **kept(coordinator),
        **asked(coordinator),
    }


class _Watched(Exchange):
    """Counts what an exchange does of itself, without a reply, to its step."""

    clock: Clock

    def _donate(self, donor: Any) -> None:
        with self.clock.of("collect"):
            super()._donate(donor)

    def _witness(self) -> None:
        with self.clock.of("witness"):
            super()._witness()


def _watch(steps: Clock, parts: Clock, writes: Counter[str]) -> None:
    """Have the coordinator's modules of this process say what they spend their time on."""
    post, writing = Dispatch.post, database.writing

    def posted(self: Dispatch, node: int, message_type: str, value: object, **rest: Any) -> None:
        with steps.of(STEPS[message_type]):
            post(self, node, message_type, value, **rest)

    def written(engine: Any) -> Any:
        writes["writes"] += 1
        return writing(engine)

    setattr(Dispatch, "post", posted)  # noqa: B010 - names of other modules
    setattr(database, "writing", written)  # noqa: B010
    _count(steps, "enrol", Enrolling, ("_agree_on_base",))
    _count(parts, "messages", dispatch, ("pack", "unpack"))
    _count(parts, "checks", claims, VERIFYING)
    for kind in (Catalogue, Log):
        public = [name for name, one in vars(kind).items() if callable(one) and name[0] != "_"]
        _count(parts, "catalogue", kind, public)


def _count(parts: Clock, what: str, owner: Any, functions: Iterable[str]) -> None:
    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            with parts.of(what):
                return function(*given, **named)

        return call

    for name in functions:
        setattr(owner, name, counted(getattr(owner, name)))


def kept(coordinator: Coordinator) -> dict[str, Any]:
    """What an exchange leaves behind."""
    organs = coordinator.catalogue.organs(NAME)
    files = list(coordinator.folder.glob(f"{home.CATALOGUE}*"))
    return {
        "receipts": len(coordinator.catalogue.receipts(NAME)),
        "witnesses": len(coordinator.catalogue.log.witnesses()),
        "log_entries": coordinator.catalogue.log.verify()[0],
        "header_bytes": max((len(one.header or b"") for one in organs), default=0),
        "catalogue_bytes": sum(one.stat().st_size for one in files),
        "bank_bytes": sum(one.stat().st_size for one in (coordinator.folder / home.BANK).iterdir()),
    }


def asked(coordinator: Coordinator) -> dict[str, Any]:
    """Milliseconds of a processor that proofs and views take, now that the exchange is over."""
    log, views = coordinator.catalogue.log, Views(coordinator)
    size = log.size()
    sample = [one.entry.digest for one in log.entries(PROOFS)]
    looks: dict[str, Callable[[], object]] = {
        "exchange": lambda: views.exchange(NAME),
        "exchanges": views.exchanges,
        "organs": lambda: views.organs(Wanted()),
        "sites": views.sites,
        "log": views.log,
    }
    shows = {}
    for name, look in looks.items():
        done = [_timed(partial(_written, look)) for _ in range(VIEWS)]
        shows[name] = {"ms": min(cost for cost, _ in done), "bytes": len(done[0][1])}
    head, who = signed_head(coordinator), log.witnesses()[0].profile.site
    shown, cosigned = _timed(lambda: request(log, NAME, who, (), head, 0))

    def included(digest: str) -> object:
        return coordinator.catalogue.log.find(digest, size)  # a new one has read nothing yet

    def continued(first: int) -> object:
        return coordinator.catalogue.log.consistency(first, size)

    some = range(1, size, max(1, size // PROOFS))
    return {
        "inclusion_ms": statistics.median(_timed(partial(included, one))[0] for one in sample),
        "consistency_ms": statistics.median(_timed(partial(continued, one))[0] for one in some),
        "cosigned_ms": shown,
        "cosigned_bytes": len(canonical.encode(cosigned)),
        "verify_log_ms": _timed(log.verify)[0],
        "views": shows,
    }


def _written(look: Callable[[], object]) -> bytes:
    """What a look comes to, as the page's API hands it out."""
    return ANYTHING.dump_json(look())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of a processor, and what came of it."""
    started = time.process_time()
    made = work()
    return round(1e3 * (time.process_time() - started), 2), made


def play(sites: "BareSites", pipe: Pipe) -> None:
    """Answer for all sites, one request after the other, until the other end is gone."""
    requests: SimpleQueue[Any] = SimpleQueue()

    def listen() -> None:  # at once, so that the coordinator never waits for a site
        try:
            while True:
                requests.put(pipe.recv())
        except EOFError:
            requests.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (asked := requests.get()) is not None:
        identifier, node, message_type, content = asked
        value, body = sites.answer(node, message_type, unpack(content))
        pipe.send((identifier, pack(value, body)))


def measure(
    out: Path,
    points: Sequence[tuple[int, int]],
    size: int,
    runs: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure exchanges; write ``bench-coordinator.json`` and ``bench-coordinator.md``.

    Args:
        out: Folder for the results and, meanwhile, the homes.
        points: Numbers of sites and of donors.
        size: Bytes of each organ's weights.
        runs: Measurements of each point but of those of more than ``ONCE`` trials.
        say: Told what is being done.

    Returns:
        What was measured, and the model of it.

    Raises:
        ExchangeError: Too little space, or an exchange failed.
    """
    # Not at the top: the coordinator's process, whose memory is measured, needs none of it.
    from simulations.benches.bare_sites import found
    from simulations.benches.bench_coordinator_results import markdown, model

    out.mkdir(parents=True, exist_ok=True)
    most = max(sites for sites, _ in points)
    check_room(out, 4 * size * max(donors for _, donors in points) + 10**9, "--bytes")
    place, done = out / "files", list[dict[str, Any]]()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        say("looks for replies in Flower's state")
        flower = looks(place, WAITING_MESSAGES)
        say(f"founding a federation of {most} sites")
        found(place, most)
        for sites, donors in points:
            for number in range(1 if sites * donors > ONCE else runs):
                say(f"{sites} sites, {donors} donors: run {number + 1}")
                run = _exchange(place, sites, donors, size)
                done.append({"sites": sites, "donors": donors, **run})
            result = {
                "bytes": size,
                "machine": system(),
                "model": model(done),
                "superlink": flower,
                "runs": done,
            }
            data = (json.dumps(result, indent=1) + "\n").encode()
            atomic.write(out / "bench-coordinator.json", data)
            atomic.write(out / "bench-coordinator.md", markdown(result).encode())
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return result


def _exchange(place: Path, sites: int, donors: int, size: int) -> dict[str, Any]:
    """One exchange in two processes; what each of them says of it."""
    from simulations.benches.bare_sites import FEDERATION

    work = place / "work"
    work.mkdir()
    home.create(work / "home", place / FEDERATION)
    ends = connection.Pipe()
    given = [str(place), str(sites), str(donors), str(size)]
    children = [
        subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__, who, *given, str(end.fileno())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[end.fileno()],
        )
        for who, end in zip(("coordinate", "play"), ends, strict=True)
    ]
    for end in ends:
        end.close()
    said = [child.communicate() for child in children]
    for child, (_, wrong) in zip(children, said, strict=True):
        if child.returncode:
            raise ExchangeError(f"a process of the bench failed: {wrong.decode()[-600:]}")
    run, at_sites = (json.loads(out.splitlines()[-1]) for out, _ in said)
    shutil.rmtree(work)
    trials = sites * donors
    if run["failures"] or (run["receipts"], run["witnesses"]) != (trials, sites):
        raise ExchangeError(
            f"{run['receipts']} receipts of {trials}, {run['witnesses']} of {sites} sites signed "
            f"the log, failures: {run['failures'][:3]}"
        )
    return {**run, "at_sites": at_sites}


def _main(who: str, place: str, sites: str, donors: str, size: str, end: str) -> None:
    pipe: Pipe = connection.Connection(int(end))
    work, count = Path(place) / "work", int(sites)
    if who == "coordinate":
        said = coordinate(work / "home", count, pipe)
    else:
        from simulations.benches.bare_sites import BareSites

        played = BareSites(Path(place), work, count, int(donors), int(size))
        play(played, pipe)
        said = {
            "proven": played.proven,
            "answered": dict(played.answered),
            "cpu_seconds": {name: round(one, 3) for name, one in played.cpu_seconds.items()},
        }
    print(json.dumps(said))


if __name__ == "__main__":
    _main(*sys.argv[1:])
