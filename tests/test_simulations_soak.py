"""What a soak calls flat, and what not."""

from collections.abc import Callable
from typing import Any

import pytest

from simulations.benches.soak import judged, shown

MEGABYTE = 10**6


def soaked(figures: Callable[[int], dict[str, int]]) -> list[dict[str, Any]]:
    """Forty exchanges by one process; what it has after each, unless it is as ever."""
    usual = {"pid": 1, "rss": 100 * MEGABYTE, "files": 10}
    return [
        {
            "run": 1,
            "seconds": 20.0,
            "processes": [{"who": "east", "what": "node", **usual, **figures(number)}],
        }
        for number in range(40)
    ]


@pytest.mark.parametrize(
    ("figures", "flat"),
    [
        (lambda number: {}, True),
        (lambda number: {"rss": (100 + number % 7) * MEGABYTE}, True),
        (lambda number: {"rss": (40 if number < 10 else 100) * MEGABYTE}, True),  # begins
        (lambda number: {"rss": (100 + number) * MEGABYTE}, False),
        (lambda number: {"files": 10 + number // 4}, False),
        (lambda number: {"pid": 1 + number // 20, "rss": (100 + number % 20) * MEGABYTE}, False),
    ],
    ids=["still", "up and down", "at first", "memory", "files", "started again"],
)
def test_what_grows_or_is_started_again_is_not_flat(
    figures: Callable[[int], dict[str, int]], flat: bool
) -> None:
    result = judged(soaked(figures))
    (one,) = result["processes"]
    assert one["flat"] is flat
    assert ("| yes |" in shown(result)) is flat


@pytest.mark.parametrize("there", [slice(1, None), slice(None, 4)], ids=["begins", "ends"])
def test_a_process_that_was_not_always_there_is_told_and_only_judged_if_it_can_be(
    there: slice,
) -> None:
    rows = soaked(lambda number: {})
    for row in rows[there]:
        row["processes"].append({**row["processes"][0], "what": "another", "pid": 99})
    result = judged(rows)
    _, other = result["processes"]
    assert (other["first_mb"] is None) is (there.start == 1)
    assert other["flat"] is (there.start == 1)
    assert "another" in shown(result)


def test_servers_that_were_started_by_hand_are_no_worse_for_it() -> None:
    rows = soaked(lambda number: {"pid": 1 + number // 20})
    for number, row in enumerate(rows):
        row["run"] = 1 + number // 20
    result = judged(rows)
    assert (result["runs"], result["processes"][0]["starts"]) == (2, 2)
    assert result["processes"][0]["flat"]
