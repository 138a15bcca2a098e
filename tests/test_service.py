"""Processes that are kept running, and Flower's modules with names replaced."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from not_core.errors import ServiceError
from not_core.service import flower, supervisor
from not_core.service.supervisor import Program, Supervisor


def program(name: str, code: str, **more: object) -> Program:
    """A Python process that runs ``code``."""
    return Program(name=name, command=[sys.executable, "-c", code], **more)  # type: ignore[arg-type]


@contextmanager
def running(home: Path, *programs: Program) -> Iterator[list[str]]:
    """A supervisor in a thread, without its signals; ended afterwards."""
    said: list[str] = []
    one = Supervisor(home, programs)
    with pytest.MonkeyPatch.context() as monkeypatch, supervisor.held(home):
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        thread = threading.Thread(target=one.run, args=(said.append,))
        thread.start()
        try:
            yield said
        finally:
            one._on_signal(signal.SIGTERM, None)
            thread.join(30)
    assert not thread.is_alive()


def eventually(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SLEEP = "import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.05)


def test_what_ends_is_started_again_ever_more_slowly(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'a').write('x'); print('said', flush=True); raise SystemExit(3)"
    with running(tmp_path, program("short", code), program("long", SLEEP)) as said:
        eventually(lambda: mark.is_file() and len(mark.read_text()) >= 4)
        assert supervisor.status(tmp_path)["long"]["starts"] == 1
        assert supervisor.served_by(tmp_path) == os.getpid()
    ended = "short ended with 3 and is started again; see logs/short.log"
    assert said[:3] == ["short started", "long started", ended]
    assert (tmp_path / "logs" / "short.log").read_text().startswith("said\nsaid\n")
    assert (tmp_path / "logs" / "short.log").stat().st_mode & 0o777 == 0o600
    assert supervisor.status(tmp_path) == {}


def test_what_comes_later_waits_for_what_it_needs(tmp_path: Path) -> None:
    there = tmp_path / "there"
    first = program("first", SLEEP, ready=there.is_file)
    with running(tmp_path, first, program("second", SLEEP)) as said:
        eventually(lambda: said == ["first started"])
        time.sleep(0.1)
        assert said == ["first started"]
        there.touch()
        eventually(lambda: said == ["first started", "second started"])


def test_a_secret_is_given_each_time_and_stands_nowhere(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        "import os, sys, time; words = sys.stdin.read();"
        f"open({str(mark)!r}, 'a').write(words + ';'); time.sleep(60)"
    )
    one = program("one", code, secret=b"hush")
    assert "hush" not in repr(one)
    with running(tmp_path, one):
        eventually(lambda: mark.is_file() and mark.read_text() == "hush;")
        process = psutil.Process(supervisor.status(tmp_path)["one"]["pid"])
        assert "hush" not in process.environ().values()
        process.kill()
        eventually(lambda: mark.read_text() == "hush;hush;")


def test_what_runs_and_does_nothing_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)
    stalled = [True]
    one = program("one", SLEEP, stalled=lambda: bool(stalled) and stalled.pop())
    with running(tmp_path, one) as said:
        eventually(lambda: said.count("one started") == 2)
    assert "one has stalled and is started again" in said


def test_children_end_with_whoever_started_them(tmp_path: Path) -> None:
    """Even if it is killed, as by a machine that runs out of memory."""
    code = (
        "import sys, time; from not_core.service import supervisor as s;"
        "s.POLL_SECONDS = 0.02; s.end_with_parent(); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    outer = psutil.Popen([sys.executable, "-c", parent])
    eventually(lambda: outer.children())
    (child,) = outer.children()
    time.sleep(1.0)  # until it watches
    outer.kill()
    outer.wait()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_home_is_served_by_one_and_told_to_stop_by_its_lock(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="nothing serves"):
        supervisor.stop(tmp_path)
    with supervisor.held(tmp_path):
        pass
    (tmp_path / "run" / supervisor.STATUS).write_text('{"node": {"pid": 1}}')  # it was killed
    with supervisor.held(tmp_path):
        assert supervisor.served_by(tmp_path) == os.getpid()
        assert supervisor.status(tmp_path) == {}
        with pytest.raises(ServiceError, match="served by another"), supervisor.held(tmp_path):
            pass
    assert supervisor.served_by(tmp_path) is None


def test_stop_tells_nobody_whose_number_means_something_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a home on a container's volume holds a number of inside."""
    sent: list[int] = []
    with supervisor.held(tmp_path):
        monkeypatch.setattr(os, "kill", lambda process, number: sent.append(process))
        monkeypatch.setattr(supervisor, "_numbering", lambda: "pid:[1]")
        with pytest.raises(ServiceError, match="another container"):
            supervisor.stop(tmp_path)
    assert sent == []


def test_who_looks_at_a_lock_does_not_take_it(tmp_path: Path) -> None:
    """A look beside a start, and two looks at once, tell what is so."""
    with supervisor.held(tmp_path):
        pass
    wrong: list[object] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if (found := supervisor.served_by(tmp_path)) not in (None, os.getpid()):
                wrong.append(found)

    (tmp_path / "run" / "lock").write_text("1")  # of one that was killed
    looking = [threading.Thread(target=look) for _ in range(3)]
    for one in looking:
        one.start()
    for _ in range(100):
        with supervisor.held(tmp_path):
            assert supervisor.served_by(tmp_path) == os.getpid()
        assert supervisor.served_by(tmp_path) is None
    ended.set()
    for one in looking:
        one.join()
    assert wrong == []


