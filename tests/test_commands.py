"""The command lines as their users meet them: by hand, with mistakes, and without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_model, sentences, write_jsonl

import client.commands
import server.commands
import simulations.commands
from not_core import commands
from not_core.service import tls

Organ = Callable[..., dict[str, object]]
PROGRAMS = {
    "organ": commands.app,
    "organ-site": client.commands.app,
    "organ-coordinator": server.commands.app,
    "organ-simulate": simulations.commands.app,
}


@pytest.fixture
def keys(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Path:
    """A federation with three admitted identities and a stranger's root."""
    home = tmp_path / "keys"
    home.mkdir()
    for root in ("root", "other-root"):
        assert call("federation", "init", home / root, "--name", root, "--unprotected")[0] == 0
    for site in ("donor", "clinic", "third"):
        identity, profile = home / site, home / f"{site}.profile"
        assert call("identity", "init", identity, "--site", site, "--unprotected")[0] == 0
        request = identity / "request.json"
        assert call("federation", "admit", home / "root", request, "--out", profile)[0] == 0
        pem = home / "root" / "root.pem"
        assert call("identity", "install", identity, profile, "--root", pem)[0] == 0
    return home


def test_the_whole_way_by_hand(
    organ: Organ,
    call: Callable[..., tuple[int, str, str]],
    keys: Path,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model, root = models["llama"], keys / "root" / "root.pem"
    data = write_jsonl(tmp_path / "hospital.jsonl", sentences(60, 1, (0, 20)))
    test = write_jsonl(tmp_path / "clinic.jsonl", sentences(10, 2, (0, 20)))
    plain = organ("extract", "--model", model, "--span", "2:4", "--out", tmp_path / "plain")
    assert plain["training"] == "none (the base's own layers)"
    made = tmp_path / "organ"
    trained = organ(
        *("train", "--model", model, "--data", data, "--out", made, "--tokens", 6000),
        *("--learning-rate", 0.01, "--name", "abstracts"),
    )
    seen = organ("inspect", made)
    assert (seen["digest"], seen["form"]) == (trained["digest"], "factors")
    sealed = tmp_path / "x.organ"
    to = keys / "clinic.profile"
    organ("seal", made, "--identity", keys / "donor", "--to", to, "--out", sealed)
    assert organ("inspect", sealed)["organ_id"] == "donor/abstracts"
    assert organ("verify", sealed, "--trust", root)["signer"] == "donor"
    opened = tmp_path / "opened"
    organ("open", sealed, "--identity", keys / "clinic", "--out", opened)
    assert organ("verify", opened, "--trust", root)["signer"] == "donor"
    grafted = tmp_path / "grafted"
    organ("transplant", opened, "--into", model, "--out", grafted)
    before = organ("evaluate", model, "--data", test)
    after = organ("evaluate", grafted, "--data", test)
    assert before["tokens"] == after["tokens"]
    assert float(str(after["perplexity"])) < 0.97 * float(str(before["perplexity"]))

    third = tmp_path / "third"
    code, _, err = call(*("open", sealed, "--identity", keys / "third", "--out", third))
    assert code == 1
    assert err.startswith("error: sealed organ is addressed to others, not to third")
    code, _, err = call(
        *("open", sealed, "--identity", keys / "clinic"),
        *("--exchange", "another", "--out", third),
    )
    assert code == 1
    assert "is for exchange by-hand" in " ".join(err.split())
    assert not third.exists()
    code, _, err = call("verify", sealed, "--trust", keys / "other-root" / "root.pem")
    assert (code, "does not chain" in " ".join(err.split())) == (1, True)
    assert call("sign", made, "--identity", keys / "third")[0] == 1

    # A refused seal leaves an organ as it was.
    before = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    foreign = tmp_path / "foreign.profile"
    call("identity", "init", tmp_path / "f", "--site", "foreign", "--unprotected")
    call("federation", "admit", keys / "other-root", tmp_path / "f/request.json", "--out", foreign)
    words = ("seal", tmp_path / "plain", "--identity", keys / "donor", "--out", tmp_path / "y")
    assert call(*words, "--to", foreign)[0] == 1
    assert call(*words, "--to", to, "--exchange", "Not A Name")[0] == 2
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}


