"""What a service tells whoever watches it."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from metrics import figures
from starlette.applications import Starlette

from not_core.errors import HomeError, ServiceError
from not_core.service import monitor, supervisor
from not_core.service.monitor import WELL, gauge, number


def status(home: Path, **processes: int | None) -> None:
    """What a supervisor writes of its processes."""
    rows = {name: {"pid": pid, "since": 0, "starts": 2} for name, pid in processes.items()}
    (home / "run" / supervisor.STATUS).write_text(json.dumps(rows))


@pytest.fixture
def served() -> Iterator[Callable[[Starlette], httpx.Client]]:
    """A client of an application that is served."""
    with ExitStack() as stack:

        def caller(app: Starlette) -> httpx.Client:
            port = supervisor.free_port()
            stack.enter_context(monitor.answering(app, port))
            address = f"http://127.0.0.1:{port}"
            return stack.enter_context(httpx.Client(base_url=address, timeout=20))

        yield caller


def refused() -> str:
    raise HomeError("no home here")


def test_health_is_that_all_runs_and_every_check_finds_all_well(
    tmp_path: Path, served: Callable[[Starlette], httpx.Client]
) -> None:
    client = served(monitor.app(tmp_path, {"disk": lambda: WELL}, list))
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json() == {"processes": "nothing runs", "disk": WELL}
    with supervisor.held(tmp_path):
        status(tmp_path, node=os.getpid())
        assert client.get("/healthz").json() == {"processes": WELL, "disk": WELL}
        assert client.get("/healthz").status_code == 200
        status(tmp_path, node=os.getpid(), gateway=None)
        assert client.get("/healthz").json()["processes"] == "not running: gateway"
        status(tmp_path, node=os.getpid())
        for check, said in ((refused, "home: no home here"), (lambda: "full", "full")):
            other = served(monitor.app(tmp_path, {"disk": check}, list))
            answer = other.get("/healthz")
            assert (answer.status_code, answer.json()["disk"]) == (503, said)
            assert figures(other)["organ_healthy", "disk"] == 0


def test_metrics_are_those_of_the_processes_and_of_the_service(
    tmp_path: Path, served: Callable[[Starlette], httpx.Client]
) -> None:
    made = monitor.app(
        tmp_path,
        {"disk": lambda: WELL},
        lambda: [gauge("organs", "Organs.", {"a": 2, "b": 3}), number("sites", "Sites.", 7)],
    )
    with supervisor.held(tmp_path):
        status(tmp_path, node=os.getpid(), gone=2**22 + 1, away=None)
        found = figures(served(made))
    assert found["organ_organs", "b"] == 3
    assert found["organ_sites",] == 7
    assert (found["organ_healthy", "disk"], found["organ_healthy", "processes"]) == (1, 0)
    assert found["organ_process_starts", "node"] == 2
    assert found["organ_process_resident_bytes", "node"] > 10e6
    assert found["organ_process_open_files", "node"] > 2
    assert ("organ_process_resident_bytes", "gone") not in found


def test_nothing_else_is_answered_and_a_taken_port_is_named(
    tmp_path: Path, served: Callable[[Starlette], httpx.Client]
) -> None:
    app = monitor.app(tmp_path, {}, list)
    assert served(app).get("/").status_code == 404
    with (
        ExitStack() as stack,
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ServiceError, match="monitor_port"),
    ):
        stack.enter_context(monitor.answering(app, taken.getsockname()[1]))


def test_a_check_that_breaks_is_wrong_and_figures_that_break_are_left_out(
    tmp_path: Path, served: Callable[[Starlette], httpx.Client]
) -> None:
    def broken() -> str:
        raise KeyError("a word of a record")

    def half() -> Iterator[Any]:
        yield number("sites", "Sites.", 7)
        broken()

    client = served(monitor.app(tmp_path, {"disk": broken}, half))
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["disk"]) == (503, "internal: KeyError")
    found = figures(client)
    assert (found["organ_healthy", "disk"], found["organ_healthy", "figures"]) == (0, 0)
    assert found["organ_sites",] == 7


def test_what_takes_long_is_done_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    @monitor.lately
    def slow() -> str:
        done.append(1)
        if len(done) > 1:
            raise HomeError("changed")
        return WELL

    assert [slow(), slow(), len(done)] == [WELL, WELL, 1]
    monkeypatch.setattr(monitor, "KEPT_SECONDS", 0.0)
    assert slow() == "home: changed"
    monkeypatch.setattr(monitor, "KEPT_SECONDS", 60.0)
    assert [slow(), len(done)] == ["home: changed", 2]
