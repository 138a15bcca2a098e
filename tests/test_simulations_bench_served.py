"""What the command that passes a large organ holds processes to."""

import json
from pathlib import Path

import pytest

from not_core.errors import ExchangeError
from simulations.benches.bench_served import BOUND_MB, WITH_MODEL, judge

KEPT = Path(__file__).parent.parent / "docs" / "results" / "served" / "bench-served.json"


def test_what_was_measured_is_within_the_bound_and_one_more_would_not_be() -> None:
    result = json.loads(KEPT.read_bytes())
    judge(result)
    one = next(one for one in result["costs"] if one["what"] not in WITH_MODEL)
    one["peak_mb"] = BOUND_MB + 1
    with pytest.raises(ExchangeError, match=r"\(701 MB\) took more than 700 MB"):
        judge(result)
