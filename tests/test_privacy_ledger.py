"""The ledger counts each unit, never too little, whatever is done to it or to its process."""

import json
import math
import multiprocessing
import random
import shutil
import sqlite3
import stat
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_processes import STEP, digests, ledger, reserve_at_once, reserve_forever, toy

import client.commands
from not_core import canonical
from not_core.errors import HomeError, LedgerError
from not_core.privacy import accounting
from not_core.privacy.accounting import Mechanism
from not_core.privacy.charge import Bound
from not_core.privacy.composition import worst
from not_core.privacy.ledger import LEDGER, LOG, WHAT, Ledger, default_folder, standalone
from not_core.trust.log import Log

Call = Callable[..., tuple[int, str, str]]
BOUND = Bound(4.0, 1e-6)
(RESULT, OTHER) = digests("result", "other")
CHEAPER = (
    "UPDATE rows SET body = CAST(replace(body, '\"steps\":4', '\"steps\":1') AS BLOB) "
    "WHERE number = "
)
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["not_core.privacy.ledger"])


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    return ledger(tmp_path / "ledger")


def reserve(book: Ledger, run: str, *names: object, mechanism: Mechanism = STEP) -> float:
    units = digests(*names)
    return book.reserve(run, units, "record", mechanism, bound=BOUND).charge.epsilon


def told(book: Ledger) -> list[str]:
    return [one.digest for one in Log(book.path.parent / LOG).entries() if one.what == WHAT]


def sql(path: Path, change: str) -> int:
    database = sqlite3.connect(path)
    with database:
        count = database.execute(change).rowcount
    database.close()
    return count


mechanisms = st.builds(
    Mechanism, st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([1.0, 2.0]), st.integers(1, 20)
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 7), min_size=1), mechanisms), max_size=8))
def test_what_is_spent_is_what_brute_force_finds(runs: list[tuple[set[int], Mechanism]]) -> None:
    histories: dict[int, list[Mechanism]] = defaultdict(list)
    passed: list[Mechanism] = []
    with tempfile.TemporaryDirectory() as folder:
        book = ledger(Path(folder))
        for i, (units, mechanism) in enumerate(runs):
            after = max(toy([*histories[unit], mechanism], 0) for unit in units)
            if after > BOUND.epsilon:
                with pytest.raises(LedgerError, match="would cost a unit"):
                    reserve(book, str(i), *units, mechanism=mechanism)
                continue
            assert reserve(book, str(i), *units, mechanism=mechanism) == after
            passed.append(mechanism)
            for unit in units:
                histories[unit].append(mechanism)
        spent = book.spent(BOUND.delta)
        assert spent.worst == max((toy(one, 0) for one in histories.values()), default=0.0)
        assert spent.worst <= BOUND.epsilon
        assert spent.all == toy(passed, 0)
        for unit, history in histories.items():
            assert book.spent(BOUND.delta, digests(unit)).worst == toy(history, 0)


@given(st.lists(st.lists(mechanisms, max_size=4), max_size=6))
def test_histories_that_others_hold_are_left_out_without_a_difference(
    histories: list[list[Mechanism]],
) -> None:
    calls: list[object] = []

    def counted(one: Any, delta: float) -> float:
        calls.append(one)
        return toy(one, delta)

    expected = max((toy(one, 0) for one in histories), default=0.0)
    assert worst([*histories, *histories], 0, counted) == expected
    assert len(calls) <= len(histories)


def test_charges_compose_as_the_accountant_says(tmp_path: Path) -> None:
    book, first, second = standalone(tmp_path), Mechanism(0.1, 1.0, 20), Mechanism(0.2, 2.0, 10)
    bound = Bound(8.0, 1e-6)
    book.reserve("a", digests(1, 2), "subject", first, bound=bound)
    found = book.reserve("b", digests(2, 3), "subject", second, bound=bound).charge.epsilon
    assert found == pytest.approx(accounting.epsilon([second, first], bound.delta), rel=1e-6)


