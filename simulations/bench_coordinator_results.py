"""What the measurements of a coordinator say together."""

from typing import Any


def model(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {}


def markdown(result: dict[str, Any]) -> str:
    return ""
