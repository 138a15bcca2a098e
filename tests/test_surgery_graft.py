"""Transplant and excise on disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from families import family_model
from safetensors.torch import load_file, save_file
from surgeries import cut_of, logits, organ_of, put, shifted
from transformers import AutoModelForCausalLM

from not_core import atomic
from not_core.errors import (
    CheckpointError,
    FormatError,
    IncompatibleOrganError,
    OrganError,
    OutputExistsError,
    PlanError,
)
from not_core.manifest import Span
from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.organ import (
    Label,
    Organ,
    describe,
    extract,
    read_organ,
    write_organ,
)
from not_core.surgery.tensors import Held, tensor_digest


def digest(folder: Path) -> str:
    return open_checkpoint(folder).weights_digest


@pytest.fixture
def host(models: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(models["llama"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_identity_plan_keeps_the_digest_in_many_shards(
    family: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graft, "SHARD_BYTES", 20_000)
    host = open_checkpoint(models[family])
    graft.transplant(plans.identity(6), host, {}, tmp_path / "copy")
    copy = open_checkpoint(tmp_path / "copy")
    assert len(list((tmp_path / "copy").glob("model-*.safetensors"))) > 2
    assert copy.weights_digest == host.weights_digest
    assert copy.tokenizer_digest == host.tokenizer_digest is not None
    assert not (tmp_path / "copy" / "organs.json").exists()
    stock = AutoModelForCausalLM.from_pretrained(models[family])
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "copy")), logits(stock)
    )


def test_what_a_graft_needs_comes_along_and_nothing_else(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models["llama"], tmp_path / "host"))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "records.jsonl").write_text("private")
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "do_sample": true}')
    host = open_checkpoint(folder)
    out = put(host, tmp_path / "out", (organ_of(host, 1, 2), "insert", 0))
    assert {path.name for path in out.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "organs.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "0.7" in (out / "generation_config.json").read_text()
    assert str(tmp_path) not in (out / "config.json").read_text()


@pytest.mark.parametrize("said", [{"do_sample": True, "temperature": 0.5, "top_k": 7}, {}])
def test_how_a_host_generates_is_kept_where_only_its_config_tells(
    models: dict[str, Path], tmp_path: Path, said: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(models["llama"], tmp_path / "host"))
    (folder / "generation_config.json").unlink()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    host = open_checkpoint(folder)
    out = put(host, tmp_path / "out", (organ_of(host, 1, 2), "insert", 0))
    assert (out / "generation_config.json").exists() == bool(said)
    graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "back")
    wanted = AutoModelForCausalLM.from_pretrained(folder).generation_config
    for made in (out, tmp_path / "back"):
        found = AutoModelForCausalLM.from_pretrained(made).generation_config
        assert found == wanted
        assert {name: found.to_dict()[name] for name in said} == said


def test_named_chat_templates_come_along(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["llama"], tmp_path / "host"))
    named = folder / "additional_chat_templates"
    named.mkdir()
    (named / "tools.jinja").write_text("TOOLS {{ messages }}")
    (named / "notes.txt").write_text("private")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tekken.json").write_text("{}")
    host = open_checkpoint(folder)
    out = put(host, tmp_path / "out", (organ_of(host, 1, 2), "insert", 0))
    assert [file.name for file in (out / named.name).iterdir()] == ["tools.jinja"]
    assert (out / "tekken.json").read_text() == "{}"
    (out / "tekken.json").unlink()  # which would be another tokenizer's
    template = open_checkpoint(out).tokenizer.chat_template
    assert template == {"default": "{{ messages }}", "tools": "TOOLS {{ messages }}"}


def test_an_organ_that_changes_while_it_is_grafted_leaves_nothing(
    host: Checkpoint, tmp_path: Path
) -> None:
    span = Span(start=0, stop=1)
    cut = extract(host, span)
    folder = tmp_path / "organ"
    write_organ(folder, cut, describe(host, span, cut, Label(name="o"), training=None))
    organ = read_organ(folder)
    with (folder / "organ.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(OrganError, match="not the tensor that the manifest declares"):
        put(host, tmp_path / "out", (organ, "insert", 0))
    assert [path.name for path in tmp_path.iterdir()] == ["organ"]


def test_a_taken_place_is_not_overwritten(host: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(OutputExistsError):
        graft.transplant(plans.identity(6), host, {}, tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_several_organs_in_one_plan_stand_where_they_were_put(
    host: Checkpoint, tmp_path: Path
) -> None:
    one, two, three = (
        organ_of(host, start, start + 2, name, change=shifted(0.01 * start))
        for start, name in ((0, "a"), (2, "b"), (4, "c"))
    )
    out = put(host, tmp_path / "out", (one, "replace", 3), (two, "insert", 3), (three, "insert", 3))
    stored = load_file(out / "model.safetensors")
    expected = [
        *((None, i) for i in range(3)),
        *((two, i) for i in range(2)),
        *((three, i) for i in range(2)),
        *((one, i) for i in range(2)),
        (None, 5),
    ]
    for place, (organ, index) in enumerate(expected):
        source, key = (
            (organ.tensors, f"{index}.mlp.up_proj.weight")
            if organ
            else (host.tensors, f"model.layers.{index}.mlp.up_proj.weight")
        )
        assert torch.equal(stored[f"model.layers.{place}.mlp.up_proj.weight"], source.read(key))
    assert len(AutoModelForCausalLM.from_pretrained(out).model.layers) == len(expected)


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")])
def test_organs_put_over_each_other_come_out_in_any_order(
    host: Checkpoint, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """b replaces one layer of a and one of the host; c is inserted into b's middle."""
    a = organ_of(host, 1, 4, "a", change=shifted(0.1))
    first = open_checkpoint(put(host, tmp_path / "1", (a, "replace", 1)))
    b = organ_of(host, 3, 5, "b", change=shifted(0.2))
    second = open_checkpoint(put(first, tmp_path / "2", (b, "replace", 3)))
    c = organ_of(host, 0, 1, "c", change=shifted(0.3))
    third = open_checkpoint(put(second, tmp_path / "3", (c, "insert", 4)))
    assert len({host.weights_digest, *(one.weights_digest for one in (first, second, third))}) == 4
    model = third
    for number, name in enumerate(order):
        out = tmp_path / f"out-{number}"
        graft.excise(model, f"unclaimed/{name}", out)
        model = open_checkpoint(out)
        if order[: number + 1] == ("c",):
            assert model.weights_digest == second.weights_digest
        if order[: number + 1] == ("c", "b"):
            assert model.weights_digest == first.weights_digest
    assert model.weights_digest == host.weights_digest
    assert not (model.origin / "organs.json").exists()
    assert not (model.origin / "replaced").exists()
    assert model.config == host.config