def test_budget_is_shared_exactly_where_units_are(book: Ledger) -> None:
    assert reserve(book, "a", *range(10)) == 1
    assert reserve(book, "reordered, repeated", *range(9, -1, -1), 3) == math.sqrt(2)
    assert reserve(book, "part", 3, 4) == math.sqrt(3)
    assert reserve(book, "grown", *range(12)) == 2
    assert reserve(book, "new", 20, 21) == 1
    assert book.spent(BOUND.delta, digests(11, 20)).worst == 1
    assert book.remaining(BOUND) == 2
    assert book.remaining(BOUND, digests(99)) == 4
    charges = [one.charge for one in book.reservations()]
    assert charges[0].units == charges[1].units != charges[2].units
    assert [charge.count for charge in charges] == [10, 10, 2, 12, 2]


def test_a_refusal_says_what_is_spent_asked_and_allowed(book: Ledger) -> None:
    reserve(book, "a", 1, mechanism=replace(STEP, steps=60))
    with pytest.raises(LedgerError, match=r"4\.35\d+ in all .* 3\.87\d+ is spent, 2 is asked.* 4;"):
        reserve(book, "b", 1, 2, mechanism=replace(STEP, steps=16))
    assert [one.charge.run for one in book.reservations()] == ["a"]
    assert reserve(book, "b", 1) == BOUND.epsilon  # what was refused was not charged


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_an_epsilon_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(LedgerError, match="would cost"):
        reserve(ledger(tmp_path, lambda *_: value), "a", 1)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(math.inf, 1e-6), (math.nan, 1e-6), (0, 1e-6), (1, 0), (1, 1), (1, math.nan)],
)
def test_a_bound_that_bounds_nothing_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(LedgerError, match="bounds nothing"):
        Bound(epsilon, delta)


@pytest.mark.parametrize("units", [[], ["ab"], ["g" * 64], [RESULT, " " * 64]])
def test_units_that_are_no_digests_are_a_callers_bug(book: Ledger, units: list[str]) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        book.reserve("a", units, "record", STEP, bound=BOUND)


def test_records_and_subjects_are_not_counted_side_by_side(book: Ledger) -> None:
    reserve(book, "a", 1)
    with pytest.raises(LedgerError, match="counts by record, asked to charge by subject"):
        book.reserve("b", digests(2), "subject", STEP, bound=BOUND)


def test_a_run_is_charged_once(book: Ledger) -> None:
    first = book.reserve("a", digests(1, 2), "record", STEP, bound=BOUND, label="x")
    tight = Bound(0.1, 1e-6)
    again = book.reserve("a", digests(2, 1, 2), "record", STEP, bound=tight, label="renamed")
    assert (again, again.state, book.head()[0]) == (first, "reserved", 1)
    for units, mechanism in (
        (digests(1), STEP),
        (digests(1, 2, 3), STEP),
        (digests(1, 2), replace(STEP, steps=5)),
    ):
        with pytest.raises(LedgerError, match="reserved with other units, steps or noise"):
            book.reserve("a", units, "record", mechanism, bound=BOUND, label="x")
    assert book.spent(1e-6).worst == 1


def test_one_charge_pays_for_one_result(book: Ledger) -> None:
    with pytest.raises(LedgerError, match="reserve it before"):
        book.settle("a", RESULT)
    reserve(book, "a", 1)
    book.settle("a", RESULT)
    book.settle("a", RESULT)
    with pytest.raises(LedgerError, match="one charge pays for one result"):
        book.settle("a", OTHER)
    (found,) = book.reservations()
    assert (found.result, found.state, book.head()[0]) == (RESULT, "settled", 2)
    assert book.spent(1e-6).worst == 1


@pytest.mark.parametrize("result", ["", "ab", "A" * 64])
def test_a_result_that_is_no_digest_is_a_callers_bug(book: Ledger, result: str) -> None:
    reserve(book, "a", 1)
    with pytest.raises(ValueError, match="result"):
        book.settle("a", result)


