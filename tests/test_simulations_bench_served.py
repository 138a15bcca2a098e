"""What the command that passes a large organ holds processes to.

In a process of its own: the module takes the place of a site's app, and of its training.
"""

import subprocess
import sys
from pathlib import Path

KEPT = Path(__file__).parent.parent / "docs" / "results" / "served" / "bench-served.json"
JUDGED = """
import json, sys
from simulations.benches.bench_served import BOUND_MB, WITH_MODEL, judge
result = json.load(open(sys.argv[1]))
judge(result)
one = next(one for one in result["costs"] if one["what"] not in WITH_MODEL)
one["peak_mb"] = BOUND_MB + 1
print("within")
judge(result)
"""


def test_what_was_measured_is_within_the_bound_and_one_more_would_not_be() -> None:
    said = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", JUDGED, KEPT], capture_output=True, text=True
    )
    assert said.stdout == "within\n"
    assert "(701 MB) took more than 700 MB" in said.stderr
