"""The organ bank in a folder, behind fsspec's own stores, and in a real server that speaks S3."""

import errno
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from s3fs import S3FileSystem
from servers import S3, s3
from trust_world import World

from not_core import canonical
from not_core.errors import BankError
from server import bank as banks
from server.bank import CHUNK, Bank, FolderBank, chunks, make_bank, open_bank

LARGE = 3 * CHUNK + 12_345


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3(tmp_path_factory.mktemp("s3")) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(params=["folder", "file", "s3"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    if request.param == "folder":
        make_bank("bank", tmp_path)
        return open_bank("bank", tmp_path)
    if request.param == "file":
        (tmp_path / "bank").mkdir()
        return open_bank(f"file://{tmp_path}/bank", tmp_path)
    found: S3 = request.getfixturevalue("server")
    return open_bank(found.url, tmp_path)


def part(tmp_path: Path, size: int) -> tuple[str, Path]:
    """A file of so many bytes, each 4 KiB of it another, and its digest."""
    path = tmp_path / "x.part"
    with path.open("wb") as file:
        for block in range(-(-size // 4096)):
            file.write(block.to_bytes(4, "big") * min(1024, (size - 4096 * block) // 4))
        file.truncate(size)
    return canonical.sha256_file(path), path


@pytest.mark.parametrize("size", [1, CHUNK, LARGE])
def test_a_body_is_put_read_by_ranges_and_removed(bank: Bank, size: int, tmp_path: Path) -> None:
    body, path = part(tmp_path, size)
    whole = path.read_bytes()
    assert bank.size(body) is None
    bank.put(body, path)
    assert not path.exists()
    assert bank.size(body) == size
    assert b"".join(chunks(bank, body)) == whole
    for offset, length in ((0, 1), (size - 1, 99), (size // 2, 1000), (size, 5)):
        assert bank.read(body, offset, length) == whole[offset : offset + length]
    path.write_bytes(whole)
    bank.put(body, path)  # again
    assert bank.size(body) == size
    bank.remove(body)
    bank.remove(body)
    assert bank.size(body) is None
    with pytest.raises(BankError):
        bank.read(body, 0, 1)


def test_memory_does_not_grow_with_a_body(bank: Bank, tmp_path: Path) -> None:
    peaks = []
    for size in (2 * CHUNK, 6 * CHUNK):
        body, path = part(tmp_path, size)
        tracemalloc.start()
        bank.put(body, path)
        assert sum(map(len, chunks(bank, body))) == size
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + CHUNK


def test_a_body_whose_upload_breaks_off_does_not_appear(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, path = part(tmp_path, LARGE)

    def breaks(source: object, target: IO[bytes] | Path, *_: object) -> None:
        half = path.read_bytes()[: 2 * CHUNK]
        target.write_bytes(half) if isinstance(target, Path) else target.write(half)
        raise OSError("the line is cut")

    def elsewhere(part: Path, out: Path) -> Path:
        if part.parent != out.parent:
            raise OSError(errno.EXDEV, "another filesystem")
        return renamed(part, out)

    renamed = Path.replace
    monkeypatch.setattr(Path, "replace", elsewhere)
    name = "copyfile" if isinstance(bank, FolderBank) else "copyfileobj"
    monkeypatch.setattr(banks.shutil, name, breaks)
    with pytest.raises(BankError):
        bank.put(body, path)
    assert bank.size(body) is None
    assert path.exists()
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", elsewhere)
    bank.put(body, path)
    assert bank.size(body) == LARGE
    assert not path.exists()
    if isinstance(bank, FolderBank):
        assert len(list(tmp_path.rglob("*.body*"))) == 1, "nothing is left of the first attempt"


KILLED = """
import sys, time
from pathlib import Path
from server import bank as banks
def breaks(source, target, length):
    target.write(source.read(2 * length))
    print("half way", flush=True)
    time.sleep(60)
banks.shutil.copyfileobj = breaks
banks.open_bank(sys.argv[1], Path()).put(sys.argv[2], Path(sys.argv[3]))
"""


def test_a_body_whose_upload_is_killed_does_not_appear(server: S3, tmp_path: Path) -> None:
    body, path = part(tmp_path, LARGE + 4096)
    one = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", KILLED, server.url, body, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert one.stdout is not None
    assert one.stdout.readline() == b"half way\n"
    one.kill()
    one.wait()
    one.stdout.close()
    bank = open_bank(server.url, tmp_path)
    assert bank.size(body) is None
    assert not list(server.folder.glob(f"{body}*"))
    bank.put(body, path)
    assert canonical.sha256_file(server.folder / f"{body}.body") == body


def test_credentials_come_from_the_environment_and_no_message_shows_them(
    server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, path = part(tmp_path, 10)
    for name, value in (
        ("AWS_SECRET_ACCESS_KEY", "not-the-secret"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            S3FileSystem.clear_instance_cache()
            with pytest.raises(BankError, match="the bank's store failed to") as caught:
                open_bank(server.url + "/other", tmp_path).put(body, path)
        assert not {"not-the-secret", "organ-key", "organ-secret"} & set(str(caught.value).split())
    S3FileSystem.clear_instance_cache()
    for url in ("s3://key:secret@organs/bank", "s3://key@organs"):
        with pytest.raises(BankError, match="holds a user or password") as caught:
            open_bank(url, tmp_path)
        assert "secret@" not in str(caught.value)
    with pytest.raises(BankError):
        open_bank("nothing://organs", tmp_path)


def test_a_home_keeps_its_bank_where_it_is_told(
    server: S3, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    from server import home
    from server.commands import app

    world = World(tmp_path / "world")
    root = world.place / "federation" / "root.pem"
    for name, place in (("s3", server.url), ("elsewhere", str(tmp_path / "bodies"))):
        words = ("init", tmp_path / name, "--root", root, "--bank", place)
        assert call(*words, app=app)[0] == 0
        body, path = part(tmp_path, 100)
        with home.opened(tmp_path / name) as coordinator:
            coordinator.bank.put(body, path)
        assert not (tmp_path / name / "bank").exists()
    assert (server.folder / f"{body}.body").is_file()
    assert (tmp_path / "bodies" / f"{body}.body").is_file()
    words = ("init", tmp_path / "wrong", "--root", root, "--bank", "s3://a:b@organs")
    assert call(*words, app=app)[0] == 1
    assert not (tmp_path / "wrong").exists()
