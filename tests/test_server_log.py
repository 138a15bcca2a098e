"""Many proofs of the coordinator's log at once: the same as one by one, each hash read once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from not_core import canonical
from not_core.trust import merkle
from server import database, log

ENTRIES = 37


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = database.connect(sa.URL.create("sqlite+pysqlite", database=str(tmp_path / "log.db")))
    database.upgrade(made)
    with database.writing(made) as session:
        for number in range(ENTRIES):
            log.append(session, "offered", site="court", exchange="trial", digest=digest(number))
    yield made
    made.dispose()


def digest(number: int) -> str:
    return canonical.sha256(str(number).encode())


def test_many_proofs_are_those_that_are_made_one_by_one(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MOST_AT_ONCE", 4)
    asked = [digest(number) for number in (30, 2, 99, 36, 7, 7, 20, 31, 0)]
    found = log.Log(engine).find_all(asked, 31)
    assert [one.entry.digest for one in found] == [digest(n) for n in (30, 2, 7, 7, 20, 0)]
    assert found == [one for at in asked if (one := log.Log(engine).find(at, 31)) is not None]
    root = bytes.fromhex(log.Log(engine).root(31))
    for one in found:
        path = [bytes.fromhex(part) for part in one.path]
        assert merkle.includes(canonical.encode(one.entry), one.index, 31, path, root)
    firsts = [0, 1, 16, 31, 37]
    single = [log.Log(engine).consistency(first, ENTRIES) for first in firsts]
    assert log.Log(engine).consistencies(firsts, ENTRIES) == single
    assert log.Log(engine).find_all([], 31) == []


def test_a_hash_is_read_once(engine: sa.Engine) -> None:
    reads: list[str] = []
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda _c, _k, statement, *_: reads.append(statement) if "log_nodes" in statement else None,
    )
    book = log.Log(engine)
    first = book.find_all([digest(5), digest(6)], ENTRIES)
    assert 0 < len(reads) < 2 * len(first[0].path)
    seen = len(reads)
    assert book.find_all([digest(5)], ENTRIES) == first[:1]
    assert len(reads) == seen
