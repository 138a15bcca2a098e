import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from not_core.errors import FormatError, NotError, RecordsError
from simulations.federation import sites
from simulations.federation.sites import Builtin, divide, load_sites, materialise
from simulations.material.domains import Record

TWO = """
exchange = "two"
[[site]]
name = "one"
domain = "letters"
donates = true
records = { builtin = "cases", share = 3 }
[[site]]
name = "two"
domain = "numbers"
records = "numbers.jsonl"
text_field = "body"
held_out = 5
"""


def _records(sizes: list[int]) -> list[Record]:
    """One group of each size."""
    return [
        Record(id=f"r-{group}-{number}", text=f"text {group} {number}", group=f"g-{group}")
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "numbers.jsonl").write_text('{"body": "1"}\n')
    path = tmp_path / "sites.toml"
    path.write_text(TWO)
    return path


def test_demo_federation() -> None:
    demo = load_sites(None, None, 7)
    assert demo.exchange == "demo"
    assert demo.seed == 7
    assert [site.name for site in demo.sites] == [
        "hospital", "clinic", "law-firm", "legal-aid", "security-team",
    ]  # fmt: skip
    assert [site.name for site in demo.donors] == ["hospital", "law-firm", "security-team"]
    assert demo.sites[1].records == Builtin(domain="abstracts", share=60)
    assert {site.held_out for site in demo.sites} == {20}
    assert {site.text_field for site in demo.sites} == {"text"}


def test_own_federation(file: Path) -> None:
    one, two = load_sites(file, None, 0).sites
    assert one.records == Builtin(domain="cases", share=3)
    assert (one.organ_name, one.licence) == ("one", "not stated")
    assert two.records == file.parent / "numbers.jsonl"
    assert (two.text_field, two.held_out, two.donates) == ("body", 5, False)


def test_materialise_writes_built_in_records_only(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "BUILTIN", {"cases": lambda report: _records([1, 2, 3, 1, 1])})
    federation = load_sites(file, None, 0)
    paths = materialise(federation, tmp_path / "out")
    assert list(paths) == ["one", "two"]
    assert paths["one"] == tmp_path / "out" / "one" / "records.jsonl"
    assert len(paths["one"].read_text().splitlines()) == 3
    assert paths["two"] == file.parent / "numbers.jsonl"
    assert not (tmp_path / "out" / "two").exists()
    before = paths["one"].read_bytes()
    assert materialise(federation, tmp_path / "out")["one"].read_bytes() == before


def test_materialised_demo_shares_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = _records([1] * 80 + [2] * 15 + [70, 9])
    monkeypatch.setattr(
        sites,
        "BUILTIN",
        {name: lambda report: domain for name in ("abstracts", "cases", "weaknesses")},
    )
    held = {}
    for seed in (1, 2):
        paths = materialise(load_sites(None, None, seed), tmp_path / str(seed))
        held[seed] = {
            name: [json.loads(line) for line in path.read_text().splitlines()]
            for name, path in paths.items()
        }
        for few, most in (("clinic", "hospital"), ("legal-aid", "law-firm")):
            rows = held[seed]
            assert len(rows[few]) == 60
            assert len(rows[few]) + len(rows[most]) == len(domain)
            assert not {r["group"] for r in rows[few]} & {r["group"] for r in rows[most]}
        assert len(held[seed]["security-team"]) == len(domain)
    assert held[1] != held[2]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    few=st.integers(1, 20),
    seed=st.text(max_size=5),
)
def test_divide_deals_every_group_to_one_site(sizes: list[int], few: int, seed: str) -> None:
    records = _records(sizes)
    try:
        parts = divide(records, {"most": "rest", "few": few}, seed)
    except RecordsError:
        return
    assert len(parts["few"]) == few
    assert Counter(parts["few"] + parts["most"]) == Counter(records)
    assert not {r.group for r in parts["few"]} & {r.group for r in parts["most"]}
    assert parts == divide(records, {"most": "rest", "few": few}, seed)


def test_divide_takes_fractions_and_refuses_too_much() -> None:
    records = _records([1] * 10)
    assert len(divide(records, {"a": 0.2, "b": "rest"}, "s")["a"]) == 2
    with pytest.raises(RecordsError, match="'a' asks for 11 of 10 documents and 10 were left"):
        divide(records, {"a": 11}, "s")
    with pytest.raises(RecordsError, match="no documents are left for site 'b'"):
        divide(records, {"a": 10, "b": "rest"}, "s")
    with pytest.raises(RecordsError, match="larger than 0"):
        divide(records, {"a": 0.001}, "s")


