"""The catalogue's database: SQLite or PostgreSQL, opened, locked for writing, brought up to date.

Gateway, keeper, runs and operators' commands all have it open at once. One of them writes at a
time, whatever the database; who comes second waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from not_core.errors import CatalogueError
from server import migrations

WAIT_SECONDS = 60
"""How long a writer waits for another, of whom each takes milliseconds."""

_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}

# Read, then write, must see no other writer in between. SQLite's own BEGIN takes the lock only at
# the first write, and then refuses at once if there was one.
_LOCKS = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(7310311428)",
}


def address(url: str) -> URL:
    """Read the URL of a database.

    Raises:
        CatalogueError: Not one of SQLite or PostgreSQL, or with a password in it.
    """
    try:
        read = make_url(url)
        backend = read.get_backend_name()
    except ArgumentError:
        raise CatalogueError(
            "the catalogue's address is not a URL; expected one like postgresql://user@host/name"
        ) from None
    if backend not in _DRIVERS:
        raise CatalogueError(
            f"the catalogue's address begins with {backend}://; write postgresql://, or sqlite://"
        )
    if read.password is not None or "password" in read.query:
        raise CatalogueError(
            "the catalogue's address holds a password; leave it out, and name a file by "
            "--password-file, or set PGPASSWORD or PGPASSFILE where the coordinator runs"
        )
    return read.set(drivername=_DRIVERS[backend])


def connect(url: URL) -> Engine:
    """Make an engine; it connects when it is used.

    Raises:
        CatalogueError: The database's driver is not installed.
    """
    options: dict[str, Any] = {"connect_args": {"connect_timeout": WAIT_SECONDS}}
    options["pool_pre_ping"] = True
    if url.get_backend_name() == "sqlite":
        # Without an isolation level Python begins nothing by itself. No connection is kept: who
        # else reads the file in this process takes SQLite's locks away, as POSIX has it, and one
        # that is left open then writes to a log that others have removed.
        arguments = {"timeout": WAIT_SECONDS, "isolation_level": None}
        options = {"connect_args": arguments, "poolclass": NullPool}
    try:
        return create_engine(url, hide_parameters=True, **options)
    except ImportError:
        raise CatalogueError(
            f"no driver for {url.get_backend_name()} is installed here; run "
            "pip install 'organ-exchange[postgresql]'"
        ) from None


def lock(connection: Connection) -> None:
    """Keep all other writers waiting until this transaction ends."""
    connection.exec_driver_sql(_LOCKS[connection.dialect.name])


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that only reads.

    Raises:
        CatalogueError: The database fails.
    """
    with reported(engine), Session(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session that writes: all of it or nothing, and no other beside it.

    Raises:
        CatalogueError: The database fails.
    """
    with reported(engine), Session(engine) as session, session.begin():
        lock(session.connection())
        yield session


@contextmanager
def reported(engine: Engine) -> Iterator[None]:
    """Say what fails at the database in the project's words.

    Raises:
        CatalogueError: Something does.
    """
    try:
        yield
    except DBAPIError as error:
        raise CatalogueError(
            f"the catalogue at {engine.url.render_as_string()} failed "
            f"({type(error.orig).__name__}: {_first_line(error.orig)}); check that its server "
            "runs, its disk has room, and this user may use it"
        ) from None


def check(engine: Engine) -> None:
    """Check that a catalogue is of this program's version.

    Raises:
        CatalogueError: It is not.
    """
    with reported(engine), engine.connect() as connection:
        found = _version(connection)
    if found != migrations.NEWEST:
        _refuse_newer(found)
        raise CatalogueError(
            f"the catalogue is of version {found or 'none'}, expected {migrations.NEWEST}; stop "
            "all of this coordinator, then run organ-coordinator start, which brings it up to date"
        )


def upgrade(engine: Engine) -> None:
    """Bring a catalogue up to this program's version, or make one; all of it or nothing.

    Raises:
        CatalogueError: It is of a newer version, or the database fails.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    place = str(Path(migrations.__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", place)
    with reported(engine), engine.connect() as connection:
        if engine.dialect.name == "sqlite":  # readers then wait for no writer; kept in the file
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.commit()
        with connection.begin():
            lock(connection)
            _refuse_newer(_version(connection))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > migrations.NEWEST:
        raise CatalogueError(
            f"the catalogue is of version {found}, this program knows up to {migrations.NEWEST}; "
            "install the organ-exchange that made it, or a newer one"
        )


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0][:200]
