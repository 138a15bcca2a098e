"""Facts for people: nested facts as lines of two columns, in a terminal or a notebook."""

import os
from collections.abc import Iterator
from typing import Any

StrPath = str | os.PathLike[str]


def flat(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each fact under its full name, as text."""
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:.4g}"
        elif isinstance(value, list | tuple):
            yield prefix + name, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + name, "none" if value is None else str(value)


def plain(text: str) -> str:
    """Text on one line: models, organs and their makers choose names that end up in it."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


def table(facts: dict[str, Any]) -> str:
    """Facts as aligned lines, for a ``repr``."""
    rows = [(plain(name), plain(value)) for name, value in flat(facts)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
