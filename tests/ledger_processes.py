"""What processes of their own do to a ledger, and the arithmetic that its tests count with."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from not_core.canonical import sha256
from not_core.errors import LedgerError
from not_core.privacy.accounting import Mechanism
from not_core.privacy.charge import Bound
from not_core.privacy.ledger import Ledger, standalone

STEP = Mechanism(0.5, 1.0, 4)
"""Costs 1 under ``toy``."""


def toy(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Grows like a root, as true epsilons do; exact for powers of two, so order does not matter."""
    return math.sqrt(
        sum(
            one.steps * (one.sampling_probability / one.noise_multiplier) ** 2 for one in mechanisms
        )
    )


def ledger(folder: Path, epsilon: Any = toy) -> Ledger:
    """A standalone ledger that counts with ``toy``."""
    book = standalone(folder)
    book._epsilon = epsilon
    return book


def digests(*names: object) -> list[str]:
    """Digests of units."""
    return [sha256(str(name).encode()) for name in names]


def reserve_forever(folder: Path, told: Path, seed: int) -> None:
    """Reserve and settle, and write down each that was reported, until killed."""
    book = ledger(folder)
    with told.open("ab", buffering=0) as file:
        for i in range(1_000_000):
            run = f"{seed}-{i}"
            book.reserve(run, digests(i % 3, seed), "record", STEP, bound=Bound(1e6, 1e-6))
            file.write(f"reserved {run}\n".encode())
            book.settle(run, sha256(run.encode()))
            file.write(f"settled {run}\n".encode())


def reserve_at_once(folders: list[Path], run: str, barrier: Any) -> None:
    """Reserve in each ledger at the same time as another; the exit code counts what passed."""

    def slow(mechanisms: Sequence[Mechanism], delta: float) -> float:
        time.sleep(0.05)
        return toy(mechanisms, delta)

    passed = 0
    for folder in folders:
        barrier.wait()
        try:
            ledger(folder, slow).reserve(run, digests(1, 2), "record", STEP, bound=Bound(1.2, 1e-6))
        except LedgerError:
            continue
        passed += 1
    sys.exit(passed)