def test_taking_out_the_lower_organ_keeps_the_upper(host: Checkpoint, tmp_path: Path) -> None:
    a, b = (
        organ_of(host, 0, 2, "a", change=shifted(0.1)),
        organ_of(host, 4, 5, "b", change=shifted(0.2)),
    )
    first = open_checkpoint(put(host, tmp_path / "1", (a, "replace", 2)))
    both = open_checkpoint(put(first, tmp_path / "2", (b, "replace", 3)))
    graft.excise(both, "unclaimed/a", tmp_path / "left")
    expected = put(host, tmp_path / "expected", (b, "replace", 3))
    assert digest(tmp_path / "left") == digest(expected)
    assert [entry["source"] for entry in lineage(tmp_path / "left")["layers"]] == [
        *["root"] * 3,
        b.manifest.digest,
        *["root"] * 2,
    ]


def lineage(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "organs.json").read_text())
    return found


def test_without_what_was_replaced_the_host_must_be_given(
    host: Checkpoint, tmp_path: Path, models: dict[str, Path]
) -> None:
    organ = organ_of(host, 0, 2)
    out = put(host, tmp_path / "grafted", (organ, "replace", 4), keep_replaced=False)
    assert not (out / "replaced").exists()
    model = open_checkpoint(out)
    with pytest.raises(OrganError, match=r"2 layers .* --host"):
        graft.excise(model, "unclaimed/o", tmp_path / "x")
    other = open_checkpoint(make_model(tmp_path / "other", "llama", seed=1))
    with pytest.raises(CheckpointError, match="give the model that they were put into"):
        graft.excise(model, "unclaimed/o", tmp_path / "x", root=other)
    assert not (tmp_path / "x").exists()
    assert graft.excise(model, "unclaimed/o", tmp_path / "x", root=host).weights == (
        host.weights_digest
    )


def test_a_graft_that_was_changed_since_is_not_excised(host: Checkpoint, tmp_path: Path) -> None:
    out = put(host, tmp_path / "grafted", (organ_of(host, 0, 2), "insert", 4))
    stored = load_file(out / "model.safetensors")
    stored["model.norm.weight"][0] += 1
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"was changed after organs\.json"):
        graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "x")


