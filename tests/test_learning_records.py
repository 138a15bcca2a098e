import gc
import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import sentences, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from not_core.errors import RecordsError
from not_core.learning.near_duplicates import groups
from not_core.learning.records import (
    Unit,
    read_records,
    record_units,
    split,
    split_units,
    text_digest,
)

TEXTS = ["one two three", "vier fünf", "six\nseven"]


def test_every_kind_of_file_gives_the_same_records(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [1, 2, 3], "text": TEXTS})
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_parquet(tmp_path / "r.parquet")
    write_jsonl(tmp_path / "r.jsonl", TEXTS)
    (tmp_path / "folder").mkdir()
    for i, text in enumerate(TEXTS):
        (tmp_path / "folder" / f"{i}.txt").write_text(text, encoding="utf-8")
    for name in ("r.csv", "r.parquet", "r.jsonl", "folder"):
        assert read_records(tmp_path / name) == tuple(TEXTS), name


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    assert read_records(write_jsonl(tmp_path / "r.jsonl", TEXTS, "note"), "note") == tuple(TEXTS)


def test_exact_duplicates_and_blanks_are_dropped(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", ["a b", " a b ", "", "  ", "c"])
    assert read_records(path) == ("a b", "c")


def test_no_private_copy_is_left_in_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    read_records(write_jsonl(tmp_path / "r.jsonl", ["a marked sentence"]))
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert not [p for p in left if b"marked" in p.read_bytes()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"note": "secret-text"}\n', "no field 'text' among its 1;"),
        ("", "is empty"),
        ('{"text": ""}\n', "holds no text"),
        ('{"text": "secret-text"}\n{"text": secret-text\n', "cannot be read as json"),
        ('{"text": 5}\n', "is int, expected text"),
    ],
)
def test_bad_input_is_named_and_never_quoted(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(RecordsError, match=message) as caught:
        read_records(tmp_path / "r.jsonl")
    assert "secret-text" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_place_and_a_mixed_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no file or folder"):
        read_records(tmp_path / "absent.jsonl")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("text\nb\n")
    with pytest.raises(RecordsError, match="several kinds"):
        read_records(tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 10), st.integers(0, 5), st.randoms())
def test_a_split_parts_all_documents_whatever_their_order(
    count: int, held_out: int, seed: int, rng: object
) -> None:
    texts = sentences(max(count, held_out), seed=1)
    one = split(texts, held_out, seed)
    other = split(texts[::-1], held_out, seed)
    assert one == other
    assert sorted(one.train + one.held_out) == sorted(texts)
    assert len(one.held_out) == held_out


def test_near_duplicates_stay_on_one_side() -> None:
    twins = [text + " end" for text in sentences(10, seed=3)]
    texts = sentences(10, seed=3) + twins + sentences(40, seed=4)
    for seed in range(20):
        parts = split(texts, 20, seed)
        for text in sentences(10, seed=3):
            assert (text in parts.train) == (text + " end" in parts.train)


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(RecordsError, match="3 documents, 5 are to be held out"):
        split(TEXTS, 5, 0)


def test_groups_name_the_first_of_each_family() -> None:
    base = " ".join(map(str, range(30)))
    assert groups([base, "x y z", base + " 30", "x y z w v u"]) == [0, 1, 0, 3]


def test_records_survive_json_escapes(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"text": "a\u2028b"}) + "\n")
    assert read_records(tmp_path / "r.jsonl") == ("a\u2028b",)


def test_a_path_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[2024]").mkdir()
    write_jsonl(tmp_path / "ab.jsonl", ["other"])
    write_jsonl(tmp_path / "a*.jsonl", ["mine"])
    write_jsonl(tmp_path / "[2024]" / "r.jsonl", ["mine"])
    assert read_records(tmp_path / "a*.jsonl") == ("mine",)
    assert read_records(tmp_path / "[2024]") == ("mine",)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a reader that the library leaves open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_table_without_a_header_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("Jane Doe,secret-text\nJohn,other\n")
    with pytest.raises(RecordsError) as caught:
        read_records(tmp_path / "r.csv")
    assert "Jane" not in str(caught.value)
    assert "secret" not in str(caught.value)
    del caught
    gc.collect()


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 400), min_size=1, max_size=40), st.floats(0.01, 0.5), st.data())
def test_a_unit_moves_no_other_to_another_side(
    numbers: set[int], part: float, data: st.DataObject
) -> None:
    """Near-duplicates among them: a word apart, or the same text of two subjects."""
    words = sentences(8, seed=1)
    units = [Unit(text_digest(str(n)), (f"{words[n % 8]} {n // 50}",)) for n in sorted(numbers)]
    one = data.draw(st.sampled_from(units))
    whole = split_units(units, part, 0)
    less = split_units([unit for unit in units if unit != one], part, 0)
    assert set(whole.train) - set(less.train) <= {one}
    assert set(less.train) <= set(whole.train)
    # What is measured follows from the units of its own side, too: none of the others shows.
    measured = {text for text in one.texts} if one not in whole.train else set()
    assert set(whole.held_out) - set(less.held_out) <= measured
    assert set(less.held_out) <= set(whole.held_out)


def test_about_a_part_of_the_units_is_held_out() -> None:
    units = record_units(f"{text} {n}" for n, text in enumerate(sentences(2000, seed=3)))
    split = split_units(units, 0.25, 0)
    assert 440 < len(split.held_out) < 560
    assert len(split.train) + len(split.held_out) == 2000
    assert split.held_out == split_units(units[::-1], 0.25, 0).held_out
    assert split.held_out != split_units(units, 0.25, 1).held_out
