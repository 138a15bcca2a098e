"""Files made to harm: refused with a typed error, in bounded memory, with nothing written."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from surgeries import cut_of

from not_core.errors import CheckpointError, FormatError, NotError, OrganError
from not_core.manifest import Span
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.organ import Label, describe, extract, read_organ, write_organ
from not_core.surgery.tensors import HEADER_BYTES, SafetensorsFiles, read_names

Header = dict[str, Any]


def split(path: Path) -> tuple[Header, bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: Header, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def first(header: Header) -> Any:
    return header[next(name for name in header if name != "__metadata__")]


def overlapping(header: Header, body: bytes) -> bytes:
    names = [name for name in header if name != "__metadata__"]
    same_size = next(
        (one, other)
        for one in names
        for other in names
        if one != other and header[one]["shape"] == header[other]["shape"]
    )
    header[same_size[0]]["data_offsets"] = header[same_size[1]]["data_offsets"]
    return joined(header, body)


def gap(header: Header, body: bytes) -> bytes:
    name = next(name for name in header if name != "__metadata__")
    del header[name]
    return joined(header, body)


def wrong_size(header: Header, body: bytes) -> bytes:
    first(header)["shape"] = [1, 1]
    return joined(header, body)


def huge_shape(header: Header, body: bytes) -> bytes:
    first(header)["shape"] = [2**62, 2**62]
    return joined(header, body)


def past_the_end(header: Header, body: bytes) -> bytes:
    first(header)["data_offsets"] = [0, 2**60]
    return joined(header, body)


def negative(header: Header, body: bytes) -> bytes:
    first(header)["data_offsets"] = [-4, 0]
    return joined(header, body)


def unknown_type(header: Header, body: bytes) -> bytes:
    first(header)["dtype"] = "F31"
    return joined(header, body)


def deep(header: Header, body: bytes) -> bytes:
    text = b'{"a":' * 200_000
    return struct.pack("<Q", len(text)) + text


def wide(header: Header, body: bytes) -> bytes:
    """A header of the largest size that is parsed, of nothing but empty lists."""
    text = b'{"a":[' + b"[]," * (HEADER_BYTES // 3 - 10) + b"[]]}"
    return struct.pack("<Q", len(text)) + text


def long_header(header: Header, body: bytes) -> bytes:
    return struct.pack("<Q", HEADER_BYTES + 1) + b" " * 64


def endless_header(header: Header, body: bytes) -> bytes:
    return struct.pack("<Q", 2**63) + b"{}"


def truncated(header: Header, body: bytes) -> bytes:
    return joined(header, body[:-7])


def longer(header: Header, body: bytes) -> bytes:
    return joined(header, body + b"tail")


def empty(header: Header, body: bytes) -> bytes:
    return b""


def pickled(header: Header, body: bytes) -> bytes:
    return b"\x80\x04\x95" + bytes(64)


ATTACKS: list[Callable[[Header, bytes], bytes]] = [
    overlapping,
    gap,
    wrong_size,
    huge_shape,
    past_the_end,
    negative,
    unknown_type,
    deep,
    wide,
    long_header,
    endless_header,
    truncated,
    longer,
    empty,
    pickled,
]


@pytest.fixture
def model(models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models["llama"], tmp_path / "model"))


@pytest.fixture
def organ(models: dict[str, Path], tmp_path: Path) -> Path:
    host, span = open_checkpoint(models["llama"]), Span(start=1, stop=3)
    cut = extract(host, span)
    manifest = describe(host, span, cut, Label(name="o"), training=None)
    write_organ(tmp_path / "organ", cut, manifest)
    return tmp_path / "organ"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_checkpoint_is_refused(
    model: Path, attack: Callable[[Header, bytes], bytes]
) -> None:
    path = model / "model.safetensors"
    path.write_bytes(attack(*split(path)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors|layers, config\.json says|F31"):
        open_checkpoint(model).source.layers  # noqa: B018


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_organ_is_refused(organ: Path, attack: Callable[[Header, bytes], bytes]) -> None:
    path = organ / "organ.safetensors"
    path.write_bytes(attack(*split(path)))
    with pytest.raises(NotError, match=r"safetensors|F31"):
        read_organ(organ)


@pytest.mark.parametrize("attack", [wide, deep, endless_header, huge_shape])
def test_refusing_takes_bounded_memory(
    model: Path, models: dict[str, Path], attack: Callable[[Header, bytes], bytes]
) -> None:
    """In a process of its own, against what imports and opening an undamaged copy took."""
    path = model / "model.safetensors"
    path.write_bytes(attack(*split(path)))
    script = (
        "import sys\n"
        "from not_core.errors import CheckpointError\n"
        "from not_core.surgery.checkpoint import open_checkpoint\n"
        "from simulations.machine import peak_bytes\n"
        "open_checkpoint(sys.argv[1]).source\n"
        "before = peak_bytes()\n"
        "try:\n"
        "    open_checkpoint(sys.argv[2]).source\n"
        "except CheckpointError:\n"
        "    print(before, peak_bytes())\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, str(models["llama"]), str(model)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 300e6


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_header_never_crashes_nor_reads_other_bytes(
    data: st.DataObject, tmp_path: Path
) -> None:
    """Whatever is changed, a tensor that can still be read has the bytes that its entry names."""
    path = tmp_path / "one.safetensors"
    save_file({"a": torch.arange(6.0), "b": torch.arange(8, dtype=torch.int16).reshape(2, 4)}, path)
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 8 + length - 1))
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        files = SafetensorsFiles({name: (path, name) for name in read_names(path)})
        read = {name: files.read(name) for name in files.names()}
        forms = {name: files.form(name) for name in files.names()}
    except CheckpointError:
        return
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for name, tensor in read.items():
        start, stop = header[name]["data_offsets"]
        assert (tensor.numpy().tobytes()) == bytes(raw[8 + length + start : 8 + length + stop])
        assert forms[name].bytes == stop - start


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_in_a_model_folder_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    shutil.move(model / name, tmp_path / "elsewhere")
    (model / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name} in .* is a link that leads elsewhere"):
        open_checkpoint(model)


def hub_cache(model: Path, base: Path) -> Path:
    """The hub client's layout: a snapshot of links to files in the repository's blobs."""
    blobs = base / "models--a--b" / "blobs"
    snapshot = base / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in sorted(model.iterdir()):
        shutil.copyfile(file, blobs / file.stem)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.stem)
    return snapshot


def test_the_hub_caches_own_links_are_followed_and_no_others(model: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(model, tmp_path / "hub")
    assert open_checkpoint(snapshot).weights_digest == open_checkpoint(model).weights_digest
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(model / "config.json")
    with pytest.raises(CheckpointError, match="link that leads elsewhere"):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b", "..", ""])
def test_an_index_cannot_lead_outside(model: Path, shard: str) -> None:
    index(model, {"model.norm.weight": shard})
    with pytest.raises(CheckpointError, match=r"missing from the folder or outside it"):
        open_checkpoint(model)


def index(model: Path, change: dict[str, str | None]) -> None:
    """Make a model one of one shard with an index, which is then changed; None removes."""
    shard = (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    table = dict.fromkeys(read_names(shard), shard.name) | change
    kept = {name: file for name, file in table.items() if file is not None}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": kept}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.6.extra": "model-00001-of-00001.safetensors"}, "not hold model.layers.6.e"),
        ({"model.norm.weight": None}, "holds beside what it names model.norm.weight"),
    ],
)
def test_an_index_that_says_otherwise_than_its_shards_is_refused(
    model: Path, change: dict[str, str | None], message: str
) -> None:
    """transformers loads all that a shard holds, whatever the index says."""
    index(model, change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(model)


def test_weights_of_which_programs_load_one_or_the_other_are_refused(model: Path) -> None:
    path = model / "model.safetensors"
    stored = load_file(path)
    index(model, {})
    save_file(stored, path)
    with pytest.raises(
        CheckpointError, match=r"both model\.safetensors and model\.safetensors\.in"
    ):
        open_checkpoint(model)


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    folder = family_model(tmp_path / "model", "gpt_neox", tie_word_embeddings=False)
    stored = load_file(folder / "model.safetensors")
    head = next(iter(stored.keys() & {"lm_head.weight", "embed_out.weight"}))
    stored |= {"lm_head.weight": stored[head] + 1, "embed_out.weight": stored[head].clone()}
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"hold both .* which are one tensor"):
        open_checkpoint(folder)


def lacks(name: str) -> Callable[[Header, dict[str, torch.Tensor]], None]:
    return lambda config, stored: stored.__delitem__(name)


def says(**fields: Any) -> Callable[[Header, dict[str, torch.Tensor]], None]:
    return lambda config, stored: config.update(fields)


def holds(name: str) -> Callable[[Header, dict[str, torch.Tensor]], None]:
    return lambda config, stored: stored.update({name: torch.ones(1)})


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", lacks("model.norm.weight"), "model.norm.weight is missing; 1 "),
        (
            "llama",
            lacks("model.layers.2.mlp.up_proj.weight"),
            "2.mlp.up_proj.weight is missing; 1 ",
        ),
        ("llama", says(tie_word_embeddings=False), "lm_head.weight is missing; 1 "),
        ("llama", says(attention_bias=True), "0.self_attn.k_proj.bias is missing; 24 "),
        ("llama", says(head_dim=16), r"k_proj.weight is float32 16x32, expected float32 32x32"),
        ("llama", says(hidden_size=64), r"embed_tokens.weight is float32 64x32, expected .* 64x64"),
        ("llama", holds("model.evil"), "model.evil is there, which the class does not know"),
        ("llama", holds("model.layers.1.\x1b[31mx"), r"'model.layers.1.\\x1b\[31mx' is there"),
        ("llama", holds("model.layers.\u0661.x"), "is there, which the class does not know"),
        ("llama", holds("model.layers.01.x"), "01.x is there, which the class does not know"),
        ("llama", holds(f"model.layers.{'9' * 5000}.x"), "is there, which the class does not know"),
        ("mixtral", says(num_local_experts=5), "experts.4.w1.weight is missing; 24 "),
        (
            "mixtral",
            lacks("model.layers.1.block_sparse_moe.experts.3.w2.weight"),
            "1.block_sparse_moe.experts.3.w2.weight is missing; 1 ",
        ),
        ("qwen3_moe", says(mlp_only_layers=[2]), "1.mlp.down_proj.weight is there, which"),
        ("gpt2", says(add_cross_attention=True), "crossattention"),
    ],
)
def test_tensors_that_the_class_would_make_up_or_drop_are_refused(
    tmp_path: Path,
    family: str,
    change: Callable[[Header, dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    folder = family_model(tmp_path / "model", family, tie_word_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    stored = load_file(folder / "model.safetensors")
    change(config, stored)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        cut_of(open_checkpoint(folder), 1, 3)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("field", ["auto_map", "configuration_files"])
def test_nothing_leads_to_code(
    model: Path, monkeypatch: pytest.MonkeyPatch, file: str, field: str
) -> None:
    """transformers would ask whether to run it, and take an answer from standard input."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    ran = model / "ran"
    (model / "evil.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    code = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (model / "config.4.0.0.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    said = json.loads((model / file).read_text()) | {"tokenizer_class": "Evil"}
    said[field] = code if field == "auto_map" else ["config.4.0.0.json"]
    (model / file).write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=f"{file} in .* has {field}, which leads"):
        open_checkpoint(model)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '"num_hidden_layers": 1000000000',
            "num_hidden_layers in config.json is 1000000000, expec",
        ),
        (f'"num_hidden_layers": {2**70}', "expected a number from 1 to 4096"),
        ('"num_hidden_layers": "6"', "expected a number from 1 to 4096"),
        ('"x": ' + "1" * 5000, "not JSON"),
        ('"x": NaN', "not JSON"),
        ('"x": "\\ud800"', "not JSON"),
        ('"x": ' + "[" * 300 + "]" * 300, "not JSON"),
        ('"x": 1e400', "RFC 8785 cannot write"),
        (f'"x": {2**60}', "RFC 8785 cannot write"),
        ('"dtype": -1', "dtype in config.json is -1, expected one of float64"),
        ('"dtype": "load"', "dtype in config.json is 'load'"),
        ('"layer_types": "full_attention"', "layer_types is not a list of 6|not a valid llama"),
    ],
    ids=lambda value: value[:30],
)
def test_a_config_with_values_of_no_model_is_refused(model: Path, text: str, message: str) -> None:
    path = model / "config.json"
    raw = json.loads(path.read_text())
    del raw["dtype"], raw["num_hidden_layers"]
    path.write_text(json.dumps(raw).replace("{", "{" + text + ",", 1))
    with pytest.raises(NotError, match=message):
        cut_of(open_checkpoint(model), 1, 3)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"save_pretrained": 1}, "save_pretrained in config.json is a part of the class LlamaConf"),
        ({"to_dict": {}}, "to_dict in config.json is a part of the class"),
        ({"attribute_map": {"hidden_size": "vocab_size"}}, "attribute_map in config.json is a"),
        ({"sub_configs": 3}, "sub_configs in config.json is a part"),
        ({"per_layer_config": {"0": {"hidden_size": 1}}}, "per_layer_config in config.json is a"),
        ({"quantization_config": "fp8"}, "quantization_config in config.json is no object"),
        ({"quantization_config": {"modules_to_not_convert": "lm_head"}}, "no list of names"),
        ({"quantization_config": {"modules_to_not_convert": [1]}}, "no list of names"),
        ({"quantization_config": {"modules_to_not_convert": {"lm_head": 1}}}, "no list of names"),
    ],
    ids=str,
)
def test_a_config_that_reaches_into_its_class_is_refused(
    model: Path, said: dict[str, Any], message: str
) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(model)


