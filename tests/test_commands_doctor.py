"""``organ doctor`` on this machine as it is, and on broken ones."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from not_core.cache import VARIABLE
from not_core.commands import doctor

Examine = Callable[..., tuple[dict[str, str], dict[str, str]]]


@pytest.fixture
def examine(call: Callable[..., tuple[int, str, str]]) -> Examine:
    """What is well and what is wrong, by check."""

    def run(*words: object) -> tuple[dict[str, str], dict[str, str]]:
        code, out, err = call("doctor", "--json", *words)
        rows = json.loads(out)
        well, wrong = (
            {row["check"]: row["says"] for row in rows if row["found"] == found}
            for found in ("well", "WRONG")
        )
        assert code == (1 if wrong else 0), err
        return well, wrong

    return run


def test_this_machine_is_told_of(
    examine: Examine, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    well, wrong = examine("--model", models["llama"])
    assert wrong == {}
    assert torch.__version__ in well["torch"]
    assert "float32, by ORGAN_PRECISION" in well["precision"]
    assert "organ-simulate fetch" in well["cache"]
    assert not (tmp_path / "cache").exists(), "something was changed"
    assert well["hub"].startswith("offline, by HF_HUB_OFFLINE")
    assert well["model"].endswith("llama of 6 layers")
    (tmp_path / "cache" / "models" / "Small").mkdir(parents=True)
    assert examine()[0]["cache"].endswith("cache: Small")


def test_what_is_broken_is_named_with_what_to_do(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORGAN_PRECISION", "float16")
    usage = shutil.disk_usage(tmp_path)._replace(free=2**29)
    monkeypatch.setattr("not_core.checkup.shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr(os, "sysconf", lambda name: 1024)
    well, wrong = examine("--model", tmp_path / "none")
    assert wrong.keys() == {"precision", "memory", "disk", "model"}
    assert "correct or unset it" in wrong["precision"]
    assert "make room, such as in models that are not needed" in wrong["disk"]
    assert wrong["memory"].endswith("end other programs")
    assert well["device"] in {"cpu", "cuda", "mps"}


def test_a_driver_without_a_torch_for_it_is_found(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch finds the GPU")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "install torch's build for that driver" in examine()[1]["device"]


def test_packages_that_are_absent_or_old_are_named(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def changed(name: str) -> str:
        if name in {"opacus", "peft"}:
            raise metadata.PackageNotFoundError(name)
        return "2.0" if name == "torch" else version(name)

    monkeypatch.setattr(doctor.metadata, "version", changed)
    well, wrong = examine()
    assert wrong.keys() == {"packages"}
    assert "opacus is not installed, torch is 2.0, expected >=2.8" in wrong["packages"]
    assert wrong["packages"].endswith("run pip install 'organ-exchange[site]'")
    assert "simulation: there" in well["extras"]
    assert "peft is not installed (pip install 'organ-exchange[comparison]')" in well["extras"]


def test_a_torch_that_cannot_be_loaded_is_found_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from not_core.commands import main; main()",
         "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    for name in ("torch", "device", "precision"):
        assert rows[name]["found"] == "WRONG"
        assert "install it anew" in rows[name]["says"]
    assert rows["cache"]["found"] == "well"
