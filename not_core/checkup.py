"""One check after the other, each with what to do next: what ``doctor`` commands are made of."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from not_core.errors import NotError, SetupError

LEAST_FREE = 2 * 2**30
"""Bytes of disk below which work would soon stop."""

Check = tuple[str, Callable[[], str]]
"""A name, and what says how it is, or raises why it is not well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of one check; ``says`` ends with what to do next where it is not well."""

    check: str
    well: bool
    says: str


def examined(checks: Sequence[Check], place: Path) -> Iterator[Found]:
    """Do checks; what rests on something that is not well fails for the same reason.

    Args:
        checks: In their order.
        place: What an error that names no file is about.
    """
    for name, check in checks:
        try:
            yield Found(check=name, well=True, says=check())
        except NotError as error:
            yield Found(check=name, well=False, says=str(error))
        except OSError as error:
            words = f"{error.filename or place}: {error.strerror or type(error).__name__}"
            yield Found(check=name, well=False, says=f"{words}; check path and permissions")


def disk(place: Path, room: str) -> str:
    """How much is free where a folder is, or will be made.

    Args:
        place: The folder.
        room: What to remove if that is too little.

    Raises:
        SetupError: It is too little.
    """
    there = next(one for one in (place, *place.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        raise SetupError(
            f"{free / 2**30:.1f} GiB are free, {LEAST_FREE / 2**30:.0f} are needed; make room, "
            f"such as in {room}"
        )
    return f"{free / 2**30:.0f} GiB free"
