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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from not_core.errors import CheckpointError, NotError, OrganError
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
        "from simulations.bench import peak_bytes\n"
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
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": shard}})
    )
    with pytest.raises(CheckpointError, match=r"outside the folder|missing from"):
        open_checkpoint(model)


def test_an_index_that_promises_too_much_is_refused(model: Path) -> None:
    held = load_file(model / "model.safetensors")
    table = dict.fromkeys([*held, "model.layers.6.extra"], "model.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match=r"names model\.layers\.6\.extra, which"):
        open_checkpoint(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "x.pkl", "training_args.bin"])
def test_a_pickle_beside_the_weights_is_refused(model: Path, organ: Path, name: str) -> None:
    ran = model / "ran"
    command = f"import pathlib; pathlib.Path({str(ran)!r}).touch()"
    opening = b"cbuiltins\nexec\n(S" + repr(command).encode() + b"\ntR."
    (model / name).write_bytes(opening)
    with pytest.raises(CheckpointError, match=f"pickled weights .{name}"):
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
    with pytest.raises(OrganError, match=r"no organ\.safetensors"):
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