def test_a_full_disk_ends_nothing_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]

    def write(*given: object, **more: object) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given, **more)

    real = supervisor.atomic.write
    monkeypatch.setattr(supervisor.atomic, "write", write)
    with running(tmp_path, program("long", SLEEP)) as said:
        eventually(lambda: said == ["long started"])
        time.sleep(0.1)
        assert supervisor.status(tmp_path) == {}
        full.clear()
        eventually(lambda: "long" in supervisor.status(tmp_path))


@pytest.mark.parametrize("full", [False, True])
def test_a_log_is_bounded_while_its_process_runs(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_aside = threading.Event()

    def copy(*given: Any) -> None:
        set_aside.set()
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        shutil.copyfile(*given)

    monkeypatch.setattr(supervisor.shutil, "copy", copy)
    monkeypatch.setattr(supervisor, "LOG_BYTES", 100)
    code = "import time\nfor n in range(10**6): print('x' * 50, flush=True); time.sleep(0.02)"
    log = tmp_path / "logs" / "long.log"
    with running(tmp_path, program("long", code)):
        assert set_aside.wait(20)
        eventually(lambda: full or log.with_suffix(".log.1").is_file())
        eventually(lambda: 0 < log.stat().st_size < 2000)
        assert b"\0" not in log.read_bytes()


def test_flower_of_another_version_or_shape_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = flower.replaced("json", dumps=json.dumps)
    assert kept is json
    with pytest.raises(ServiceError, match=r"no json\.nothing"):
        flower.replaced("json", nothing=1)
    assert not hasattr(json, "nothing")
    monkeypatch.setattr(flower, "version", lambda name: "1.42.0")
    with pytest.raises(ServiceError, match=r"flwr 1\.42\.0 is installed, expected 1\.41"):
        flower.replaced("json", dumps=json.dumps)


def test_a_piece_of_a_reply_is_waited_for_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = 0.0
    monkeypatch.setattr("not_core.service.flower.time.monotonic", lambda: moment)
    store = {"late": b"", "dead": b""}
    patient = flower.Patient(store)
    assert (patient.get("late"), patient.get("dead"), patient.get("none")) == (b"", b"", None)
    moment = flower.HANDED_OVER_SECONDS
    assert patient.get("dead") == b""
    store["late"] = b"here"
    moment += 1
    assert patient.get("late") == b"here"
    with pytest.raises(ServiceError, match="died over it"):
        patient.get("dead")
    assert patient.keys() == store.keys(), "all else is the store's"


def test_a_task_that_ends_without_a_reply_has_crashed() -> None:
    """With Flower's own state: whoever asked is told, where Flower's node would wait for ever."""
    state = InMemoryNodeState(ObjectStoreFactory().store())
    state.set_node_id(7)
    for fetched in (True, False):
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        asked = Message(RecordDict(), dst_node_id=7, message_type="query")
        asked.metadata.__dict__["_message_id"] = asked.object_id
        state.store_message(asked)
        task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=1, fab_hash="x")
        assert task is not None
        state.claim_task(task)
        state.activate_task(task)
        if fetched:
            assert state.get_messages_legacy(is_reply=False) == [asked]
        looks: list[float] = []

        def looked(seconds: float, task: int = task, looks: list[float] = looks) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                state.finish_task(task, SubStatus.FAILED, "")

        flower.await_reply(state, looked)
        assert len(looks) == 3
        (reply,) = state.get_messages_legacy(is_reply=True)
        assert reply.metadata.reply_to_message_id == asked.metadata.message_id
        assert reply.has_error()
        state.delete_messages()


def test_the_task_of_a_reply_that_has_gone_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Flower's own book of tasks: one that died is not found out over another's work."""
    state = InMemoryNodeState(ObjectStoreFactory().store())
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=1, fab_hash="x")
    assert task is not None
    token = state.claim_task(task)
    assert token
    state.activate_task(task)
    threading.Timer(0.2, state.finish_task, (task, SubStatus.COMPLETED, "")).start()
    flower.end_tasks(state)
    assert [one.status.sub_status for one in state.get_tasks()] == [SubStatus.COMPLETED]
    dead = state.create_task(task_type=TaskType.CLIENT_APP, run_id=1, fab_hash="x")
    assert dead is not None
    state.claim_task(dead)
    monkeypatch.setattr(flower, "OVER_SECONDS", 0.1)
    flower.end_tasks(state)
    assert [one.status.sub_status for one in state.get_tasks(task_ids=[dead])] == [SubStatus.FAILED]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("flwr.supercore.superexec.run_superexec", ("AutoExecPlugin", "get_executor")),
        (
            flower.RUN[flower.CLIENT],
            ("install_from_fab", "get_load_client_app_fn", "Error"),
        ),
        (
            flower.RUN[flower.SERVER],
            (
                "install_from_fab",
                "get_project_config",
                "get_fused_config_from_dir",
                "run_",
                "HttpGrid",
            ),
        ),
        (
            "flwr.supernode.start_client_internal",
            ("time", "TaskType", "_pull_and_store_message", "_push_messages"),
        ),
        ("flwr.supercore.protobuf.client", ("httpx",)),
        ("flwr.superlink.cli.flower_superlink", ("get_uvicorn_log_config",)),
    ],
)
def test_the_names_that_are_replaced_are_used_there(module: str, names: tuple[str, ...]) -> None:
    """A name that Flower no longer uses would be replaced in vain."""
    from importlib import import_module

    source = Path(str(import_module(module).__file__)).read_text()
    for name in names:
        assert source.count(name) >= 2, name
