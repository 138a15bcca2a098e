"""Files and folders that appear whole or not at all, and are on disk when they do."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from not_core.errors import OutputExistsError


def refuse_existing(out: Path) -> None:
    """Raise before any work is done when ``out`` is already taken.

    Raises:
        OutputExistsError: ``out`` exists and is not an empty folder that can be replaced.
    """
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputExistsError(f"{out} already exists; choose another place or remove it first")
    # A folder is made beside its place and renamed into it, which these do not allow.
    if out.is_dir() and (out.resolve() == Path.cwd() or os.path.ismount(out)):
        raise OutputExistsError(
            f"{out} is the folder that this program runs in, or a mount point, and cannot be "
            "replaced; name a new folder in it"
        )


@contextmanager
def folder(out: Path, mode: int = 0o755) -> Iterator[Path]:
    """Yield a temporary sibling of ``out`` that is renamed to ``out`` when the block succeeds.

    A block that fails, or a process that dies, leaves no folder of that name. What a dead process
    left of a sibling is removed; what a living one is at work on is left alone.

    Args:
        out: Folder to make; it must not exist, or be empty.
        mode: Permissions of the finished folder.

    Raises:
        OutputExistsError: ``out`` is taken.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    work, lock = _claimed(out)
    try:
        yield work
        work.chmod(mode)
        for path in [*work.rglob("*"), work]:
            _sync(path)
        work.rename(out)  # replaces an empty folder, fails on one that has been filled meanwhile
        _sync(out.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: no power cut takes them back."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        # Not every filesystem can do so for a folder.
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def _claimed(out: Path) -> tuple[Path, int]:
    """A new temporary sibling, and the lock on it that tells others that its maker lives."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        try:
            lock = os.open(work, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept before it could be locked
        # A filesystem without locks keeps what dead processes leave.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if work.exists():
            return work, lock
        os.close(lock)


def _sweep(out: Path) -> None:
    """Remove temporary siblings of ``out`` whose makers are dead, which the system unlocked."""
    name = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}\.partial")
    beside: list[Path] = []
    with suppress(OSError):  # a folder that may be written to need not be readable
        beside = sorted(out.parent.iterdir())
    for left in beside:
        if not name.fullmatch(left.name) or left.is_symlink() or not left.is_dir():
            continue
        with suppress(OSError):  # in use, gone, another user's, or on a filesystem without locks
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder alone: who else asks for it waits. Not to be nested.

    Args:
        folder: What is read, compared and written meanwhile; it must exist.
        wait: Until another lets go of it.

    Raises:
        BlockingIOError: Another holds it, and this one does not wait.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


@contextmanager
def file(out: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield the path of a temporary sibling of ``out`` that replaces ``out`` on success."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
    os.close(handle)
    work = Path(name)
    try:
        yield work
        work.chmod(mode)
        _sync(work)
        work.replace(out)
        _sync(out.parent)
    finally:
        work.unlink(missing_ok=True)


def moved(part: Path, out: Path, mode: int = 0o644) -> None:
    """Move a whole file to ``out``; who dies over it leaves it where it was, or there.

    To another filesystem it is copied, to one name beside ``out`` that the next attempt takes.
    """
    part.chmod(mode)
    _sync(part)
    try:
        part.replace(out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        work = out.with_name(f".{out.name}.partial")
        shutil.copyfile(part, work)
        work.chmod(mode)
        _sync(work)
        work.replace(out)
        _sync(out.parent)
        part.unlink()
    _sync(out.parent)


def write(out: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` to ``out``, whole or not at all; replaces a file that is there."""
    with file(out, mode) as work:
        work.write_bytes(data)
