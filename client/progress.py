"""What a site is doing right now, in ``work/progress.json``, for its operator's eyes only."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from client.home import Site
from not_core import atomic

EVERY_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """A step and how far it is, in tokens."""

    step: str
    done: int
    total: int


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
            doing = Doing(step=step, done=min(done, total), total=total)
            atomic.write(path, json.dumps(asdict(doing)).encode(), mode=0o600)

    try:
        advance(0)
        yield advance
    finally:
        path.unlink(missing_ok=True)


def read(home: Path) -> Doing | None:
    """What the site is doing; None when it is idle."""
    try:
        return Doing(**json.loads((home / "work" / "progress.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
