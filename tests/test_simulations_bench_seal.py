"""The sealing bench on an organ of three megabytes: its own figures, files and promises."""

import json
from pathlib import Path

import pytest

from not_core.errors import ExchangeError
from not_core.trust import keys, sealing
from simulations.benches import bench_seal
from simulations.benches.bench_seal import WORK, Cost, Place

SIZE = 3_000_000


def cost(seconds: float = 1, peak_mb: float = 1) -> Cost:
    return Cost(seconds=9, cpu_seconds=seconds, idle_mb=1, peak_mb=peak_mb)


def test_it_measures_each_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("seal", "open_sealed", "aes_gcm")
    monkeypatch.setattr(bench_seal, "WORK", {name: WORK[name] for name in names})
    monkeypatch.setattr(bench_seal, "BOUND", frozenset({"seal", "open_sealed"}))
    said: list[str] = []
    found = bench_seal.measure(tmp_path, SIZE, 1, said.append)
    kept = json.loads((tmp_path / "bench-seal.json").read_bytes())
    assert list(kept["runs"]) == list(names)
    assert kept["bytes"] == SIZE
    assert all(20 < run[0]["peak_mb"] < 200 for run in kept["runs"].values())
    assert found["organ: seal"].endswith("MB")
    assert "| organ: open |" in (tmp_path / "bench-seal.md").read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bench-seal.json", "bench-seal.md"]
    assert "run 1 of 1: seal" in said


def test_every_contestant_does_its_work(tmp_path: Path) -> None:
    place = Place(tmp_path)
    bench_seal.prepare(place, SIZE)
    weights = place.weights.read_bytes()
    assert len(weights) == SIZE
    bench_seal.seal(place)
    place.made.rename(place.sealed)
    bench_seal.verify_sealed(place)
    bench_seal.open_sealed(place)
    assert (place.made / "organ.safetensors").read_bytes() == weights
    place.made.rename(tmp_path / "opened")
    bench_seal.aes_gcm(place)
    place.made.rename(place.gcm)
    assert place.gcm.stat().st_size == SIZE + 16
    bench_seal.aes_gcm_open(place)
    assert place.made.read_bytes() == weights
    bench_seal.copy(place)
    assert place.made.read_bytes() == weights
    for work in (bench_seal.sha256, bench_seal.aes_gcm_in_memory, bench_seal.cobblestone_in_memory):
        work(place)
    assert sealing.verify_sealed(place.sealed, keys.load(tmp_path / "reader").trust)


def test_pyrage_gives_back_what_it_took(tmp_path: Path) -> None:
    pytest.importorskip("pyrage")
    place = Place(tmp_path)
    place.organ.mkdir()
    place.weights.write_bytes(b"weights" * 99)
    bench_seal._age_identity(place)
    bench_seal.pyrage(place)
    place.made.rename(place.age)
    assert b"weights" not in place.age.read_bytes()
    bench_seal.pyrage_open(place)
    assert place.made.read_bytes() == place.weights.read_bytes()


def test_ratios_are_of_the_same_round() -> None:
    found = {"aes_gcm": [cost(1), cost(4)], "seal": [cost(2), cost(8)]}
    rows = {row["work"]: row for row in bench_seal.summary(found, 8_000_000)}
    assert rows["organ: seal"]["x_aes_gcm"] == "2.00 (2.00 to 2.00)"
    assert rows["organ: seal"]["mb_a_cpu_second"] == "2 (1 to 4)"


def test_more_memory_than_promised_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_seal, "find_spec", lambda name: None)
    monkeypatch.setattr(bench_seal, "_measure", lambda name, place: cost(peak_mb=201))
    said: list[str] = []
    with pytest.raises(ExchangeError, match="open_sealed, seal, verify_sealed took more than 200"):
        bench_seal.measure(tmp_path, 1000, 1, said.append)
    assert "Absent: pyrage, pyrage_open" in (tmp_path / "bench-seal.md").read_text()
    assert any("pyrage is not installed" in line for line in said)


def test_too_little_space_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="are needed; choose another folder"):
        bench_seal.measure(tmp_path, 10**15, 1, print)
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match=r"(?s)measurement sha256 failed: .*No such file"):
        bench_seal._measure("sha256", Place(tmp_path))
