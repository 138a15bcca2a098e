"""Keeps a few processes running: starts them in order, starts them again, ends them together.

In a service's home: ``run/lock`` (held while it runs; holds its process id), ``run/status.json``
(what runs since when, and how often it was started again) and ``logs/NAME.log``.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from not_core import atomic
from not_core.errors import ServiceError

LOOPBACK = "127.0.0.1"
LOCK, STATUS = "lock", "status.json"
POLL_SECONDS = 0.2
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds before a process that ended is started again; doubled each time."""
STEADY_SECONDS = 60.0
"""A process that ran so long had nothing wrong with it when it was started."""
STOP_SECONDS = 10.0
PROBE_SECONDS = 1.0
"""Longest that a look at a lock takes."""
PR_SET_DUMPABLE = 4
"""Of Linux's ``sys/prctl.h``."""
PARENT = "ORGAN_EXCHANGE_PARENT"
"""Environment variable that tells a program who started it: it may be gone before one can ask."""
LOG_BYTES = 16 * 1024 * 1024
"""What a longer log holds is set aside, as ``NAME.log.1``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to keep running.

    Attributes:
        name: Of its log and in the status.
        command: What starts it.
        environment: Added to this process's own.
        secret: What it is given on its standard input, which then ends; None for nothing.
        ready: Whether what is started after it may start.
        stalled: Whether it runs but does nothing; it is then ended and started again.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    secret: bytes | None = field(default=None, repr=False)
    ready: Callable[[], bool] = lambda: True
    stalled: Callable[[], bool] = lambda: False


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    delay: float = FIRST_DELAY
    due: float = 0.0
    was_ready: bool = False


class Supervisor:
    """Runs programs until it is told to stop.

    Args:
        home: The service's folder.
        programs: In the order in which they depend on each other.
    """

    def __init__(self, home: Path, programs: Sequence[Program]) -> None:
        self._home = home
        self._running = [_Running(program) for program in programs]
        self._stop = False
        self._to_report = False

    def run(self, told: Callable[[str], None] = lambda text: None) -> None:
        """Run until SIGTERM or SIGINT, then end all programs, the last one first.

        Its home is ``held`` meanwhile, and from before anything of it is changed.

        Args:
            told: Told what starts and ends.
        """
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while not self._stop:
                self._look(told)
                time.sleep(POLL_SECONDS)
        finally:
            for one in reversed(self._running):
                end(one.process)
            (self._home / "run" / STATUS).unlink(missing_ok=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def _look(self, told: Callable[[str], None]) -> None:
        for one in self._running:
            try:
                if one.process is not None:
                    set_aside(self._log(one))
                    self._to_report |= self._check(one, told)
                elif time.monotonic() >= one.due:
                    self._start(one)
                    told(f"{one.program.name} started")
                    self._to_report = True
            except OSError as error:  # such as a full disk: what runs goes on
                told(f"{one.program.name} cannot be started ({error.strerror}); tried again")
                _put_off(one)
            if not one.was_ready:
                one.was_ready = one.process is not None and one.program.ready()
            if not one.was_ready:
                break  # what comes after it waits, once
        if self._to_report:
            with suppress(OSError):
                self._report()
                self._to_report = False

    def _check(self, one: _Running, told: Callable[[str], None]) -> bool:
        """Whether a process has ended, or was ended because it had stalled."""
        assert one.process is not None  # noqa: S101
        code = one.process.poll()
        if code is None:
            young = time.monotonic() - one.started < STEADY_SECONDS
            if young or not one.program.stalled():
                return False
            told(f"{one.program.name} has stalled and is started again")
            end(one.process)
        else:
            log = f"logs/{one.program.name}.log"
            told(f"{one.program.name} ended with {code} and is started again; see {log}")
        if time.monotonic() - one.started > STEADY_SECONDS:
            one.delay = FIRST_DELAY
        one.process = None
        _put_off(one)
        return True

    def _log(self, one: _Running) -> Path:
        return self._home / "logs" / f"{one.program.name}.log"

    def _start(self, one: _Running) -> None:
        log = self._log(one)
        log.parent.mkdir(mode=0o700, exist_ok=True)
        log.touch(mode=0o600)
        with log.open("ab") as out:
            one.process = subprocess.Popen(  # noqa: S603
                one.program.command,
                stdin=subprocess.DEVNULL if one.program.secret is None else subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={**os.environ, **one.program.environment, PARENT: str(os.getpid())},
                start_new_session=True,
            )
        if one.process.stdin is not None:
            with suppress(BrokenPipeError), one.process.stdin as pipe:
                pipe.write(one.program.secret or b"")
        one.started = time.monotonic()
        one.starts += 1

    def _report(self) -> None:
        rows = {
            one.program.name: {
                "pid": None if one.process is None else one.process.pid,
                "since": round(time.time() - (time.monotonic() - one.started)),
                "starts": one.starts,
            }
            for one in self._running
        }
        atomic.write(self._home / "run" / STATUS, json.dumps(rows).encode(), mode=0o600)


def _put_off(one: _Running) -> None:
    one.due = time.monotonic() + one.delay
    one.delay = min(2 * one.delay, LONGEST_DELAY)


def set_aside(log: Path) -> None:
    """Keep a long log's text beside it, where there is room; what writes to it goes on."""
    if log.is_file() and log.stat().st_size > LOG_BYTES:
        with suppress(OSError):
            shutil.copy(log, log.with_suffix(".log.new"))
            log.with_suffix(".log.new").replace(log.with_suffix(".log.1"))
        os.truncate(log, 0)


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Hold the lock that says a service runs; the system lets go of it when the process ends.

    Raises:
        ServiceError: Another process holds it.
    """
    path = home / "run" / LOCK
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        deadline = time.monotonic() + PROBE_SECONDS
        while not _locked(file, fcntl.LOCK_EX):  # perhaps by somebody who looks whether it is
            if time.monotonic() > deadline:
                raise ServiceError(f"{home} is served by another process; stop it first")
            time.sleep(PROBE_SECONDS / 20)
        file.truncate(0)
        file.write(f"{os.getpid()} {_numbering()}")
        file.flush()
        (path.parent / STATUS).unlink(missing_ok=True)  # of one that was killed
        yield


def served_by(home: Path) -> int | None:
    """The process that serves a home; None where none does."""
    found = _holder(home)
    return None if found is None else found[0]


def _holder(home: Path) -> tuple[int, str] | None:
    """The process that serves a home, and whose numbers it is counted by."""
    path = home / "run" / LOCK
    if not path.is_file():
        return None
    with path.open("r", encoding="ascii") as file:
        before = ""
        while not _locked(file, fcntl.LOCK_SH):
            file.seek(0)
            # Read twice: whoever has just begun has not yet written over who was killed.
            if (written := file.read()) and written == before:
                number, _, numbering = written.partition(" ")
                return int(number), numbering
            before = written
            time.sleep(PROBE_SECONDS / 20)
    return None


def _numbering() -> str:
    """Names what counts processes here: each container does for itself; empty but on Linux."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def status(home: Path) -> dict[str, dict[str, Any]]:
    """What runs, by name: ``pid``, ``since`` (seconds since the epoch), ``starts``."""
    path = home / "run" / STATUS
    if served_by(home) is None or not path.is_file():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
    return found


