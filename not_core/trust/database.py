"""Small SQLite files that several processes write to, and that a power cut leaves whole."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from not_core.errors import HomeError

BUSY_SECONDS = 60
"""How long to wait for another process that writes."""


@contextmanager
def reading(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Open a database, completed by ``schema``; each statement after that stands for itself.

    Raises:
        HomeError: It is damaged, busy for too long, or cannot be written to.
    """
    # Its owner's alone before anything is in it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = EXTRA")
            database.executescript(schema)
            yield database
    except sqlite3.DatabaseError as error:
        raise HomeError(
            f"{path} cannot be used ({error}); if it is busy or the disk is full try again later, "
            "else put back its newest copy"
        ) from None


@contextmanager
def writing(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Open a database and hold it alone: all that is done is on disk afterwards, or none of it.

    Raises:
        HomeError: As ``reading``.
    """
    with reading(path, schema) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
