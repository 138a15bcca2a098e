"""What the threat model points to is there."""

import re
from pathlib import Path

HERE = Path(__file__).parent
POINTER = re.compile(r"`([\w.]*)(?:::([\w*]+))?`")


def test_each_attack_names_tests_that_there_are() -> None:
    text = (HERE.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
    rows = [row.split("|")[3] for row in text.splitlines() if row.count("|") == 4]
    pointers = [found for row in rows for found in POINTER.findall(row)]
    assert len(pointers) > 55
    for file, test in pointers:
        names = re.findall(r"^def (test_\w+)", (HERE / file).read_text(encoding="utf-8"), re.M)
        wanted = (test or "test_*").replace("*", r"\w*")
        assert [one for one in names if re.fullmatch(wanted, one)], f"{file}::{test}"
