"""What benchmarks share: room on disk, memory of a process, spread of a few measurements."""

import resource
import shutil
import statistics
import sys
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


def peak_bytes(process: int | str = "self") -> int:
    """Most memory that a process has had resident since its program was started.

    ``ru_maxrss``, taken where the system tells no better, outlives ``exec`` on Linux: a child
    would be told the peak of the parent that started it.

    Raises:
        OSError: The process is gone, or the system does not tell of others.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":", 1) for line in lines)["VmHWM"].removesuffix("kB")) * 1024
    except (OSError, KeyError) as error:
        if process != "self":
            raise OSError(f"no memory is known of process {process}") from error
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
