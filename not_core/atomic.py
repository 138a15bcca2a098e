"""Files and folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from not_core.errors import OutputExistsError


def refuse_existing(out: Path) -> None:
    """Raise before any work is done when ``out`` is already taken.

    Raises:
        OutputExistsError: ``out`` exists and is not an empty folder.
    """
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputExistsError(f"{out} already exists; choose another place or remove it first")


@contextmanager
def folder(out: Path, mode: int = 0o755) -> Iterator[Path]:
    """Yield a temporary sibling of ``out`` that is renamed to ``out`` when the block succeeds.

    A block that fails, or a process that dies, leaves no folder of that name.

    Args:
        out: Folder to make; it must not exist, or be empty.
        mode: Permissions of the finished folder.

    Raises:
        OutputExistsError: ``out`` is taken.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield work
        work.chmod(mode)
        work.rename(out)  # replaces an empty folder, fails on one that has been filled meanwhile
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
        work.replace(out)
    finally:
        work.unlink(missing_ok=True)


def write(out: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` to ``out``, whole or not at all; replaces a file that is there."""
    with file(out, mode) as work:
        work.write_bytes(data)