def test_every_head_is_in_the_log(book: Ledger) -> None:
    reserve(book, "a", 1)
    book.settle("a", RESULT)
    assert (2, told(book)[-1]) == book.head()
    events = [one.event for one in Log(book.path.parent / LOG).entries()]
    assert events == ["reserved", "settled"]


def test_a_row_that_a_crash_kept_from_the_log_is_told_at_the_next_use(
    book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            reserve(book, "a", 1)
    assert told(book) == []
    assert book.spent(1e-6).worst == 1
    assert told(book) == [book.head()[1]]


def test_a_crash_before_the_row_is_whole_charges_nothing(
    book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    reserve(book, "a", 1)
    with monkeypatch.context() as patch:
        patch.setattr("not_core.privacy.book.Book.charge", dies)
        with pytest.raises(KeyboardInterrupt):
            reserve(book, "b", 1)
    assert reserve(book, "b", 1) == math.sqrt(2)


def test_a_ledger_that_was_put_back_is_refused(book: Ledger) -> None:
    reserve(book, "a", 1)
    copy = shutil.copy2(book.path, book.path.with_suffix(".copy"))
    reserve(book, "b", 1)
    shutil.copy2(copy, book.path)
    with pytest.raises(LedgerError, match=r"has 1 rows and its log knows 2.*put back"):
        reserve(book, "c", 1)
    with pytest.raises(LedgerError, match="put back"):
        book.settle("a", RESULT)


def test_a_ledger_that_was_lost_or_is_anothers_is_refused(book: Ledger, tmp_path: Path) -> None:
    other = ledger(tmp_path / "other")
    for one in (book, other):
        reserve(one, "a", 1)
    book.path.unlink()
    with pytest.raises(LedgerError, match="has 0 rows and its log knows 1"):
        reserve(book, "b", 1)
    shutil.copy2(other.path, book.path)
    with pytest.raises(LedgerError, match="has 1 rows and its log knows 1"):
        reserve(book, "b", 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            CHEAPER + "1",
            "row",
        ),
        (
            CHEAPER + "2",
            "log",
        ),
        ("UPDATE rows SET body = 'x' WHERE number = 2", "row 2"),
        ("UPDATE rows SET event = 'settled' WHERE number = 1", "row 1"),
        ("UPDATE rows SET number = 9 WHERE number = 2", "row 2"),
        ("DELETE FROM rows WHERE number = 1", "row 1"),
        ("DELETE FROM rows WHERE number = 2", "units"),
        ("UPDATE ledger SET key = zeroblob(32)", "row 1"),
        ("DELETE FROM ledger", "row 1"),
        ("DELETE FROM units WHERE rowid_of = 1", "units"),
        ("UPDATE units SET history = 0", "units"),
        ("UPDATE units SET history = 99", "units"),
        ("INSERT INTO units VALUES (zeroblob(32), 1)", "units"),
        ("UPDATE histories SET parent = 0", "units"),
        ("UPDATE histories SET charge = 7", "units"),
        ("DELETE FROM histories", "units"),
        ("DROP TABLE units", "no such table"),
        ("PRAGMA user_version = 2", "form 2"),
    ],
)
def test_an_edited_ledger_is_refused(book: Ledger, change: str, match: str) -> None:
    for run in "ab":
        reserve(book, run, 1, 2)
    where = "digest = (SELECT min(digest) FROM units)"
    assert sql(book.path, change.replace("rowid_of = 1", where)) != 0
    with pytest.raises(LedgerError, match=match):
        reserve(book, "c", 3)


def test_an_edited_log_is_found(book: Ledger) -> None:
    for run in "ab":
        reserve(book, run, 1)
    assert sql(book.path.parent / LOG, "DELETE FROM entries WHERE number = 1") == 1
    with pytest.raises(HomeError, match="does not continue the chain"):
        reserve(book, "c", 1)


def test_a_file_that_is_no_ledger_is_refused(book: Ledger) -> None:
    book.path.write_bytes(b"not a database" * 100)
    book.path.chmod(0o600)
    with pytest.raises(LedgerError, match="not a database"):
        reserve(book, "a", 1)


