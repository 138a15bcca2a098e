"""Where the private training of one organ is paid for."""

from dataclasses import dataclass
from typing import Protocol

from not_core.manifest import Unit
from not_core.privacy.accounting import Mechanism
from not_core.privacy.charge import Bound
from not_core.privacy.ledger import Ledger


class Account(Protocol):
    """A budget that training is charged to."""

    def reserve(self, run: str, mechanism: Mechanism) -> None:
        """Charge a run in full, before its first step; the same run is charged once.

        Raises:
            LedgerError: It would pass the bound.
        """

    def settle(self, run: str, result: str) -> None:
        """Note the digest of what came of it.

        Raises:
            LedgerError: Something else came of it before.
        """


class Uncharged:
    """No ledger: for simulations on public text."""

    def reserve(self, run: str, mechanism: Mechanism) -> None:
        """Charge nothing."""

    def settle(self, run: str, result: str) -> None:
        """Note nothing."""


@dataclass(frozen=True, slots=True)
class Charged:
    """A ledger, for one set of units.

    Attributes:
        ledger: It.
        units: Digests of those trained on.
        unit: What one of them is.
        bound: What none of them may pass.
        label: What is trained, for people.
        together: Whether all charges of the ledger decide; see ``Ledger.reserve``.
    """

    ledger: Ledger
    units: tuple[str, ...]
    unit: Unit
    bound: Bound
    label: str
    together: bool = False

    def reserve(self, run: str, mechanism: Mechanism) -> None:
        """As ``Account``."""
        self.ledger.reserve(
            run,
            self.units,
            self.unit,
            mechanism,
            bound=self.bound,
            label=self.label,
            together=self.together,
        )

    def settle(self, run: str, result: str) -> None:
        """As ``Account``."""
        self.ledger.settle(run, result)