def test_forged_set_aside_layers_do_not_pass_for_the_host(host: Checkpoint, tmp_path: Path) -> None:
    out = put(host, tmp_path / "grafted", (organ_of(host, 0, 2), "replace", 4))
    aside = out / "replaced" / "layers.safetensors"
    stored = load_file(aside)
    stored[sorted(stored)[0]].view(-1)[0] += 1
    save_file(stored, aside)
    with pytest.raises(CheckpointError, match=r"is not the tensor that organs\.json declares"):
        graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["unclaimed/p", "abcdef123", ""])
def test_an_organ_that_is_not_there_is_named(host: Checkpoint, tmp_path: Path, name: str) -> None:
    out = put(host, tmp_path / "grafted", (organ_of(host, 0, 2), "insert", 4))
    with pytest.raises(OrganError, match=r"0 organs .* unclaimed/o"):
        graft.excise(open_checkpoint(out), name, tmp_path / "x")


def test_two_organs_of_one_name_are_told_apart_by_digest(host: Checkpoint, tmp_path: Path) -> None:
    one, two = organ_of(host, 0, 1), organ_of(host, 1, 2)
    out = put(host, tmp_path / "grafted", (one, "insert", 1), (two, "insert", 1))
    with pytest.raises(OrganError, match="2 organs in this model are called unclaimed/o"):
        graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "x")
    graft.excise(open_checkpoint(out), one.manifest.digest[:10], tmp_path / "x")
    assert digest(tmp_path / "x") == digest(put(host, tmp_path / "y", (two, "insert", 1)))


def test_an_edited_lineage_is_refused(host: Checkpoint, tmp_path: Path) -> None:
    out = put(host, tmp_path / "grafted", (organ_of(host, 0, 2), "insert", 4))
    (out / "organs.json").write_text('{"format": "organ-exchange/lineage/v9"}')
    with pytest.raises(FormatError, match=r"organs\.json"):
        graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "x")


def test_a_layer_that_depends_on_its_place_is_not_moved(tmp_path: Path) -> None:
    """GPT-2 can divide attention by the layer's index; elsewhere the layer would run otherwise."""
    folder = family_model(tmp_path / "host", "gpt2", scale_attn_by_inverse_layer_idx=True)
    host = open_checkpoint(folder)
    organ = organ_of(host, 2, 4)
    put(host, tmp_path / "back", (organ, "replace", 2))
    assert digest(tmp_path / "back") == host.weights_digest
    with pytest.raises(PlanError, match=r"layer 3 would run with attn\.scaling"):
        put(host, tmp_path / "moved", (organ, "replace", 3))
    with pytest.raises(PlanError, match="attn"):
        put(host, tmp_path / "pushed", (organ_of(host, 0, 1), "insert", 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "host"]


def test_layers_of_a_mixture_keep_their_kind(tmp_path: Path) -> None:
    """Qwen3-MoE lists its dense layers by index and interval; surgery moves the indices along."""
    folder = family_model(
        tmp_path / "host", "qwen3_moe", mlp_only_layers=[0], decoder_sparse_step=2
    )
    host = open_checkpoint(folder)
    assert host.source.entries == {"mlp_only_layers": [True, False, True, False, True, False]}
    out = put(host, tmp_path / "out", (organ_of(host, 0, 3), "insert", 3))
    config = json.loads((out / "config.json").read_text())
    assert (config["mlp_only_layers"], config["decoder_sparse_step"]) == ([0, 2, 3, 5, 7], 1)
    loaded, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    kinds = [type(layer.mlp).__name__ for layer in loaded.model.layers]
    assert [index for index, kind in enumerate(kinds) if kind == "Qwen3MoeMLP"] == [0, 2, 3, 5, 7]


def test_an_organ_whose_entries_say_otherwise_than_its_tensors_is_refused(tmp_path: Path) -> None:
    """Dense tensors under the entry of a sparse layer: the class would make up the experts."""
    host = open_checkpoint(family_model(tmp_path / "host", "qwen3_moe", mlp_only_layers=[0, 1]))
    organ = cut_of(host, 1, 2)
    base = replace(organ.manifest.base, layer_config={"mlp_only_layers": [False]})
    lying = Organ(replace(organ.manifest, base=base), organ.tensors)
    with pytest.raises(
        CheckpointError, match=r"layers\.4\.mlp\.\S+ is there, which the class does"
    ):
        put(host, tmp_path / "out", (lying, "insert", 4))
    assert not (tmp_path / "out").exists()


def test_layer_types_that_a_class_does_without_move_along(tmp_path: Path) -> None:
    """Any config may hold them; transformers counts them and goes by them in its caches."""
    kinds = ["full_attention", "sliding_attention"] * 3
    folder = family_model(tmp_path / "host", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"layer_types": kinds, "sliding_window": 4})
    )
    host = open_checkpoint(folder)
    out = put(host, tmp_path / "out", (cut_of(host, 1, 2), "insert", 3))
    written = json.loads((out / "config.json").read_text())["layer_types"]
    assert written == [*kinds[:3], kinds[1], *kinds[3:]]
    assert len(AutoModelForCausalLM.from_pretrained(out).model.layers) == 7