def test_a_ledger_is_its_owners_alone_and_does_not_show_digests(book: Ledger) -> None:
    reserve(book, "a", 1)
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(book.path.parent.stat().st_mode) == 0o700
    (digest,) = digests(1)
    held = book.path.read_bytes()
    assert bytes.fromhex(digest) not in held
    assert digest.encode() not in held
    book.path.chmod(0o644)
    with pytest.raises(LedgerError, match="mode 0644"):
        reserve(book, "b", 1)


def test_two_processes_cannot_pass_the_bound_together(tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(4)]
    barrier = FORK.Barrier(2)
    both = [FORK.Process(target=reserve_at_once, args=(folders, run, barrier)) for run in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert sum(one.exitcode or 0 for one in both) == len(folders)
    for folder in folders:
        book = ledger(folder)
        assert (len(book.reservations()), book.spent(1e-6).worst) == (1, 1)
        assert told(book) == [book.head()[1]]


def test_a_ledger_outlives_kill_at_any_moment(tmp_path: Path) -> None:
    rng, folder, reports = random.Random(0), tmp_path / "ledger", tmp_path / "told"
    for seed in range(20):
        before = reports.stat().st_size if reports.exists() else 0
        child = FORK.Process(target=reserve_forever, args=(folder, reports, seed))
        child.start()
        while not reports.exists() or reports.stat().st_size == before:
            assert child.is_alive()
            time.sleep(0.002)
        time.sleep(rng.random() / 10)
        child.kill()
        child.join(60)
        found = {one.charge.run: one.state for one in ledger(folder).reservations()}
        for line in reports.read_text().splitlines():
            state, run = line.split()
            assert state == "reserved" or found[run] == state
            assert run in found
    book = ledger(folder)
    count, head = book.head()
    assert (len(told(book)), told(book)[-1]) == (count, head)
    assert len(found) >= 20


def test_the_default_folder_is_private_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "organ-exchange" / "ledger"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_folder().is_relative_to(Path.home())


def test_organ_ledger_lists_charges_and_totals(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, _, err = call("ledger")
    assert (code, "no ledger in" in err) == (1, True)
    assert not default_folder().exists()
    book = standalone(default_folder())
    mechanism = Mechanism(0.1, 1.0, 10)
    book.reserve("a1", digests(1, 2), "record", mechanism, bound=Bound(8, 1e-5), label="cough")
    book.settle("a1", RESULT)
    code, out, _ = call("ledger", "--epsilon", 8, "--json")
    found = json.loads(out)
    expected = accounting.epsilon([mechanism], 1e-5)
    assert (code, found["rows"], found["head"]) == (0, *book.head())
    assert found["most charged unit"] == found["all charges"] == expected
    assert (found["delta"], found["left"]) == (1e-5, 8 - expected)
    (row,) = found["charges"]
    assert (row["units"], row["unit"], row["label"]) == (2, "record", "cough")
    assert (row["state"], row["result"], row["epsilon after"]) == ("settled", RESULT, expected)
    code, out, _ = call("ledger", default_folder())
    assert (code, "cough" in out, "settled" in out) == (0, True, True)
    code, _, err = call("ledger", "--epsilon", "nan")
    assert (code, "bounds nothing" in err) == (1, True)
    (default_folder() / LEDGER).unlink()
    code, _, err = call("ledger")
    assert (code, "log knows 2" in err) == (1, True)


def test_organ_site_ledger_is_witnessed_by_the_sites_log(call: Call, tmp_path: Path) -> None:
    site = client.commands.app
    code, _, err = call("ledger", tmp_path, app=site)
    assert (code, "make a home with organ-site init" in err) == (1, True)
    settings = {name: "x" for name in ("site", "model", "records", "general", "domain")}
    (tmp_path / "site.toml").write_text(tomli_w.dumps(settings))
    (tmp_path / "policy.toml").write_text("epsilon = 50.0\n")
    code, _, err = call("ledger", tmp_path, app=site)
    assert (code, "expected a site's home" in err) == (1, True)
    log = Log(tmp_path / LOG)
    log.append("created", what="home")
    code, out, _ = call("ledger", tmp_path, "--json", app=site)
    assert (code, json.loads(out)["charges"]) == (0, [])
    reserve(Ledger(tmp_path / LEDGER, log, toy), "a", 1)
    code, out, _ = call("log", "show", tmp_path, "--json", app=site)
    entry = json.loads(out)["entries"][1]
    assert (entry["event"], entry["what"]) == ("reserved", "ledger")
    code, out, _ = call("ledger", tmp_path, "--json", app=site)
    assert json.loads(out)["head"] == entry["digest"]
    (tmp_path / LEDGER).unlink()
    code, _, err = call("ledger", tmp_path, app=site)
    assert (code, "lost, put back or changed" in err) == (1, True)


def test_heads_say_nothing_about_units_that_others_could_try(tmp_path: Path) -> None:
    """The same charge in two ledgers has two digests: each has its own key."""
    sets = []
    for name in ("one", "two"):
        book = ledger(tmp_path / name)
        reserve(book, "a", 1)
        sets.append(book.reservations()[0].charge.units)
    assert sets[0] != sets[1]
    assert canonical.sha256(bytes.fromhex(digests(1)[0])) not in sets


def test_bounds_that_earlier_runs_were_charged_under_hold_at_their_own_delta(
    tmp_path: Path,
) -> None:
    """A larger delta makes the same runs look cheaper: that is no way round."""
    book = Ledger(tmp_path / LEDGER, Log(tmp_path / LOG))
    costly = Mechanism(0.25, 1.5, 40)
    first = book.reserve("a", digests("x"), "record", costly, bound=Bound(50.0, 1e-6))
    most = Bound(first.charge.epsilon * 1.2, 1e-6)
    again = Ledger(tmp_path / "other.db", Log(tmp_path / "other-log.db"))
    again.reserve("a", digests("x"), "record", costly, bound=most)
    loose = Bound(most.epsilon, 1e-2)
    alone = Ledger(tmp_path / "alone.db", Log(tmp_path / "alone-log.db"))
    alone.reserve("b", digests("x"), "record", costly, bound=loose)
    alone.reserve("c", digests("x"), "record", costly, bound=loose)
    with pytest.raises(LedgerError, match="at delta 1e-06"):
        again.reserve("b", digests("x"), "record", costly, bound=loose)
    assert again.spent(1e-6).worst <= most.epsilon


def test_a_decision_that_others_see_follows_from_no_unit(tmp_path: Path) -> None:
    """The same run, with and without a unit that earlier runs were charged to."""

    def refused(units: list[str], *, together: bool) -> bool:
        book = ledger(tmp_path / f"{len(units)}-{together}")
        for run in ("a", "b"):
            book.reserve(run, digests("old"), "record", STEP, bound=BOUND)
        left = replace(BOUND, epsilon=book.spent(BOUND.delta).worst)
        book = Ledger(book.path, Log(book.path.parent / LOG), toy)
        try:
            book.reserve("c", units, "record", STEP, bound=left, together=together)
        except LedgerError:
            return True
        return False

    with_it, without_it = digests("new", "old"), digests("new")
    assert (refused(without_it, together=False), refused(with_it, together=False)) == (False, True)
    assert refused(without_it, together=True) == refused(with_it, together=True) is True


def test_a_log_that_was_cut_off_beside_a_longer_ledger_is_found(book: Ledger) -> None:
    reserve(book, "a", 1)
    reserve(book, "b", 2)
    (book.path.parent / LOG).unlink()
    with pytest.raises(LedgerError, match="ledger or log was lost"):
        book.reservations()


def test_ledger_and_log_are_their_owners_alone(book: Ledger) -> None:
    reserve(book, "a", 1)
    for name in (LEDGER, LOG):
        assert stat.S_IMODE((book.path.parent / name).stat().st_mode) == 0o600