def test_chat_templates_that_lead_elsewhere_or_are_too_many_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = model / "additional_chat_templates"
    named.mkdir()
    for number in range(3):
        (named / f"{number}.jinja").write_text("{{ messages }}")
    monkeypatch.setattr("not_core.surgery.tokenizer.MOST_TEMPLATES", 2)
    with pytest.raises(CheckpointError, match="holds 3 chat templates, more than 2"):
        open_checkpoint(model).has_tokenizer  # noqa: B018
    (tmp_path / "secret").write_text("secret")
    (named / "0.jinja").unlink()
    (named / "0.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"0\.jinja in .* is a link that leads elsewhere"):
        open_checkpoint(model)
    (named / "0.jinja").unlink()
    with (named / "0.jinja").open("wb") as file:
        file.truncate(40 << 30)  # sparse
    with pytest.raises(CheckpointError, match=r"0\.jinja in .* has more than 268435456 bytes"):
        open_checkpoint(model)


@pytest.mark.parametrize("field", ["mlp_only_layers", "decoder_sparse_step"])
@pytest.mark.parametrize("value", ["x", [None], {"a": 1}])
def test_a_list_of_layers_that_is_none_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    folder = family_model(tmp_path / "model", "qwen3_moe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(CheckpointError, match=r"no list of layers|not a valid|cannot be built"):
        open_checkpoint(folder).source.layers  # noqa: B018


@pytest.mark.parametrize(
    ("file", "text"),
    [("config.json", '"tokenizer_class": 5'), ("tokenizer.json", "junk"), ("tokenizer.json", "[]")],
)
def test_a_tokenizer_that_cannot_be_loaded_is_not_taken_for_none(
    model: Path, file: str, text: str
) -> None:
    if file == "config.json":
        (model / "tokenizer_config.json").unlink()
        text = (model / file).read_text().replace("{", "{" + text + ",", 1)
    (model / file).write_text(text)
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* cannot be loaded"):
        open_checkpoint(model).tokenizer_digest  # noqa: B018


def test_a_tokenizer_too_large_to_be_one_is_refused(model: Path) -> None:
    with (model / "tokenizer.json").open("wb") as file:
        file.truncate(40 << 30)  # sparse
    with pytest.raises(CheckpointError, match="more than 268435456 bytes"):
        open_checkpoint(model)


def test_a_manifest_too_large_to_be_one_is_not_read(organ: Path) -> None:
    with (organ / "manifest.json").open("wb") as file:
        file.truncate(40 << 30)
    with pytest.raises(FormatError, match="more than 4194304 bytes"):
        read_organ(organ)


@pytest.mark.parametrize("name", ["pytorch_model.BIN", "weights.pt", "x.pkl", "a.pth.tar"])
def test_a_pickle_beside_the_weights_is_refused(model: Path, organ: Path, name: str) -> None:
    ran = model / "ran"
    command = f"import pathlib; pathlib.Path({str(ran)!r}).touch()"
    opening = b"cbuiltins\nexec\n(S" + repr(command).encode() + b"\ntR."
    (model / name).write_bytes(opening)
    with pytest.raises(CheckpointError, match=f"{name} in .* is a pickle"):
        open_checkpoint(model)
    (organ / name).write_bytes(opening)
    with pytest.raises(OrganError, match=f"{name} in .* is a pickle"):
        read_organ(organ)
    assert not ran.exists()


def test_a_folder_in_the_place_of_a_file_is_refused(model: Path, organ: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(model)
    (organ / "organ.safetensors").unlink()
    os.mkfifo(organ / "organ.safetensors")  # opening it would wait for ever
    with pytest.raises(OrganError, match=r"organ\.safetensors in .* is neither file nor folder"):
        read_organ(organ)


def test_a_pipe_in_a_model_folder_is_refused(model: Path) -> None:
    """Reading it would wait for ever."""
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json in .* is neither file nor folder"):
        open_checkpoint(model)


def test_a_config_too_large_to_be_one_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("not_core.surgery.checkpoint.JSON_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than 100 bytes"):
        open_checkpoint(model)


def test_a_head_that_is_tied_and_yet_another_is_refused(model: Path) -> None:
    """Which of the two a loader takes differs between programs and versions."""
    stored = load_file(model / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    save_file(stored | {"lm_head.weight": embedding.clone()}, model / "model.safetensors")
    assert "lm_head.weight" not in open_checkpoint(model).names
    save_file(stored | {"lm_head.weight": embedding + 1}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ties lm_head\.weight to model\.embed_tokens"):
        open_checkpoint(model).names  # noqa: B018


def test_a_span_that_claims_a_huge_model_is_refused_at_once(organ: Path) -> None:
    manifest = json.loads((organ / "manifest.json").read_bytes())
    manifest["base"]["layers"] = 2**50
    manifest["span"] = {"start": 0, "stop": 2**50}
    (organ / "manifest.json").write_bytes(
        json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    )
    with pytest.raises(NotError, match=r"manifest\.json"):
        read_organ(organ)
