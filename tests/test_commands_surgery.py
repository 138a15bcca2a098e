"""The commands of surgery as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model, sentences, write_jsonl
from safetensors.torch import load_file, save_file

from not_core import canonical
from not_core.commands.program import listing, report, say
from not_core.surgery.anatomy import FAMILIES
from not_core.surgery.checkpoint import open_checkpoint
from not_core.verbs.inspection import families

Call = Callable[..., tuple[int, str, str]]
Organ = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def cut(organ: Organ, models: dict[str, Path], tmp_path: Path) -> Path:
    organ("extract", "--model", models["llama"], "--span", "2:4", "--out", tmp_path / "cut")
    return tmp_path / "cut"


def test_put_in_look_take_out(
    organ: Organ, call: Call, models: dict[str, Path], cut: Path, tmp_path: Path
) -> None:
    model = models["llama"]
    base = organ("inspect", model)
    assert (base["family"], base["layers"], base["width"], base["organs"]) == (
        "llama",
        6,
        32,
        "none",
    )
    assert base["bytes"] == {"float32": base["parameters"] * 4}
    assert base["weights"] == open_checkpoint(model).weights_digest
    out = tmp_path / "grafted"
    put = organ(
        "transplant", cut, "--into", model, "--mode", "insert", "--position", 6, "--out", out
    )
    assert (put["modes"], put["positions"], put["layers"]) == (["insert"], [6], 8)
    seen = organ("inspect", out)
    assert seen["weights"] == put["weights"] != base["weights"]
    assert seen["organs"] == {"unclaimed/organ": {"digest": put["organs"][0], "layers": [6, 7]}}
    told = organ("diff", model, out)
    assert (told["same"], told["added"], told["changed"], told["frame"]) == (6, 2, 0, "same")
    assert [row["organ"] for row in told["layers"]] == [None] * 6 + ["unclaimed/organ"] * 2
    assert [row["kind"] for row in told["layers"]] == ["same"] * 6 + ["added"] * 2
    code, text, _ = call("diff", model, out)
    assert (code, text.count("added")) == (0, 3)
    back = organ("excise", out, "--organ", "unclaimed/organ", "--out", tmp_path / "back")
    assert (back["weights"], back["organs"]) == (base["weights"], [])


def test_a_graft_that_was_edited_since_is_shown_and_not_operated_on(
    organ: Organ, call: Call, models: dict[str, Path], cut: Path, tmp_path: Path
) -> None:
    """A fine-tuned graft is what somebody wants to look at."""
    model, out = models["llama"], tmp_path / "grafted"
    organ("transplant", cut, "--into", model, "--mode", "insert", "--out", out)
    assert organ("inspect", model)["lineage"] == organ("diff", out, model)["lineage"] == "none"
    assert organ("inspect", out)["lineage"] == organ("diff", model, out)["lineage"] == "current"
    stored = load_file(out / "model.safetensors")
    stored["model.layers.3.mlp.up_proj.weight"][0, 0] += 1
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    seen = organ("inspect", out)
    assert (seen["lineage"], seen["organs"], seen["layers"]) == ("stale", "unknown", 8)
    told = organ("diff", model, out)
    assert (told["lineage"], told["same"], told["added"]) == ("stale", 6, 2)
    assert {row["organ"] for row in told["layers"]} == {None}
    assert "stale" in call("diff", model, out)[1]
    code, _, err = call("excise", out, "--organ", "unclaimed/organ", "--out", tmp_path / "x")
    assert (code, "was changed after organs.json" in " ".join(err.split())) == (1, True)


def test_two_organs_are_merged_and_two_are_put_in(
    organ: Organ, call: Call, models: dict[str, Path], cut: Path, tmp_path: Path
) -> None:
    model, records = models["llama"], write_jsonl(tmp_path / "r.jsonl", sentences(30, seed=1))
    trained = tmp_path / "trained"
    organ(
        *("train", "--model", model, "--data", records, "--span", "2:4", "--tokens", 300),
        *("--out", trained),
    )
    merged = organ(
        "merge", cut, trained, "--base", model, "--method", "ties", "--out", tmp_path / "m"
    )
    assert merged["span"] == "2:4"
    assert "ties of 2 organs" in merged["training"]
    assert "records its parents were trained on" in (tmp_path / "m" / "README.md").read_text()
    both = organ(
        *("transplant", tmp_path / "m", cut, "--into", model, "--mode", "insert"),
        *("--position", 0, "--position", 0, "--out", tmp_path / "both"),
    )
    assert (both["modes"], both["positions"]) == (["insert", "insert"], [0, 0])
    assert both["layers"] == 10
    code, _, err = call(
        *("transplant", trained, cut, "--into", model, "--out", tmp_path / "x"),
    )
    assert code == 1
    assert "merge organs of one span first" in " ".join(err.split())
    assert not (tmp_path / "x").exists()


def test_each_organ_can_have_a_mode_of_its_own(
    organ: Organ, call: Call, models: dict[str, Path], cut: Path, tmp_path: Path
) -> None:
    model = models["llama"]
    organ("extract", "--model", model, "--span", "0:1", "--name", "b", "--out", tmp_path / "b")
    words = ("transplant", cut, tmp_path / "b", "--into", model, "--position", 3, "--position", 3)
    out = tmp_path / "out"
    put = organ(*words, "--mode", "replace", "--mode", "insert", "--out", out)
    assert (put["modes"], put["positions"], put["layers"]) == (["replace", "insert"], [3, 3], 7)
    organs = organ("inspect", out)["organs"]
    # An organ inserted where another replaces stands before it.
    assert {name: facts["layers"] for name, facts in organs.items()} == {
        "unclaimed/b": [3],
        "unclaimed/organ": [4, 5],
    }
    host, made = (open_checkpoint(folder) for folder in (model, out))
    plan = [0, 1, 2, 0, 2, 3, 5]
    for place, index in enumerate(plan):
        ours, theirs = made.source.layer(place), host.source.layer(index)
        assert {rest: made.tensor_digests[name] for rest, name in ours.items()} == {
            rest: host.tensor_digests[name] for rest, name in theirs.items()
        }
    code, _, err = call(*words, *["--mode", "insert"] * 3, "--out", tmp_path / "x")
    assert (code, "3 modes for 2 organs" in " ".join(err.split())) == (2, True)


def test_auto_takes_the_best_position_and_prints_all(
    organ: Organ, call: Call, models: dict[str, Path], cut: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "held-out.jsonl", sentences(12, seed=3))
    words = ("transplant", cut, "--into", models["llama"], "--position", "auto", "--data", data)
    found = organ(*words, "--documents", 5, "--mode", "insert", "--out", tmp_path / "a")
    rows = found["tried"]
    assert [row["position"] for row in rows] == list(range(7))
    lowest = min(rows, key=lambda row: row["perplexity"])
    assert found["positions"] == [lowest["position"]]
    assert [row["position"] for row in rows if row["best"]] == [lowest["position"]]
    assert found["documents"] == 5
    beaten = found["without_organ"] <= lowest["perplexity"]
    assert ("no position beats" in found["note"]) == beaten
    assert "measure on others" in found["note"]
    assert open_checkpoint(tmp_path / "a").weights_digest == found["weights"]
    code, text, _ = call(*words, "--documents", 5, "--out", tmp_path / "b")
    assert code == 0
    assert text.count(" to +") + text.count(" to -") == 5


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--position", "auto"], 2, "--position auto and --data go together"),
        (["--data", "HELD"], 2, "--position auto and --data go together"),
        (["--position", "1", "--position", "2"], 2, "2 positions for 1 organs"),
        (["--position", "-1"], 2, "expected a position from 0"),
        (["--position", "first"], 2, "expected a position from 0"),
        (["--position", "5"], 1, "position 5 is outside the host"),
        (["--position", "auto", "--data", "absent.jsonl"], 1, "absent.jsonl"),
        (["--position", "auto", "--data", "HELD", "--device", "xpu7"], 1, "cannot be used here"),
    ],
)
def test_a_wrong_position_is_a_clear_error(
    call: Call,
    models: dict[str, Path],
    cut: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    data = write_jsonl(tmp_path / "held-out.jsonl", sentences(3, seed=3))
    words = [str(data) if word == "HELD" else word for word in words]
    found, _, err = call(
        "transplant", cut, "--into", models["llama"], *words, "--out", tmp_path / "x"
    )
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "x").exists()


def test_what_does_not_fit_is_refused_before_anything_is_read(
    call: Call,
    organ: Organ,
    cut: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = make_model(tmp_path / "wide", "llama", width=64)
    with monkeypatch.context() as patch:
        patch.setattr(
            "not_core.surgery.tensors.SafetensorsFiles.read",
            lambda *_, **__: pytest.fail("weights were read"),
        )
        code, _, err = call("transplant", cut, "--into", wide, "--out", tmp_path / "x")
        assert code == 1
        assert "hidden_size is 32 in the organ, 64 in the recipient" in " ".join(err.split())
    other = make_model(tmp_path / "other", "llama", seed=1)
    code, _, err = call("transplant", cut, "--into", other, "--out", tmp_path / "x")
    assert code == 1
    assert "allow base and measure what it does" in " ".join(err.split())
    organ("transplant", cut, "--into", other, "--allow", "base", "--out", tmp_path / "x")


def test_the_table_of_families_in_the_docs_is_what_the_command_says(organ: Call) -> None:
    rows = families()
    assert [row["family"] for row in rows] == sorted(FAMILIES)
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    lines = ["| " + " | ".join(row.values()) + " |" for row in rows]
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert table[2 : 2 + len(rows)] == lines


def test_a_family_is_listed_with_all_its_parts() -> None:
    rows = {row["family"]: row for row in families()}
    parts = ("trunk", "layers", "embedding", "positions and norms", "head")
    assert [rows["gpt2"][name] for name in parts] == [
        "transformer.",
        "h.",
        "wte",
        "wpe, ln_f",
        "lm_head",
    ]
    assert all(row[name] for row in rows.values() for name in parts)


def test_families_are_listed(call: Call) -> None:
    code, text, _ = call("families", "--json")
    assert code == 0
    assert json.loads(text) == families()


def test_what_was_trained_by_factors_is_shipped_as_factors(
    organ: Organ, call: Call, models: dict[str, Path], tmp_path: Path
) -> None:
    model, records = models["llama"], write_jsonl(tmp_path / "r.jsonl", sentences(30, seed=1))
    words = ("train", "--model", model, "--data", records, "--span", "2:4", "--tokens", 300)
    small = organ(*words, "--rank", 2, "--threads", 1, "--out", tmp_path / "small")
    large = organ(
        *words, "--rank", 2, "--threads", 1, "--ship", "layers", "--out", tmp_path / "large"
    )
    assert (small["form"], large["form"]) == ("factors", "layers")
    assert 3 * small["artefact_bytes"] < large["artefact_bytes"]
    for made, told in ((tmp_path / "small", small), (tmp_path / "large", large)):
        seen = organ("inspect", made)
        assert (seen["form"], seen["digest"]) == (told["form"], told["digest"])
        assert seen["artefact_bytes"] == (made / "organ.safetensors").stat().st_size
    expanded = organ("expand", tmp_path / "small", "--base", model, "--out", tmp_path / "expanded")
    assert (expanded["form"], expanded["parent"]) == ("layers", small["digest"])
    assert expanded["artefact_bytes"] == large["artefact_bytes"]
    grafts = {}
    for name in ("small", "large", "expanded"):
        out = tmp_path / f"in-{name}"
        grafts[name] = organ("transplant", tmp_path / name, "--into", model, "--out", out)
    assert len({put["weights"] for put in grafts.values()}) == 1
    assert len({tuple(put["organs"]) for put in grafts.values()}) == 3
    told = organ("diff", model, tmp_path / "in-small")
    assert (told["changed"], told["same"]) == (2, 4)
    back = organ(
        "excise", tmp_path / "in-small", "--organ", small["digest"], "--out", tmp_path / "b"
    )
    assert back["weights"] == organ("inspect", model)["weights"]
    merged = organ(
        *("merge", tmp_path / "small", tmp_path / "expanded", "--base", model),
        *("--out", tmp_path / "merged"),
    )
    assert merged["form"] == "layers"

    code, _, err = call("expand", tmp_path / "large", "--base", model, "--out", tmp_path / "x")
    assert (code, "holds layers already" in " ".join(err.split())) == (1, True)
    code, _, err = call(*words, "--rank", 0, "--ship", "factors", "--out", tmp_path / "x")
    assert (code, "takes a --rank above 0" in " ".join(err.split())) == (2, True)
    assert organ(*words, "--rank", 0, "--out", tmp_path / "whole")["form"] == "layers"
    other = make_model(tmp_path / "other", "llama", seed=1)
    for command in (
        ("transplant", tmp_path / "small", "--into", other, "--allow", "base"),
        ("expand", tmp_path / "small", "--base", other),
    ):
        code, _, err = call(*command, "--out", tmp_path / "x")
        assert (code, "on its own base only" in " ".join(err.split())) == (1, True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--position", "9"), "position 9 is outside the host"),
        (("--mode", "insert", "--position", "7"), "position 7 is outside the host"),
        (("{cut}", "--position", "1", "--position", "2"), "which another organ replaces"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_read(
    call: Call,
    models: dict[str, Path],
    cut: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(
        "not_core.surgery.tensors.SafetensorsFiles.read", lambda *_, **__: pytest.fail("it read")
    )
    told = [cut if word == "{cut}" else word for word in words]
    out = tmp_path / "out"
    code, _, err = call("transplant", cut, *told, "--into", models["llama"], "--out", out)
    assert code == 1
    assert message in " ".join(err.split())


def test_names_that_others_chose_do_not_reach_the_terminal_raw(
    call: Call, models: dict[str, Path], cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An organ's config, a model's fields and what is said of them."""
    evil = "\x1b]0;PWNED\x07\x1b[2K\rok: organ fits\n\x9b31m\u202e"
    said = json.loads((cut / "manifest.json").read_text())
    said["base"]["config"][evil] = evil
    (cut / "manifest.json").write_bytes(canonical.encode(said))
    out = cut.parent / "out"
    code, _, err = call("transplant", cut, "--into", models["llama"], "--out", out)
    assert code == 1
    assert "PWNED" in err
    for as_json in (False, True):
        report({evil: evil, "list": [evil]}, as_json)
        listing([{evil: evil}], as_json)
    say(evil)
    shown = capsys.readouterr()
    assert "PWNED" in shown.out
    for text in (err, shown.out, shown.err):
        assert all(one.isprintable() for one in text.replace("\n", ""))
        assert not any(line.startswith("ok: organ fits") for line in text.splitlines())


def test_a_graft_is_no_base_that_nobody_was_trained_into(
    call: Callable[..., tuple[int, str, str]], models: dict[str, Path], tmp_path: Path
) -> None:
    """Its layers may hold records that a new epsilon would not cover."""
    data = write_jsonl(tmp_path / "r.jsonl", sentences(60, 1))
    made, graft = tmp_path / "organ", tmp_path / "graft"
    words = ("--data", data, "--tokens", 2000, "--span", "2:4")
    assert call("train", "--model", models["llama"], *words, "--out", made)[0] == 0
    assert call("transplant", made, "--into", models["llama"], "--out", graft)[0] == 0
    private = ("--dp-noise-multiplier", 5, "--dp-delta", 1e-3, "--ledger", tmp_path / "ledger")
    out = tmp_path / "private"
    code, _, err = call("train", "--model", graft, *words, *private, "--out", out)
    assert (code, "would not cover" in " ".join(err.split())) == (1, True)
    assert not out.exists()
    assert call("extract", "--model", graft, "--span", "2:4", "--out", out)[0] == 0
    assert "whatever that was trained on" in (out / "README.md").read_text()
