"""What a privacy ledger holds: charges, what they paid for, and bounds on them."""

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core.canonical import STRICT, Digest, Line
from not_core.errors import LedgerError
from not_core.manifest import Positive
from not_core.privacy.accounting import Mechanism

Unit = Literal["record", "subject"]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


@plain_dataclass(frozen=True, slots=True)
class Bound:
    """The most that a unit may ever cost.

    Attributes:
        epsilon: Largest composed epsilon.
        delta: The delta at which it is taken.

    Raises:
        LedgerError: Not positive and finite, or ``delta`` is not below 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise LedgerError(
                f"a bound of epsilon {self.epsilon} at delta {self.delta} bounds nothing; choose a "
                "finite epsilon above 0 and a delta between 0 and 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Charge:
    """What one training run costs each of its units; a row of the ledger.

    Attributes:
        number: Position in the ledger, from 1.
        time: Seconds since the epoch, UTC.
        run: Random id of the run.
        label: What the run makes, for people.
        unit: What one unit is.
        units: Digest of the set of units: a data set as this ledger knows it.
        count: How many units.
        sampling_probability: As in ``Mechanism``.
        noise_multiplier: As in ``Mechanism``.
        steps: As in ``Mechanism``.
        bound: The bound's epsilon that held.
        delta: The bound's delta.
        epsilon: Composed epsilon, at ``delta``, of the most charged of these units, this run
            included.
        previous: SHA-256 of the row before; of the ledger's key before the first.
    """

    event: ClassVar[str] = "reserved"

    number: Positive
    time: int
    run: Line
    label: Line
    unit: Unit
    units: Digest
    count: Positive
    sampling_probability: Probability
    noise_multiplier: Finite
    steps: Positive
    bound: Finite
    delta: Finite
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    previous: Digest

    @property
    def mechanism(self) -> Mechanism:
        """What was charged."""
        return Mechanism(self.sampling_probability, self.noise_multiplier, self.steps)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Settlement:
    """What came out of a run; a row of the ledger.

    Attributes:
        number: Position in the ledger.
        time: Seconds since the epoch, UTC.
        run: The run.
        result: SHA-256 of what it made.
        previous: SHA-256 of the row before.
    """

    event: ClassVar[str] = "settled"

    number: Positive
    time: int
    run: Line
    result: Digest
    previous: Digest


@plain_dataclass(frozen=True, slots=True)
class Reservation:
    """A charge, and the digest of what it paid for; empty while that is open."""

    charge: Charge
    result: str = ""

    @property
    def state(self) -> str:
        """``settled`` or ``reserved``; both are charged in full."""
        return Settlement.event if self.result else Charge.event


@plain_dataclass(frozen=True, slots=True)
class Spent:
    """Composed epsilons at one delta.

    Attributes:
        worst: Of the most charged unit.
        all: Of all charges together, as if one unit had been in each of them.
    """

    worst: float
    all: float
