"""What a site is doing right now, in ``work/progress.json``, for its operator's eyes only."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from client.home import Site
from not_core import atomic, canonical
from not_core.canonical import STRICT
from not_core.errors import FormatError

EVERY_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Doing:
    """A step and how far it is, in tokens, as the process of that number says."""

    step: str
    done: int
    total: int
    process: Annotated[int, Field(gt=0)]


@contextmanager
def writer(site: Site, step: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told of tokens done; the file goes when the block ends."""
    path = site.place("work", "progress.json")
    done, written = 0, 0.0

    def advance(tokens: int) -> None:
        nonlocal done, written
        done += tokens
        if time.monotonic() - written > EVERY_SECONDS:
            written = time.monotonic()
            doing = Doing(step=step, done=min(done, total), total=total, process=os.getpid())
            atomic.write(path, canonical.encode(doing), mode=0o600)

    try:
        advance(0)
        yield advance
    finally:
        path.unlink(missing_ok=True)


def read(home: Path) -> Doing | None:
    """What the site is doing; None when it is idle, or whoever said so is no longer there."""
    path = home / "work" / "progress.json"
    try:
        doing = canonical.decode(Doing, path.read_bytes(), path.name)
    except (OSError, FormatError):
        return None
    return doing if _runs(doing.process) else None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True
