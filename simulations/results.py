"""The README's table of results, made from what the comparison kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from not_core import atomic
from not_core.errors import FormatError
from simulations.quality import markdown

QUALITY = Path("docs/results/quality/quality.json")
BEGIN, END = "<!-- results: make readme -->", "<!-- end of results -->"
COLUMNS = (
    "domain",
    "tokens",
    "method",
    "seeds",
    "perplexity",
    "x LoRA",
    "x cpu",
    "x peak",
    "general",
    "artefact MB",
)


def block(rows: Sequence[dict[str, Any]]) -> str:
    """The table for the README, with its markers."""
    return f"{BEGIN}\n{markdown(rows, COLUMNS)}{END}"


def brief(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row fits a terminal."""
    return {name: row.get(name, "") for name in COLUMNS[:8]}


def refresh(readme: Path, results: Path) -> bool:
    """Put the table of kept results into a README.

    Args:
        readme: Holds the two markers.
        results: ``quality.json``.

    Returns:
        Whether it changed.

    Raises:
        FormatError: The README lacks the markers.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise FormatError(f"{readme} lacks {BEGIN} and {END}; put them where the table belongs")
    new = before + block(json.loads(results.read_bytes())) + after
    if new != text:
        atomic.write(readme, new.encode())
    return new != text