def test_a_quantized_mixture_is_cut_and_grafted_as_it_is_stored(tmp_path: Path) -> None:
    """GPT-OSS ships its experts as packed 4-bit blocks; surgery copies their bytes."""
    folder = family_model(tmp_path / "host", "gpt_oss", intermediate_size=32)
    stored: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, width, out = tensor.shape
            blocks = (experts, out, width // 32, 16)
            stored[f"{name}_blocks"] = torch.randint(
                256, blocks, dtype=torch.uint8, generator=generator
            )
            stored[f"{name}_scales"] = torch.full(blocks[:-1], 120, dtype=torch.uint8)
        else:
            stored[name] = tensor.bfloat16()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    host = open_checkpoint(folder)
    out = put(host, tmp_path / "out", (cut_of(host, 1, 3), "insert", 5))
    loaded, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert len(loaded.model.layers) == 8
    assert torch.isfinite(logits(loaded)).all()
    graft.excise(open_checkpoint(out), "unclaimed/o", tmp_path / "back")
    assert digest(tmp_path / "back") == host.weights_digest

    config["quantization_config"]["modules_to_not_convert"] = ["model.layers.3.self_attn"]
    (folder / "config.json").write_text(json.dumps(config))
    counted = open_checkpoint(folder)
    with pytest.raises(PlanError, match=r"names layers by number \(model\.layers\.3\.self_attn\)"):
        put(counted, tmp_path / "counted", (cut_of(counted, 1, 3), "insert", 5))

    # What is not packed can be compared with the class, and that each pack is there.
    for name in ("model.layers.2.input_layernorm.weight", "model.layers.2.mlp.experts."):
        part = {key: tensor for key, tensor in stored.items() if not key.startswith(name)}
        save_file(part, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"{name}\S* is missing"):
            cut_of(open_checkpoint(folder), 1, 3)


def test_an_organ_of_another_type_is_rounded_only_when_that_is_allowed(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models["llama"], tmp_path / "half"))
    stored = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.bfloat16() for name, tensor in stored.items()}, folder / "model.safetensors"
    )
    half = open_checkpoint(folder)
    organ = organ_of(open_checkpoint(models["llama"]), 1, 3)
    said = r"is float32 .* in the organ, bfloat16 .*; .* or allow base and dtype"
    with pytest.raises(IncompatibleOrganError, match=said):
        put(half, tmp_path / "out", (organ, "replace", 0))
    allow = frozenset({"base", "dtype"})
    put(half, tmp_path / "out", (organ, "replace", 0), allow=allow)
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in out.values()} == {torch.bfloat16}
    key = "mlp.up_proj.weight"
    assert torch.equal(out[f"model.layers.0.{key}"], organ.tensors.read(f"0.{key}").bfloat16())


