"""What operators' own watching asks a service: ``/healthz``, and ``/metrics`` for Prometheus.

It listens on loopback only. Nothing here tells of a record or of an organ's tensors.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from not_core.errors import NotError, ServiceError
from not_core.service import supervisor
from not_core.service.supervisor import LOOPBACK

WELL = "ok"

Check = Callable[[], str]
"""Says ``WELL``, or what is wrong; a ``NotError`` that it raises says so, too."""

KEPT_SECONDS = 60.0
"""How long what a check that takes long has said is believed."""

Figures = Callable[[], Iterable[Metric]]


def lately(check: Check) -> Check:
    """A check that takes long: what it said is said again for ``KEPT_SECONDS``."""
    lock, words, when = threading.Lock(), WELL, float("-inf")

    def said() -> str:
        nonlocal words, when
        with lock:
            if time.monotonic() - when >= KEPT_SECONDS:
                words, when = _said(check), time.monotonic()
            return words

    return said


def gauge(name: str, words: str, values: Mapping[str, float], label: str = "name") -> Metric:
    """A figure of several things, by a label."""
    family = GaugeMetricFamily(f"organ_{name}", words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def number(name: str, words: str, value: float) -> Metric:
    """One figure."""
    return GaugeMetricFamily(f"organ_{name}", words, value=value)


def app(home: Path, checks: Mapping[str, Check], figures: Figures) -> Starlette:
    """What answers, as an ASGI application.

    Args:
        home: Of the service.
        checks: Besides that all its processes run.
        figures: Besides those of its processes.
    """
    everything = {"processes": lambda: _processes(home), **checks}

    def said() -> dict[str, str]:
        return {name: _said(check) for name, check in everything.items()}

    class Figured(Collector):
        def collect(self) -> Iterator[Metric]:
            well = {name: float(words == WELL) for name, words in said().items()}
            found: list[Metric] = []

            def counted() -> str:
                found.extend(_figures(home))
                found.extend(figures())
                return WELL

            well["figures"] = float(_said(counted) == WELL)
            yield gauge("healthy", "Whether a check finds all well.", well, "check")
            yield from found

    registry = CollectorRegistry()
    registry.register(Figured())

    def healthz(request: Request) -> Response:
        found = said()
        well = all(words == WELL for words in found.values())
        return JSONResponse(found, status_code=200 if well else 503)

    def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])


@contextmanager
def answering(app: Starlette, port: int) -> Iterator[None]:
    """Answer on a port of loopback meanwhile.

    Raises:
        ServiceError: The port is taken.
    """
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise ServiceError(
            f"the monitor cannot listen on port {port} ({error.strerror}); choose another "
            "monitor_port"
        ) from None
    config = uvicorn.Config(
        app, ws="none", log_level="warning", access_log=False, server_header=False
    )
    server = uvicorn.Server(config)
    with listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


def _said(check: Check) -> str:
    try:
        return check()
    except NotError as error:
        return f"{error.code}: {error}"
    except Exception as error:  # an answer all the same; its text may tell what nobody knows
        return f"internal: {type(error).__name__}"


def _processes(home: Path) -> str:
    rows = supervisor.status(home)
    away = sorted(name for name, row in rows.items() if row["pid"] is None)
    if not rows:
        return "nothing runs"
    return f"not running: {', '.join(away)}" if away else WELL


def _figures(home: Path) -> Iterator[Metric]:
    starts = {name: row["starts"] for name, row in supervisor.status(home).items()}
    yield gauge("process_starts", "How often each process was started.", starts, "process")
    pids = supervisor.pids(home)
    yield gauge("process_resident_bytes", "Memory, in bytes.", _each(pids, _resident), "process")
    yield gauge("process_open_files", "Open files.", _each(pids, _open_files), "process")


def _each(pids: Mapping[str, int], figure: Callable[[Path], float]) -> dict[str, float]:
    found = {}
    for name, pid in pids.items():
        with suppress(OSError):  # it has just ended, or this system does not tell
            found[name] = figure(Path(f"/proc/{pid}"))
    return found


def _resident(process: Path) -> float:
    lines = (process / "status").read_text(encoding="ascii").splitlines()
    return 1024.0 * int(dict(line.split(":", 1) for line in lines)["VmRSS"].removesuffix("kB"))


def _open_files(process: Path) -> float:
    return float(len(list((process / "fd").iterdir())))
