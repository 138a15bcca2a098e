"""Numbers and moments as people read them, in pages and reports."""

import math
import time
from datetime import UTC, datetime

MINUS = "\N{MINUS SIGN}"

FULL = math.log(1.4)
"""Log ratio of perplexities from which a cell has its full colour: -29 % and +40 %."""


def number(value: float | None, digits: int = 1) -> str:
    """A measured number with fixed decimals, thousands apart; what is not finite says so."""
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.{digits}f}".replace(",", "\u202f") if abs(value) < 1e6 else f"{value:.1e}"


def count(value: int) -> str:
    """A whole number, thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def percent(value: float | None, signed: bool = True) -> str:
    """A relative change in percent, with a real minus sign; 0.05 % and less is 0."""
    if value is None or not math.isfinite(value):
        return "not finite"
    text = (
        f"{abs(value) * 100:.1f}\u00a0%" if abs(value) < 100 else f"{abs(value) * 100:.1e}\u00a0%"
    )
    sign = "" if text.startswith("0.0\u00a0") else MINUS if value < 0 else "+"
    return f"{sign}{text}" if signed else text


def size(value: float) -> str:
    """Bytes in a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(value: float) -> str:
    """Seconds as seconds, minutes or hours."""
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def moment(value: float) -> str:
    """A moment, in seconds since the epoch, to the minute in UTC."""
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"


def instant(value: float) -> str:
    """A moment, in seconds since the epoch, to the second in UTC."""
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S}"


def ago(value: float | None, now: float | None = None) -> str:
    """How long ago a moment was, in its largest unit."""
    if value is None:
        return "never"
    passed = max(0.0, (time.time() if now is None else now) - value)
    for seconds, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if passed >= seconds:
            whole = int(passed // seconds)
            return f"{whole} {unit}{'s' if whole > 1 else ''} ago"
    return "just now"


def heat(change: float | None) -> float:
    """How far a change of perplexity is from none: -1 (better) over 0 to 1 (worse)."""
    if change is None or not math.isfinite(change):
        return 1.0
    return max(-1.0, min(1.0, math.log(max(1 + change, 1e-9)) / FULL))
