"""What a service's processes say is one JSON object a line, whoever says it."""

import json
import subprocess
import sys

SPEAKS = """
import logging
import flwr.supercore.logger
from not_core.service import journal
journal.begin()
log = logging.getLogger("server.progress")
log.info("enrol", extra={"exchange": "spring", "site": "clinic", "code": ""})
log.warning("two\\nlines")
logging.getLogger("flwr").info("Flower says %s", "so")
logging.getLogger("another").info("not heard")
try:
    raise ValueError("broken")
except ValueError as error:
    log.error("a reply failed", exc_info=error)
"""


def test_every_line_is_an_object_with_its_facts_as_fields() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", SPEAKS], capture_output=True, text=True, check=True
    )
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [one["says"] for one in said] == [
        "enrol",
        "two\nlines",
        "Flower says so",
        "a reply failed",
    ]
    first = said[0]
    assert (first["level"], first["from"]) == ("INFO", "server.progress")
    assert (first["exchange"], first["site"], first["code"]) == ("spring", "clinic", "")
    assert first["time"].endswith("+00:00")
    assert "ValueError: broken" in said[-1]["where"]
