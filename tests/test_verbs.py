"""``import not_core as nc``: what a notebook meets."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_model, sentences, write_jsonl
from typer.main import get_command

import not_core as nc
from not_core import commands
from not_core.errors import (
    KeyFileError,
    LedgerError,
    NotAddressedError,
    OrganError,
    OutputExistsError,
    PlanError,
    PrivacyError,
)
from not_core.learning.evaluation import DocumentLoss

SMALL = nc.Recipe(rank=2, tokens=600, block_tokens=32, threads=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model and records."""
    place = tmp_path_factory.mktemp("notebook")
    make_model(place / "model", "llama", layers=2)
    write_jsonl(place / "records.jsonl", sentences(40, 1, (0, 20)))
    write_jsonl(place / "held-out.jsonl", sentences(12, 2, (0, 20)))
    return place


@pytest.fixture(scope="module")
def trained(place: Path) -> nc.Trained:
    return nc.train(place / "model", place / "records.jsonl", place / "organ", recipe=SMALL)


def test_ten_lines_from_records_to_a_grafted_model(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    cells = f"""
import not_core as nc
recipe = nc.Recipe(tokens=2_000, learning_rate=1e-2, threads=1)
organ = nc.train("model", "records.jsonl", "{tmp_path}/organ", recipe=recipe, domain="medicine")
grafted = nc.transplant(organ, into="model", out="{tmp_path}/grafted")
before = nc.evaluate("model", "held-out.jsonl")
after = nc.evaluate(grafted, "held-out.jsonl")
change = nc.compare(before, after)
what = nc.diff("model", grafted)
host = nc.excise(grafted, "unclaimed/organ", "{tmp_path}/host")
"""
    assert len(cells.strip().splitlines()) <= 10
    seen: dict[str, object] = {}
    exec(cells, seen)  # noqa: S102 - what a notebook does
    organ, grafted = seen["organ"], seen["grafted"]
    assert isinstance(organ, nc.Trained)
    assert isinstance(grafted, nc.Grafted)
    assert organ.manifest.domain == "medicine"
    assert list(grafted.written.organs) == [organ.manifest.digest]
    change = seen["change"]
    assert isinstance(change, nc.Change)
    assert change.high < 0, "the organ surely helps"
    assert "changed  2" in repr(seen["what"])
    host = seen["host"]
    assert isinstance(host, nc.Excised)
    base = nc.inspect(place / "model")
    assert isinstance(base, nc.InspectedModel)
    assert host.written.weights == base.checkpoint.weights_digest
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(grafted.path).config.num_hidden_layers == 2


def test_from_one_site_to_another(
    call: Callable[..., tuple[int, str, str]], place: Path, trained: nc.Trained, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assert call("federation", "init", root, "--name", "health", "--unprotected")[0] == 0
    for site in ("hospital", "clinic", "lab"):
        home, profile = tmp_path / site, tmp_path / f"{site}.profile"
        assert call("identity", "init", home, "--site", site, "--unprotected")[0] == 0
        words = ("federation", "admit", root, home / "request.json", "--out", profile)
        assert call(*words)[0] == 0
        words = ("identity", "install", home, profile, "--root", root / "root.pem")
        assert call(*words)[0] == 0
    hospital, clinic = (nc.load_identity(tmp_path / site) for site in ("hospital", "clinic"))
    layers = nc.expand(trained, place / "model", tmp_path / "layers")
    assert layers.manifest.parents == (trained.manifest.digest,)
    to = [tmp_path / "clinic.profile"]
    sealed = nc.seal(layers, hospital, to, tmp_path / "x.organ")
    assert sealed.sites == ("clinic",)
    looked = nc.inspect(sealed)
    assert isinstance(looked, nc.SealedFile)
    assert looked.offer == sealed.offer
    opened = nc.open(sealed, clinic, tmp_path / "opened")
    assert "hospital/organ version 1" in repr(opened)
    verified = nc.verify(opened.path, root, base=place / "model")
    assert isinstance(verified, nc.Verified)
    assert verified.signer == "hospital"
    assert verified.drift is not None
    assert verified.drift[0] > 0
    grafted = nc.transplant([opened.path], place / "model", tmp_path / "g", mode="insert")
    assert grafted.written.layers == 4
    with pytest.raises(KeyFileError, match="leave the passphrase out"):
        nc.load_identity(tmp_path / "lab", "words")
    lab = nc.load_identity(tmp_path / "lab")
    with pytest.raises(NotAddressedError):
        nc.open(sealed, lab, tmp_path / "stolen")
    again = nc.rewrap(sealed, hospital, [tmp_path / "lab.profile"], tmp_path / "y.organ")
    assert nc.open(again, lab, tmp_path / "given").manifest == opened.manifest


def test_what_is_wrong_is_said_before_anything_is_written(
    place: Path, trained: nc.Trained, tmp_path: Path
) -> None:
    model, records, out = place / "model", place / "records.jsonl", tmp_path / "out"
    with pytest.raises(OutputExistsError):
        nc.train(model, records, place / "organ", recipe=SMALL)
    with pytest.raises(PlanError, match="which has 2 layers"):
        nc.train(model, records, out, span=(1, 5), recipe=SMALL)
    with pytest.raises(PrivacyError, match="takes a guard"):
        nc.train(model, records, out, ledger=tmp_path / "ledger", recipe=SMALL)
    guard = nc.Guard(epsilon=4, delta=1e-6)
    with pytest.raises(PrivacyError, match="name a field for subjects"):
        nc.train(model, records, out, guard=guard, unit_field="patient", recipe=SMALL)
    with pytest.raises(PrivacyError, match="keep none back"):
        nc.recover(model, records, out, guard=guard, validation=0.2)
    with pytest.raises(ValueError, match="a mode and a position for each of 1"):
        nc.transplant(trained, model, out, mode=["replace", "insert"])
    with pytest.raises(ValueError, match="auto and data together"):
        nc.transplant(trained, model, out, position="auto")
    with pytest.raises(OrganError, match="no organ at"):
        nc.inspect(tmp_path)
    with pytest.raises(LedgerError, match="no ledger in"):
        nc.ledger(tmp_path / "ledger")
    with pytest.raises(AttributeError, match="no attribute 'graft'"):
        nc.graft  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_values_are_shown_as_tables_without_what_must_not_be_seen(trained: nc.Trained) -> None:
    shown = repr(trained)
    assert f"digest          {trained.manifest.digest}" in shown
    assert shown.splitlines()[0].startswith("organ  ")
    assert "loss" not in repr(nc.Reading((DocumentLoss(3.0, 2), DocumentLoss(1.0, 2))))
    assert repr(nc.Change(-0.2, -0.25, 0.01)) == "-20.0%, 95% interval -25.0% to +1.0%"
    seen = nc.inspect(trained)
    assert isinstance(seen, nc.OrganFolder)
    assert "signed          False" in repr(seen)


def test_every_verb_of_the_command_has_its_name_here() -> None:
    group = get_command(commands.app)
    verbs = {
        name
        for name, one in getattr(group, "commands", {}).items()
        if not hasattr(one, "commands")  # `identity` and `federation` are done once, by hand
    } - {"doctor"}  # of a machine, not of organs
    assert len(verbs) == 18
    assert verbs <= set(nc.__all__)
    assert all(callable(getattr(nc, name)) for name in nc.__all__)


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(nc.__file__).read_text(encoding="utf-8"))
    told = {
        (str(line.module).removeprefix("not_core."), alias.name)
        for line in ast.walk(tree)
        if isinstance(line, ast.ImportFrom) and str(line.module).startswith("not_core.")
        for alias in line.names
    }
    found = {(room, name) for room, names in nc._ROOMS.items() for name in names.split()}
    assert told == found
    assert sorted(name for _, name in found) == sorted(nc.__all__)
    assert set(nc.__all__) <= set(dir(nc))


def test_importing_takes_nothing_of_a_sites_install() -> None:
    script = (
        "import sys, time\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in {'torch', 'transformers', 'datasets', 'safetensors',"
        " 'numpy', 'scipy', 'opacus', 'dp_accounting'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import not_core as nc\n"
        "heavy = {'cryptography', 'pydantic', 'flwr', 'rich', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "for name in nc.__all__: getattr(nc, name)\n"
        "assert 'flwr' not in sys.modules\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
