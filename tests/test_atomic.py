"""What has appeared is on disk."""

import os
from pathlib import Path

import pytest

from not_core import atomic

SYNC = atomic._sync


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in this order; the names of temporary siblings are cut."""
    found: list[str] = []

    def name(path: Path) -> str:
        return "new" if path.suffix == ".partial" else path.name

    def sync(path: Path) -> None:
        SYNC(path)
        found.append(f"sync {name(path)}")

    def moved(act: str) -> None:
        original = getattr(Path, act)

        def spy(path: Path, to: Path) -> Path:
            found.append(f"{name(path)} to {name(to)}")
            return Path(original(path, to))

        monkeypatch.setattr(Path, act, spy)

    monkeypatch.setattr(atomic, "_sync", sync)
    moved("rename")
    moved("replace")
    return found


def test_a_file_is_on_disk_before_its_name_and_its_name_afterwards(
    tmp_path: Path, done: list[str]
) -> None:
    atomic.write(tmp_path / "a", b"x")
    assert done == ["sync new", "new to a", f"sync {tmp_path.name}"]


def test_a_folder_is_on_disk_to_the_last_file_before_its_name(
    tmp_path: Path, done: list[str]
) -> None:
    with atomic.folder(tmp_path / "a") as work:
        (work / "in").mkdir()
        (work / "in" / "b").write_bytes(b"x")
        (work / "link").symlink_to("nowhere")
    assert sorted(done[:4]) == ["sync b", "sync in", "sync link", "sync new"]
    assert done[4:] == ["new to a", f"sync {tmp_path.name}"]


def test_a_disk_that_fails_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic, "_sync", SYNC)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        atomic.write(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []
    SYNC(tmp_path)  # a filesystem that cannot do so for folders


def test_a_file_that_is_moved_is_there_or_still_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, out = tmp_path / "part", tmp_path / "out"
    part.write_bytes(b"whole")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_sync", killed)
    with pytest.raises(KeyboardInterrupt):
        atomic.moved(part, out)
    assert [one.name for one in tmp_path.iterdir()] == ["part"]
    monkeypatch.setattr(atomic, "_sync", SYNC)
    atomic.moved(part, out, mode=0o600)
    assert (out.read_bytes(), out.stat().st_mode & 0o777) == (b"whole", 0o600)
    assert not part.exists()