def pids(home: Path) -> dict[str, int]:
    """Process ids, by name, of what runs now; what is to be started again is not there."""
    rows = status(home).items()
    return {name: row["pid"] for name, row in rows if row["pid"] is not None}


def stop(home: Path, seconds: float = 60.0) -> None:
    """Tell the process that serves a home to stop, and wait until it has.

    Raises:
        ServiceError: None does, or it does not stop.
    """
    if not home.is_dir():
        raise ServiceError(f"there is no home {home}; give the folder that 'init' made")
    found = _holder(home)
    if found is None:
        raise ServiceError(f"nothing serves {home}; start it with 'start'")
    process, numbering = found
    if numbering != _numbering():
        raise ServiceError(f"{home} is served from another container; stop it there")
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while served_by(home) is not None:
        if time.monotonic() > deadline:
            raise ServiceError(
                f"process {process} has not stopped in {seconds:g} seconds; see logs/ in {home}, "
                "stop it again, or end it by 'kill -KILL'"
            )
        time.sleep(POLL_SECONDS)


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def listens(path: Path) -> bool:
    """Whether something listens on that Unix socket."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """What runs a module of an installed package as a process.

    ``-P`` keeps the folder that the process happens to start in out of what it imports.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def end_with_parent() -> None:
    """End this process when its parent is gone, however the parent ended, and be it by now."""
    parent = int(os.environ.pop(PARENT, "") or os.getppid())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def keep_memory_private() -> None:
    """Keep this user's other processes from reading this one's memory, and it out of core dumps.

    On Linux; elsewhere nothing is done.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def end(process: subprocess.Popen[bytes] | None) -> None:
    """Ask a process to end, and make it end when it does not."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
