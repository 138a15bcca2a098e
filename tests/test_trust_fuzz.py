"""A few thousand mutants in a process of their own; ``make fuzz`` reads 200,000."""

import base64
import json
import os
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import pytest
from mutators import bytes_edited, deep, json_edited, same, tar_edited
from pydantic import TypeAdapter, ValidationError
from second import forms
from trust_world import NOW, World, manifest

from not_core import canonical
from not_core.errors import CertificateError, FormatError
from not_core.manifest import Manifest
from not_core.trust import archive, sealing, signing

ROOT = Path(__file__).parent.parent
MUTANTS = 1000


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "tests/fuzz.py", "--mutants", str(MUTANTS), "--seed", "7", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_no_mutant_is_treated_as_it_must_not_be(outcome: dict[str, Any]) -> None:
    assert outcome["wrong"] == []
    assert sum(sum(row.values()) for row in outcome["codes"].values()) == MUTANTS


def test_memory_stays_under_its_bound(outcome: dict[str, Any]) -> None:
    """A thousand mutants take about 4 MB; what leaked 32 KB each would show."""
    assert outcome["peak"] - outcome["before"] < 32_000_000 < fuzz.GROWTH


def test_mutants_reach_every_layer(outcome: dict[str, Any]) -> None:
    """A fuzzer that is stopped at the door shows nothing."""
    codes: Counter[str] = Counter()
    for row in outcome["codes"].values():
        codes.update(row)
    deep = {"archive", "certificate", "format", "signature", "unseal", "offer", "rollback", "wraps"}
    assert {code for code in deep if codes[code] < 2} == set()
    assert codes[fuzz.ACCEPTED_DONOR] > MUTANTS / 100
    assert outcome["codes"]["tar, offered anew"].keys() <= {"archive", "unseal"}
    refused = outcome["codes"]["statement, signed anew"]
    assert refused.keys() == {"signature"}


def test_the_same_seed_makes_the_same_edits() -> None:
    value = {"a": [1, {"b": "c" * 64}], "d": None}
    for number in range(200):
        one, two = (json_edited(value, random.Random(number), [{"d": 4}]) for _ in range(2))
        assert same(one, two)
        assert not same(one, value)
        assert bytes_edited(b"abc", random.Random(number)) != b"abc"
        made = tar_edited(bytes(2048), random.Random(number))
        assert made != bytes(2048)
    assert value == {"a": [1, {"b": "c" * 64}], "d": None}


def _unchecked(*_: Any, **__: Any) -> None:
    return None


def _leaving(folder: Path, *rest: Any, **named: Any) -> Any:
    (folder.parent / "left").write_bytes(b"")
    return signing.verify_folder(folder, *rest, **named)


BREAKS: dict[str, tuple[Any, str, Any]] = {
    "another organ inside": (sealing, "check_offered", _unchecked),
    "a file left behind": (sealing, "verify_folder", _leaving),
    "an untyped error": (archive, "_size", lambda header: int(header[124:135], 8)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_fuzzer_finds_a_check_that_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BREAKS[name])
    assert fuzz.campaign(tmp_path, 250, 3).wrong


def test_a_message_never_repeats_a_key_that_others_chose() -> None:
    """A key with a line end in it would write a line of its own into whatever log shows it."""
    facts = json.loads(canonical.encode(manifest()))
    for key in ("x\nINFO all is well", "\u202egnp", "x" * 65, "a b"):
        with pytest.raises(FormatError, match=r"valid at \(a key\): ") as refusal:
            canonical.decode(Manifest, canonical.encode(facts | {key: 1}), "manifest")
        assert key not in str(refusal.value)
    with pytest.raises(FormatError, match=r"valid at base\.surprise-1: "):
        canonical.decode(
            Manifest,
            canonical.encode(facts | {"base": facts["base"] | {"surprise-1": 1}}),
            "manifest",
        )


def test_a_line_hides_nothing() -> None:
    """By Unicode's own table, and in both implementations alike."""
    line = TypeAdapter(canonical.Line)
    fillers = "\u034f\u115f\u1160\u2800\u3164\uffa0\U000e0100"
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    hidden = [one for one in every if unicodedata.category(one) in {"Cc", "Cf", "Zl", "Zp"}]
    assert len(hidden) > 200
    for one in (*hidden, *fillers):
        assert forms.TEXT.fullmatch(f"a{one}b") is None, ascii(one)
        with pytest.raises(ValidationError):
            line.validate_python(f"a{one}b")
    seen = "a \u00a0é\u0301\u05d0\u0646\U0001f9e0\ufe0f\u30a2\u2013"
    assert forms.TEXT.fullmatch(seen)
    assert line.validate_python(seen) == seen


def _at_depth(depth: int, work: Callable[[], Any]) -> Any:
    return work() if depth == 0 else _at_depth(depth - 1, work)


def test_nesting_deeper_than_the_stack_is_a_typed_error() -> None:
    facts = json.loads(canonical.encode(manifest()))
    facts["base"]["config"] = {"a": deep(190, "[]")}
    data = canonical.encode(facts)
    assert canonical.decode(Manifest, data, "manifest")
    room = sys.getrecursionlimit() - len(_frames())
    with pytest.raises(FormatError, match="not canonical"):
        _at_depth(room - 100, lambda: canonical.decode(Manifest, data, "manifest"))


def _frames() -> list[Any]:
    frame, found = sys._getframe(), []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def test_a_certificate_that_only_warns_is_refused_where_warnings_are_errors(
    tmp_path: Path,
) -> None:
    """A hostile bundle's certificate is parsed before it is verified; this one's number is < 0."""
    world = World(tmp_path)
    bundle = json.loads((world.organ / "model.sig").read_bytes())
    row = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
    der = bytearray(base64.b64decode(row["rawBytes"]))
    start = der.index(b"\xa0\x03\x02\x01\x02\x02") + 6  # behind version 3, the serial number
    der[start + 1] |= 0x80
    row["rawBytes"] = base64.b64encode(der).decode()
    (world.organ / "model.sig").write_bytes(canonical.encode(bundle))
    with pytest.raises(CertificateError, match="damaged or of another kind"):
        signing.verify_folder(world.organ, world.trust, now=NOW)
