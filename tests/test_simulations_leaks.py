import random
from pathlib import Path

import pytest
import torch
from conftest import write_jsonl
from safetensors.torch import save_file

from not_core.errors import RecordsError
from simulations.federation.leaks import WINDOW, Needles, search
from simulations.federation.marks import plant
from simulations.federation.sites import load_sites


@pytest.fixture
def organ(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "organ.safetensors"
    save_file({"0.w": torch.randn(64, 64), "0.zero": torch.zeros(64)}, path)
    return path


@pytest.mark.parametrize("seed", range(20))
def test_any_64_bytes_of_a_tensor_are_found_anywhere(
    seed: int, organ: Path, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    torch.manual_seed(0)
    data = torch.randn(64, 64).numpy().tobytes()
    start = rng.randrange(len(data) - WINDOW)
    hay = rng.randbytes(rng.randrange(5000))
    (tmp_path / "hay").write_bytes(
        hay + data[start : start + WINDOW] + rng.randbytes(rng.randrange(5000))
    )
    assert search([tmp_path / "hay"], Needles([], [organ])).organ_blocks >= 1


def test_noise_zeros_and_short_files_are_no_leak(organ: Path, tmp_path: Path) -> None:
    (tmp_path / "hay").mkdir()
    (tmp_path / "hay" / "noise").write_bytes(random.Random(1).randbytes(100_000))
    (tmp_path / "hay" / "zeros").write_bytes(bytes(10_000))
    (tmp_path / "hay" / "short").write_bytes(b"abc")
    found = search([tmp_path / "hay"], Needles(["abc"], [organ]))
    assert (found.files, found.sentences, found.organ_blocks) == (3, 1, 0)


def test_planted_sentences_stand_in_every_sites_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = load_sites(None, None, 0)
    records = {
        site.name: write_jsonl(tmp_path / f"{site.name}.jsonl", ["a", "b", "c"])
        for site in federation.sites
    }
    marks = plant(federation, records, 12)
    assert len(set(marks)) == 12
    for path in records.values():
        text = path.read_text()
        assert sum(mark in text for mark in marks) in {2, 3}
    assert search(records.values(), Needles(marks, [])).sentences == 12
    with pytest.raises(RecordsError, match="3 records, 4 are to be marked"):
        plant(federation, records, 20)


def test_nobodys_own_records_are_marked(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    own = write_jsonl(tmp_path / "data" / "clinic.jsonl", ["a"])
    federation = load_sites(None, tmp_path / "data", 0)
    with pytest.raises(RecordsError, match="never changed"):
        plant(federation, {"clinic": own}, 1)
    assert "Marked" not in own.read_text()
