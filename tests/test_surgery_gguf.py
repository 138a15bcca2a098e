"""The lazy GGUF reader against transformers' own loader, on files written by the gguf package."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers import logging as transformers_logging

from not_core.errors import CheckpointError
from not_core.surgery import graft
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.gguf_file import open_gguf
from not_core.surgery.plan import identity

WIDTH, HEADS, KEYS, LAYERS, VOCABULARY = 64, 4, 2, 2, 32


def write_gguf(path: Path, arch: str, merges: tuple[str, ...] = ()) -> Path:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", *(f"t{i}" for i in range(3, VOCABULARY))])
    if merges:
        writer.add_token_types([1] * VOCABULARY)
        writer.add_token_merges(merges)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    if arch == "llama":
        writer.add_head_count_kv(KEYS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        shapes["output.weight"] = (VOCABULARY, WIDTH)
        block: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (WIDTH,),
            "attn_q.weight": (WIDTH, WIDTH),
            "attn_k.weight": (WIDTH // 2, WIDTH),
            "attn_v.weight": (WIDTH // 2, WIDTH),
            "attn_output.weight": (WIDTH, WIDTH),
            "ffn_norm.weight": (WIDTH,),
            "ffn_gate.weight": (4 * WIDTH, WIDTH),
            "ffn_up.weight": (4 * WIDTH, WIDTH),
            "ffn_down.weight": (WIDTH, 4 * WIDTH),
        }
    else:
        writer.add_layer_norm_eps(1e-5)
        shapes |= {"position_embd.weight": (1024, WIDTH), "output_norm.bias": (WIDTH,)}
        shapes["output.weight"] = (VOCABULARY, WIDTH)
        block = {
            "attn_norm.weight": (WIDTH,),
            "attn_norm.bias": (WIDTH,),
            "attn_qkv.weight": (3 * WIDTH, WIDTH),
            "attn_qkv.bias": (3 * WIDTH,),
            "attn_output.weight": (WIDTH, WIDTH),
            "attn_output.bias": (WIDTH,),
            "ffn_norm.weight": (WIDTH,),
            "ffn_norm.bias": (WIDTH,),
            "ffn_up.weight": (4 * WIDTH, WIDTH),
            "ffn_up.bias": (4 * WIDTH,),
            "ffn_down.weight": (WIDTH, 4 * WIDTH),
            "ffn_down.bias": (WIDTH,),
        }
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) == 2 else None
        data = gguf.quantize(values, kind) if kind else values
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_every_tensor_equals_what_transformers_loads(arch: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", arch)
    checkpoint = open_gguf(path)
    transformers_logging.disable_progress_bar()
    stock = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    ).state_dict()
    names = checkpoint.tensors.names()
    assert len(names) >= 2 + 9 * LAYERS
    for name in names:
        tensor = checkpoint.tensors.read(name)
        assert torch.equal(tensor, stock[name]), name
        assert checkpoint.tensors.form(name).shape == tuple(tensor.shape), name


def test_a_graft_has_the_tokenizer_of_its_gguf(tmp_path: Path) -> None:
    host = open_gguf(write_gguf(tmp_path / "m.gguf", "llama", merges=("a b",)))
    graft.transplant(identity(LAYERS), host, {}, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").tokenizer_digest == host.tokenizer_digest


def test_merges_over_which_the_tokenizers_library_panics_are_refused(tmp_path: Path) -> None:
    host = open_gguf(write_gguf(tmp_path / "m.gguf", "llama", merges=("a b", "ab 1")))
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* cannot be loaded"):
        host.tokenizer_digest  # noqa: B018


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"hello, not a model")
    with pytest.raises(CheckpointError, match="not GGUF"):
        open_gguf(tmp_path / "x.gguf")


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        open_gguf(path)
