"""What benchmarks share: room on disk, spread of a few measurements."""

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from not_core.errors import ExchangeError


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median (minimum to maximum)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def check_room(out: Path, needed: int, option: str) -> None:
    """Check that a folder's disk has so many bytes left.

    Raises:
        ExchangeError: It has not; ``option`` is what makes it fewer.
    """
    free = shutil.disk_usage(out).free
    if free < needed:
        raise ExchangeError(
            f"{out} has {free / 1e9:.1f} GB of space, {needed / 1e9:.1f} GB are needed; choose "
            f"another folder or fewer {option}"
        )