def test_data_folder_takes_the_place_of_records(file: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "one").mkdir(parents=True)
    (data / "two.csv").write_text("body\n1\n")
    (data / ".hidden").write_text("")
    (data / "README.md").write_text("")
    one, two = load_sites(file, data, 0).sites
    assert (one.records, two.records) == (data / "one", data / "two.csv")
    demo = tmp_path / "demo"
    (demo / "clinic").mkdir(parents=True)
    clinic = load_sites(None, demo, 0).sites[1]
    assert clinic.records == demo / "clinic"
    assert clinic.licence == "not stated"  # the demo text's licence is not that of this data


def test_data_folder_errors(file: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(RecordsError, match="is not a folder"):
        load_sites(file, data, 0)
    data.mkdir()
    with pytest.raises(RecordsError, match="holds no records"):
        load_sites(file, data, 0)
    (data / "one.csv").touch()
    (data / "thre.csv").touch()
    with pytest.raises(RecordsError, match="holds 'thre', expected only names of sites: one, two"):
        load_sites(file, data, 0)
    (data / "one").mkdir()
    with pytest.raises(RecordsError, match=r"holds both one and one\.csv"):
        load_sites(file, data, 0)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("held_out = 5", "heldout = 5", FormatError, "site 'two' .* unknown key 'heldout'"),
        ('exchange = "two"', "seed = 1", FormatError, "unknown key 'seed'"),
        ('exchange = "two"', 'exchange = "Two"', FormatError, "exchange = 'Two'"),
        ("share = 3", "shares = 3", FormatError, "records of site 'one' .* 'shares'"),
        ("share = 3", "share = 0", FormatError, "share = 0, expected"),
        ("share = 3", "share = true", FormatError, "share = True"),
        ("share = 3", "share = 1.5", FormatError, "share = 1.5"),
        ("share = 3", 'share = "all"', FormatError, "share = 'all'"),
        ('builtin = "cases"', 'builtin = "general"', FormatError, "built in are abstracts"),
        ('builtin = "cases"', "builtin = []", FormatError, "built in are abstracts"),
        ('name = "two"', 'name = "one"', FormatError, "more than one site 'one'"),
        ('name = "two"', 'name = "Two"', FormatError, "site 2 .* name = 'Two', expected lower"),
        ('name = "two"', 'name = "a-"', FormatError, "inner hyphens"),
        ('name = "two"', 'name = "../x"', FormatError, "inner hyphens"),
        ('name = "two"', 'name = "one\\n"', FormatError, "inner hyphens"),
        ('name = "two"', "", FormatError, "site 2 of sites.toml has no name"),
        ('domain = "numbers"', "", FormatError, "site 'two' .* has no domain"),
        ('domain = "numbers"', 'domain = "a\\nb"', FormatError, "one line of 1 to 200"),
        ("donates = true", 'donates = "yes"', FormatError, "donates = 'yes'"),
        ("donates = true", "donates = false", FormatError, "has no donor"),
        ("held_out = 5", "held_out = 0", FormatError, "held_out = 0"),
        ("held_out = 5", "held_out = true", FormatError, "held_out = True"),
        ('"numbers.jsonl"', '"letters.jsonl"', RecordsError, "letters.jsonl, which does not exist"),
        ('records = "numbers.jsonl"', "", RecordsError, "site 'two' .* has no records"),
        ('records = "numbers.jsonl"', "records = 3", FormatError, "records = 3, expected a path"),
        (TWO[TWO.index('[[site]]\nname = "two"') :], "", FormatError, "has 1 sites"),
        (TWO, "", FormatError, "has 0 sites"),
        (TWO, "site = 3", FormatError, "no list of sites"),
        (TWO, "[[site", FormatError, "is not toml"),
        (
            'records = "numbers.jsonl"',
            'records = { builtin = "cases" }',
            None,
            "",
        ),
    ],
)
def test_errors_say_what_and_where(
    file: Path, old: str, new: str, error: type[NotError] | None, message: str
) -> None:
    assert old in TWO
    file.write_text(TWO.replace(old, new))
    if error is None:
        load_sites(file, None, 0)
        return
    with pytest.raises(error, match=message):
        load_sites(file, None, 0)


def test_the_rest_of_a_domain_goes_to_one_site(file: Path) -> None:
    text = TWO.replace(", share = 3", "")
    file.write_text(text.replace('"numbers.jsonl"', '{ builtin = "cases" }'))
    with pytest.raises(FormatError, match="the rest of cases to both 'one' and 'two'"):
        load_sites(file, None, 0)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="cannot read"):
        load_sites(tmp_path / "none.toml", None, 0)
