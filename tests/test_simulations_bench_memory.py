"""The memory bench on a checkpoint of a megabyte: its own figures, checks and comparison."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from not_core.errors import ExchangeError
from not_core.surgery.checkpoint import open_checkpoint
from simulations.benches import bench_memory
from simulations.benches.bench_memory import SHAPE, STOP, Cost, cut, generate, graft, mergekit
from simulations.machine import peak_bytes

TINY = SHAPE | {
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": STOP + 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROOT = Path(__file__).parent.parent


def cost(peak_mb: float = 1, written: str | None = "a") -> Cost:
    return Cost(seconds=1, peak_mb=peak_mb, read_mb=1, written=written)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_memory, "SHARD_BYTES", 40_000)
        generate(folder, TINY)
    return folder


def test_the_checkpoint_is_sharded_and_whole(host: Path) -> None:
    assert len(list(host.glob("model-*.safetensors"))) > 1
    base = open_checkpoint(host)
    assert base.layers == len(base.source.layers) == TINY["num_hidden_layers"]
    assert base.tied


def test_mergekit_makes_the_same_tensors_of_the_benchs_plan(host: Path, tmp_path: Path) -> None:
    cut(host, tmp_path / "organ", tmp_path / "organ")
    ours = graft(host, tmp_path / "organ", tmp_path / "ours")
    mergekit(host, tmp_path / "organ", tmp_path / "theirs")
    theirs = open_checkpoint(tmp_path / "theirs")
    assert theirs.layers == TINY["num_hidden_layers"] + 3
    assert theirs.weights_digest == ours == open_checkpoint(tmp_path / "ours").weights_digest


def test_it_measures_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_memory, "WORK", (graft,))
    said: list[str] = []
    found = bench_memory.measure(tmp_path, 1, keep=False, say=said.append, shape=TINY)
    kept = json.loads((tmp_path / "bench-memory.json").read_bytes())
    (row,) = kept["runs"]["graft"]
    assert found["parameters"] == kept["parameters"] > 10_000
    assert found["graft"]["peak_mb"] == f"{row['peak_mb']} ({row['peak_mb']} to {row['peak_mb']})"
    assert 100 < row["peak_mb"] <= found["bound_mb"]
    assert len(row["written"]) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["bench-memory.json"]
    assert "run 1 of 1: graft" in said


@pytest.mark.parametrize("name", ["cut_first", "cut", "graft"])
def test_more_memory_than_promised_is_an_error(name: str) -> None:
    within = {"cut_first": [cost()], "cut": [cost()], "graft": [cost()], "load": [cost(900)]}
    assert bench_memory._check(within, 10)
    with pytest.raises(ExchangeError, match=rf"{name} \(11 MB\) took more than 10 MB"):
        bench_memory._check(within | {name: [cost(9), cost(11)]}, 10)


def test_other_tensors_than_mergekits_are_an_error() -> None:
    found = {"graft": [cost(), cost()], "mergekit": [cost(written="a")]}
    assert bench_memory._check(found, 10) == {"same_tensors_as_mergekit": "yes"}
    with pytest.raises(ExchangeError, match="others than ours"):
        bench_memory._check(found | {"mergekit": [cost(), cost(written="b")]}, 10)


def test_without_mergekit_the_report_says_that_nothing_was_compared(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_memory, "find_spec", lambda name: None)
    monkeypatch.setattr(bench_memory, "_measure", lambda *_: cost())
    said: list[str] = []
    found = bench_memory.measure(tmp_path, 1, keep=False, say=said.append, shape=TINY)
    assert found["same_tensors_as_mergekit"] == "not compared: mergekit is not installed"
    assert "mergekit" not in found
    assert any("mergekit is not installed" in line for line in said)


def test_a_measurement_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    with pytest.raises(ExchangeError, match=r"(?s)measurement cut failed: .*no config\.json"):
        bench_memory._measure("cut", tmp_path / "host", tmp_path / "host", tmp_path / "made")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child may be told its parent's")
def test_a_childs_peak_is_its_own() -> None:
    """``ru_maxrss`` outlives exec: measured so, a small child of a large parent looks as large."""
    script = (
        "import sys\n"
        "from simulations.machine import peak_bytes\n"
        "before = peak_bytes()\n"
        "held = bytearray(int(sys.argv[1]))\n"
        "print(before, peak_bytes())\n"
    )
    large = bytearray(400_000_000)
    assert peak_bytes() > len(large)
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, "100000000"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    before, after = map(int, done.stdout.split())
    assert before < 200e6
    assert 100e6 <= after - before < 120e6