def test_cutting_reads_the_span_and_nothing_else(
    host: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.weights_digest  # noqa: B018 - read once and kept
    read: list[str] = []
    plain = type(host.tensors).read

    def spy(self: Any, name: str, **how: Any) -> torch.Tensor:
        read.append(name)
        return plain(self, name, **how)

    monkeypatch.setattr(type(host.tensors), "read", spy)
    span = Span(start=1, stop=3)
    cut = extract(host, span)
    assert read == []
    describe(host, span, cut, Label(name="o"), training=None)
    assert {name.split(".")[2] for name in read} == {"1", "2"}
    assert len(read) == len(set(read)) == len(cut.names())


def test_digests_are_kept_while_files_stay_as_they_are(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORGAN_EXCHANGE_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(models["llama"], tmp_path / "host"))
    fresh = open_checkpoint(folder).weights_digest
    assert not (tmp_path / "cache").exists(), "a file just written may change unnoticed"
    monkeypatch.setattr("not_core.surgery.digests.SETTLED", -1e9)
    assert open_checkpoint(folder).weights_digest == fresh
    assert len(list((tmp_path / "cache" / "digests").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(
            "not_core.surgery.digests.read_digest", lambda *_: pytest.fail("read it again")
        )
        assert open_checkpoint(folder).weights_digest == fresh
    stored = load_file(folder / "model.safetensors")
    stored["model.norm.weight"][0] += 1
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(folder).weights_digest != fresh


def test_a_killed_graft_leaves_no_folder_of_its_name(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Killed with -9 at the last moment: nothing that loads, and the next run sweeps it up."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from not_core.surgery import graft, plan as plans\n"
        "from not_core.surgery.checkpoint import open_checkpoint\n"
        "plain = graft._copy_rest\n"
        "def stuck(host, work):\n"
        "    plain(host, work)\n"
        "    (work / 'ready').touch()\n"
        "    time.sleep(60)\n"
        "graft._copy_rest = stuck\n"
        "host = open_checkpoint(sys.argv[1])\n"
        "graft.transplant(plans.identity(6), host, {}, Path(sys.argv[2]))\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, str(models["llama"]), str(out)],
        cwd=Path(__file__).parent.parent,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.partial/ready")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (left,) = tmp_path.iterdir()
    host = open_checkpoint(models["llama"])
    # While its maker lives, what lies there is somebody's work.
    other = tmp_path / "out.b"
    graft.transplant(plans.identity(6), host, {}, other)
    with atomic.folder(out):
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    shutil.rmtree(out)
    assert (left / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(left)
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(left)
    graft.transplant(plans.identity(6), host, {}, out)
    assert digest(out) == host.weights_digest
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.b"}


def test_a_program_that_is_asked_to_end_leaves_nothing(
    models: dict[str, Path], tmp_path: Path
) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "import typer\n"
        "from not_core import atomic\n"
        "from not_core.commands.program import run\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def work(out: Path) -> None:\n"
        "    with atomic.folder(out) as inside:\n"
        "        (inside / 'ready').touch()\n"
        "        time.sleep(60)\n"
        "run(app)\n"
    )
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, str(tmp_path / "out")], cwd=Path(__file__).parent.parent
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.partial/ready")):
        assert process.poll() is None, "it ended before it was asked to"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_a_program_runs_in_is_not_replaced(
    host: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graft, "layers_at_hand", lambda *_: pytest.fail("work was done"))
    for out in (Path(), tmp_path):
        with pytest.raises(OutputExistsError, match="name a new folder in it"):
            graft.transplant(plans.identity(6), host, {}, out)
    (tmp_path / "mount").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "mount")
    with pytest.raises(OutputExistsError, match="or a mount point"):
        graft.transplant(plans.identity(6), host, {}, tmp_path / "mount")


@pytest.mark.parametrize("kind", ["a file", "no folder", "no home", "full"])
def test_a_cache_that_cannot_be_used_is_done_without(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    wanted = open_checkpoint(models["llama"]).weights_digest
    monkeypatch.setattr("not_core.surgery.digests.SETTLED", -1e9)
    place = tmp_path / "cache"
    if kind == "a file":
        place.touch()
    elif kind == "no folder":
        tmp_path.joinpath("in-the-way").touch()
        place = tmp_path / "in-the-way" / "cache"
    elif kind == "full":
        place.mkdir()
        (place / "digests").touch()
    monkeypatch.setenv("ORGAN_EXCHANGE_CACHE", str(place))
    if kind == "no home":
        monkeypatch.delenv("ORGAN_EXCHANGE_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(
            Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory"))
        )
    assert open_checkpoint(models["llama"]).weights_digest == wanted


def test_a_host_that_changes_while_it_is_read_is_not_passed_off(
    host: Checkpoint, tmp_path: Path
) -> None:
    """The digest that a plan of host layers must give is known beforehand."""
    names = {name: host.tensors.read(name) for name in host.names}
    assert tensor_digest(names["model.norm.weight"]) == host.tensor_digests["model.norm.weight"]
    names["model.norm.weight"] = names["model.norm.weight"] + 1
    host.weights_digest  # noqa: B018 - read before the change
    changed = Checkpoint(host.origin, host.config, host.anatomy, Held(names))
    object.__setattr__(changed, "weights_digest", host.weights_digest)
    with pytest.raises(CheckpointError, match="not those it had before"):
        graft.transplant(plans.identity(6), changed, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
