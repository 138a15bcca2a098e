"""The privacy ledger: what each unit of private data was in, counted before training starts.

A unit is a record or a subject, known by a digest, so two data sets share budget exactly where they
share units: a file that is renamed, reordered, cut or grown is no fresh budget. A charge is made in
full before the first step and is never taken back; a run that died stays charged.

After each change the head of the ledger's chain goes to a witness, a log outside of the file. A
ledger that was lost, put back to an earlier state or edited is no longer the one that the witness
knows and is refused. The row is on disk before the log hears of it: a crash between leaves a row
too many, which the next use tells the log, and never a charge too few.

``standalone`` keeps the log beside the ledger. That finds a ledger file that was put back, lost or
edited by itself. It does not find a whole folder that was put back or removed, nor a ledger put
back together with a log whose end was cut off, nor files that were both written anew by somebody
who knows how: for that, keep the head that ``organ ledger`` prints elsewhere. A unit whose digest
changes, as a record's does when one letter of it is edited, is a new unit to the ledger.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from not_core.errors import LedgerError
from not_core.privacy import accounting
from not_core.privacy.accounting import Mechanism
from not_core.privacy.book import RESTORE, Book, open_book
from not_core.privacy.charge import Bound, Charge, Reservation, Settlement, Spent, Unit
from not_core.privacy.composition import Epsilon, worst
from not_core.trust.log import Entry, Log

LEDGER, LOG = "ledger.db", "log.db"

WHAT = "ledger"
"""What the witness calls the ledger in its entries."""


class Witness(Protocol):
    """An append-only log outside of the ledger's file, such as a site's."""

    def append(self, event: str, *, what: str, digest: str = "") -> object:
        """Append an entry; it is on disk when this returns."""

    def entries(self, what: str) -> Sequence[Entry]:
        """All entries of one ``what``, oldest first."""

    def verify(self) -> object:
        """Raise where the log was changed."""


class Ledger:
    """A ledger; several processes may use it at once, one after another.

    Each use reads the file anew, checks it in full, and compares it with the witness.
    """

    def __init__(self, path: Path, witness: Witness, epsilon: Epsilon = accounting.epsilon) -> None:
        """A ledger at ``path``, made on first use, whose folder exists.

        Args:
            path: The file.
            witness: Where each head is written.
            epsilon: Composed epsilon of mechanisms at a delta; must never be too small.
        """
        self.path = path
        self._witness = witness
        self._epsilon = epsilon

    def reserve(
        self,
        run: str,
        units: Iterable[str],
        unit: Unit,
        mechanism: Mechanism,
        *,
        bound: Bound,
        label: str = "",
        together: bool = False,
    ) -> Reservation:
        """Charge a run in full, before its first step; the charge is on disk when this returns.

        The same run with the same content gets its reservation again, without a new charge, also
        when it is settled or the bound has changed since.

        Args:
            run: Random id of the run.
            units: Digests, 64 hexadecimal digits each; order and repetition do not matter.
            unit: What one of them is.
            mechanism: All steps of the run.
            bound: What no unit may pass, this run included.
            label: What the run makes, for people; one line.
            together: Decide as if one unit had been in every run of the ledger. Whether the run is
                refused then says nothing of who is in the data: for those whose refusals others
                see. What each unit is charged stays the same.

        Raises:
            LedgerError: The bound would be passed, the run was reserved with other content, the
                ledger counts other units, or it is not the one that the witness knows.
            HomeError: The witness was changed.
            ValueError: A unit is not a digest, or there is none.
        """
        with self._open() as book:
            keyed = book.keyed(units)
            groups = book.groups(keyed)
            digest = book.digest(keyed)
            content = (unit, digest, mechanism)
            for one in book.reservations():
                if one.charge.run == run:
                    charge = one.charge
                    if content != (charge.unit, charge.units, charge.mechanism):
                        raise LedgerError(
                            f"run {run} was reserved with other units, steps or noise; start a new "
                            "run, which is charged by itself"
                        )
                    return one
            if book.unit not in (None, unit):
                raise LedgerError(
                    f"{self.path} counts by {book.unit}, asked to charge by {unit}: digests of the "
                    "two cannot be compared, so the same people would have two budgets; train by "
                    f"{book.unit}, or use another ledger for data of other people"
                )
            histories = [book.mechanisms(history) for history in groups]
            after = self._worst([[*one, mechanism] for one in histories], bound.delta)
            decides = [book.everything()] if together else histories
            # A bound that earlier runs were charged under at another delta holds as well.
            bounds = {one.charge.delta: one.charge.bound for one in book.reservations()}
            for delta, most in (bounds | {bound.delta: bound.epsilon}).items():
                known = decides is histories and delta == bound.delta
                there = (
                    after if known else self._worst([[*one, mechanism] for one in decides], delta)
                )
                if not there <= most:
                    raise self._refusal(decides, mechanism, there, Bound(most, delta))
            charge = Charge(
                number=len(book.rows) + 1,
                time=int(time.time()),
                run=run,
                label=label,
                unit=unit,
                units=digest,
                count=len(keyed),
                sampling_probability=mechanism.sampling_probability,
                noise_multiplier=mechanism.noise_multiplier,
                steps=mechanism.steps,
                bound=bound.epsilon,
                delta=bound.delta,
                epsilon=after,
                previous=book.head,
            )
            book.charge(charge, groups)
        self._tell()
        return Reservation(charge)

    def settle(self, run: str, result: str) -> None:
        """Record what came out of a run; once more with the same result does nothing.

        Args:
            run: Id of a run that was reserved.
            result: SHA-256 of what it made, in lower-case hexadecimal.

        Raises:
            LedgerError: The run was never reserved or has another result, or as for ``reserve``.
            HomeError: The witness was changed.
            ValueError: ``result`` is not a digest.
        """
        with self._open() as book:
            found = {one.charge.run: one for one in book.reservations()}.get(run)
            if found is None:
                raise LedgerError(
                    f"run {run} is not in {self.path}; reserve it before its first step"
                )
            if found.result:
                if found.result == result:
                    return
                raise LedgerError(
                    f"run {run} made {found.result[:12]}, asked to settle it with {result[:12]}: "
                    "one charge pays for one result; delete the other, or train it in a new run"
                )
            book.append(
                Settlement(
                    number=len(book.rows) + 1,
                    time=int(time.time()),
                    run=run,
                    result=result,
                    previous=book.head,
                )
            )
        self._tell()

    def reservations(self) -> list[Reservation]:
        """All charges, oldest first, and what they paid for.

        Raises:
            LedgerError: The ledger is not the one that the witness knows.
            HomeError: The witness was changed.
        """
        with self._open() as book:
            return book.reservations()

    def head(self) -> tuple[int, str]:
        """Number of rows, and the hash that the next one continues.

        Raises:
            LedgerError: The ledger is not the one that the witness knows.
            HomeError: The witness was changed.
        """
        with self._open() as book:
            return len(book.rows), book.head

    def spent(self, delta: float, units: Iterable[str] | None = None) -> Spent:
        """Composed epsilons so far at ``delta``, of all units or of some.

        Raises:
            LedgerError: The ledger is not the one that the witness knows.
            HomeError: The witness was changed.
            ValueError: A unit is not a digest, or ``units`` is empty.
        """
        with self._open() as book:
            which = book.histories() if units is None else book.groups(book.keyed(units))
            histories = [book.mechanisms(history) for history in which]
            charges = [one.charge.mechanism for one in book.reservations()]
        return Spent(self._worst(histories, delta), self._worst([charges], delta))

    def remaining(self, bound: Bound, units: Iterable[str] | None = None) -> float:
        """What is left for the most charged unit under ``bound``; 0 where it is passed.

        Epsilons do not add up: a run may cost a little less beside others than alone.

        Raises:
            LedgerError: The ledger is not the one that the witness knows.
            HomeError: The witness was changed.
            ValueError: A unit is not a digest, or ``units`` is empty.
        """
        return max(0.0, bound.epsilon - self.spent(bound.delta, units).worst)

    def _worst(self, histories: Iterable[Iterable[Mechanism]], delta: float) -> float:
        return worst(histories, delta, self._epsilon)

    def _refusal(
        self, histories: list[list[Mechanism]], mechanism: Mechanism, after: float, bound: Bound
    ) -> LedgerError:
        spent = self._worst(histories, bound.delta)
        asked = self._worst([[mechanism]], bound.delta)
        return LedgerError(
            f"this run would cost a unit epsilon {after:.6g} in all at delta {bound.delta:g}: "
            f"{spent:.6g} is spent, {asked:.6g} is asked, the bound is {bound.epsilon:.6g}; take "
            "fewer steps, more noise, or records that no organ was trained on yet"
        )

    @contextmanager
    def _open(self) -> Iterator[Book]:
        with open_book(self.path) as book:
            book.check()
            self._in_step(book)
            yield book

    def _tell(self) -> None:
        """Tell the witness what was committed, holding the file so that heads stay in order."""
        with open_book(self.path) as book:
            self._in_step(book)

    def _in_step(self, book: Book) -> None:
        """Refuse a ledger that lacks what the witness knows; tell the witness what it lacks."""
        self._witness.verify()
        told = tuple(entry.digest for entry in self._witness.entries(WHAT))
        # A crash leaves one row that the log has not heard of; more mean that the log was cut off.
        if told != book.heads[: len(told)] or len(book.rows) > len(told) + 1:
            raise LedgerError(
                f"{self.path} has {len(book.rows)} rows and its log knows {len(told)}, which they "
                f"do not continue: ledger or log was lost, put back or changed; {RESTORE}"
            )
        for row, head in list(zip(book.rows, book.heads, strict=True))[len(told) :]:
            self._witness.append(row.event, what=WHAT, digest=head)


def standalone(folder: Path) -> Ledger:
    """The ledger of a folder without a site, its log beside it; the folder is made (0700)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Ledger(folder / LEDGER, Log(folder / LOG))


def default_folder() -> Path:
    """Where ``organ`` keeps its ledger: ``organ-exchange/ledger`` in the user's state folder.

    Source: XDG Base Directory Specification 0.8, for ``XDG_STATE_HOME``.
    """
    xdg = os.environ.get("XDG_STATE_HOME")
    if xdg and Path(xdg).is_absolute():  # the specification ignores relative paths
        state = Path(xdg)
    elif sys.platform == "darwin":
        state = Path.home() / "Library" / "Application Support"
    else:
        state = Path.home() / ".local" / "state"
    return state / "organ-exchange" / "ledger"