@pytest.mark.parametrize(
    ("mistake", "code", "message"),
    [
        ("field", 1, "has no field 'text' among its 1;"),
        ("empty", 1, "is empty"),
        ("no-weights", 1, "no weights in"),
        ("family", 1, "model family mamba has not been tested"),
        ("span", 2, "expected START:STOP"),
        ("long-span", 1, "has 6 layers"),
        ("taken", 1, "already exists"),
        ("tokens", 2, "--tokens"),
        ("rate", 2, "0 < learning_rate < 1"),
        ("name", 1, "organ label is not valid at name"),
        ("device", 1, "device 'xpu9' cannot be used here"),
        ("config", 1, "not a valid llama config"),
        ("place", 1, "check path, permissions and disk"),
    ],
)
def test_a_mistake_is_one_clear_error_and_nothing_is_written(
    mistake: str,
    code: int,
    message: str,
    call: Callable[..., tuple[int, str, str]],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model, out, extra = models["llama"], tmp_path / "out", []
    data = write_jsonl(tmp_path / "r.jsonl", sentences(5, 1))
    if mistake == "field":
        write_jsonl(data, sentences(5, 1), "note")
    elif mistake == "empty":
        data.write_text("")
    elif mistake == "place":
        (tmp_path / "file").write_text("x")
        out = tmp_path / "file" / "out"
    elif mistake in {"no-weights", "family", "config"}:
        model = tmp_path / "model"
        model.mkdir()
        config = json.loads((models["llama"] / "config.json").read_text())
        if mistake == "family":
            config["model_type"] = "mamba"
        elif mistake == "config":
            config["hidden_size"] = "x"
        (model / "config.json").write_text(json.dumps(config))
    elif mistake == "taken":
        out.mkdir()
        (out / "kept").write_text("x")
    else:
        extra = {
            "span": ["--span", "4:2"],
            "long-span": ["--span", "4:9"],
            "tokens": ["--tokens", "0"],
            "rate": ["--learning-rate", "3"],
            "name": ["--name", "Bad Name"],
            "device": ["--device", "xpu9"],
        }[mistake]
    before = sorted(tmp_path.rglob("*"))
    found, _, err = call("train", "--model", model, "--data", data, "--out", out, *extra)
    assert found == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    if code == 1:
        assert err.count("error:") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_organ_of_another_width_is_not_transplanted(
    organ: Organ,
    call: Callable[..., tuple[int, str, str]],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    organ("extract", "--model", models["llama"], "--span", "2:4", "--out", tmp_path / "o")
    wide = make_model(tmp_path / "wide", "llama", width=64)
    code, _, err = call("transplant", tmp_path / "o", "--into", wide, "--out", tmp_path / "g")
    assert code == 1
    assert "hidden_size is 32 in the organ, 64 in the recipient" in " ".join(err.split())
    assert not (tmp_path / "g").exists()


def test_keys_that_are_missing_or_open_to_others_are_refused(
    call: Callable[..., tuple[int, str, str]], keys: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    made = tmp_path / "o"
    call("extract", "--model", models["llama"], "--span", "2:4", "--out", made)
    code, _, err = call("sign", made, "--identity", tmp_path / "absent")
    assert code == 1
    assert "no identity folder" in " ".join(err.split())
    (signing,) = (keys / "donor").glob("keys/*/signing.key")
    signing.chmod(0o644)
    code, _, err = call("sign", made, "--identity", keys / "donor")
    assert code == 1
    assert "0600" in err
    assert not (made / "model.sig").exists()


def test_a_site_and_a_coordinator_are_set_up(
    call: Callable[..., tuple[int, str, str]], keys: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    records = write_jsonl(tmp_path / "r.jsonl", sentences(30, 1))
    home, site = tmp_path / "home", client.commands.app
    words = (
        *("init", home, "--site", "lab", "--model", models["llama"], "--records", records),
        *("--general", records, "--domain", "medicine", "--unprotected"),
    )
    assert call(*words, app=site)[0] == 0
    assert call(*words, app=site)[0] == 1
    code, out, _ = call("status", home, "--json", app=site)
    assert (code, json.loads(out)["admitted"]) == (0, False)
    request, profile = home / "identity" / "request.json", tmp_path / "lab.profile"
    assert call("federation", "admit", keys / "root", request, "--out", profile)[0] == 0
    joining = ("join", home, profile, "--root", keys / "root" / "root.pem")
    reach = ("--coordinator", "organs.example.org:9092")
    assert call(*joining, *reach, app=site)[0] == 2, "without its certificate"
    assert call(*joining, app=site)[0] == 0
    tls.create(tmp_path / "tls.pem", tmp_path / "tls.key", ["organs.example.org"])
    code, out, _ = call(*joining, *reach, "--certificate", tmp_path / "tls.pem", "--json", app=site)
    assert (code, json.loads(out)["hand over"]) == (0, str(home / "node" / "admission")), "again"
    assert (home / "node" / "admission").is_file()
    code, out, _ = call("status", home, "--json", app=site)
    assert (json.loads(out)["pending"], json.loads(out)["admitted"]) == ([], True)
    assert json.loads(out)["policy"]["release_organs"] == "ask"
    code, out, _ = call("log", "show", home, "--json", app=site)
    assert json.loads(out)["entries"][0]["event"] == "created"
    assert json.loads(out)["rows"] == 1
    code, _, err = call("approve", home, "abc", app=site)
    assert (code, "0 organs that" in err) == (1, True)

    coordinator = tmp_path / "coordinator"
    app = server.commands.app
    assert call("init", coordinator, "--root", keys / "root" / "root.pem", app=app)[0] == 0
    assert json.loads(call("organs", coordinator, "--json", app=app)[1]) == []
    assert call("organs", tmp_path, app=app)[0] == 1
    assert json.loads(call("receipts", coordinator, "none", "--json", app=app)[1]) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_teaches_and_loads_no_torch(program: str) -> None:
    module = {
        "organ": "not_core.commands",
        "organ-site": "client.commands",
        "organ-coordinator": "server.commands",
        "organ-simulate": "simulations.commands",
    }[program]
    script = (
        f"import sys; from {module} import app, main\n"
        "from typer.main import get_command\n"
        "def walk(group, words):\n"
        "    yield words, group\n"
        "    for name, one in getattr(group, 'commands', {}).items():\n"
        "        yield from walk(one, [*words, name])\n"
        "root = get_command(app)\n"
        "names = [words for words, _ in walk(root, [])]\n"
        "for words, one in walk(root, []):\n"
        "    for option in one.params:\n"
        "        assert getattr(option, 'help', None), (words, option.name)\n"
        "    assert hasattr(one, 'commands') or 'Example:' in one.help, words\n"
        "for words in names:\n"
        "    sys.argv = ['x', *words, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert stop.code == 0, words\n"
        "heavy = {'torch', 'transformers', 'datasets', 'flwr', 'ray', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_coordinator_needs_nothing_of_a_sites_install() -> None:
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in {'torch', 'transformers', 'datasets', 'safetensors',"
        " 'gguf', 'model_signing', 'ray', 'numpy.testing'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import server.app, server.commands, server.home, not_core.trust.sealing\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_option_of_privacy_without_privacy_is_refused(
    call: Callable[..., tuple[int, str, str]], models: dict[str, Path], tmp_path: Path
) -> None:
    """Who gives one expects to be protected."""
    data = write_jsonl(tmp_path / "r.jsonl", sentences(30, 1))
    words = ("train", "--model", models["llama"], "--data", data, "--out", tmp_path / "o")
    for more in (("--dp-clip", 0.1), ("--dp-delta", 1e-3), ("--ledger", tmp_path / "l")):
        code, _, err = call(*words, *more)
        assert (code, f"{more[0]} takes --dp-epsilon" in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "o").exists()
