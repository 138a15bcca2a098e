"""A site's log: what is asked of it is found without reading all of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from not_core.errors import HomeError
from not_core.trust.log import Log


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr("not_core.trust.log._PAGE", 2)
    found = Log(tmp_path / "log.db")
    for number in range(5):
        found.append("trying", what=f"trial of {number % 2}", digest=f"{number:064x}")
    return found


def sql(log: Log, *statements: str) -> list[str]:
    """What SQLite says to each."""
    with closing(sqlite3.connect(log._path, isolation_level=None)) as database:
        return [str(database.execute(one).fetchall()) for one in statements]


def test_rows_of_one_thing_are_found_by_an_index_also_in_a_log_that_had_none(log: Log) -> None:
    sql(log, "DROP INDEX entries_what", "DROP INDEX entries_digest")
    assert [one.number for one in log.entries("trial of 1")] == [2, 4]
    assert [one.number for one in log.entries()] == [1, 2, 3, 4, 5]
    assert log.entries("trial") == []
    plans = sql(
        log,
        "EXPLAIN QUERY PLAN SELECT * FROM entries WHERE what = 'x' ORDER BY number",
        "EXPLAIN QUERY PLAN SELECT 1 FROM entries WHERE event = 'x' AND digest = 'x' LIMIT 1",
    )
    assert ["entries_what" in plans[0], "entries_digest" in plans[1]] == [True, True]


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET what = 'x' WHERE number = {}",
        "UPDATE entries SET number = -number WHERE number = {}",
        "UPDATE entries SET number = 9 WHERE number = {}",
        "INSERT INTO entries SELECT -{}, time, event, what, digest, bytes, exchange, previous, "
        "hash FROM entries WHERE number = 1",
    ],
)
def test_a_changed_row_is_found_on_whatever_page(log: Log, change: str, number: int) -> None:
    rows, head = log.verify()
    assert (rows, head) == (5, log.entries()[-1].hash)
    sql(log, change.format(number))
    with pytest.raises(HomeError, match="does not continue the chain"):
        log.verify()
