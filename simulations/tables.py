"""Tables of results for people, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from not_core.learning.evaluation import Change


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows have a cell for each name; it ends its last line."""
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def brief(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without their intervals, for a terminal."""
    words = ("interval", "seeds", "documents")  # which an interval is over
    return [
        {
            name: value
            for name, value in row.items()
            if not isinstance(value, list) and not any(name.endswith(f" {one}") for one in words)
        }
        for row in rows
    ]


def percent(change: Change) -> str:
    """A relative change with its interval."""
    return f"{change.change:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def ratio(value: float, *intervals: Sequence[float] | None) -> str:
    """A ratio, and from where to where its intervals reach together.

    Bold where it is surely below 1, which takes all of its intervals: one seed has none over seeds.
    """
    known = [one for one in intervals if one]
    low, high = min(low for low, _ in known), max(high for _, high in known)
    sure = high < 1 and len(known) == len(intervals)
    said = f"**{value:.3f}**" if sure else f"{value:.3f}"
    return f"{said} ({low:.3f} to {high:.3f})"


def word(value: Any) -> str:
    """A value for a cell; None is an empty one, a list an interval."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
