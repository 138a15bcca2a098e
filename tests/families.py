"""Small models of the real class of every family that surgery supports."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from not_core.surgery.anatomy import FAMILIES, anatomy

WIDTH, HEADS, LAYERS, TOKENS = 32, 4, 6, 64

_COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# Narrower than the tests' texts: layers of either kind read other tokens.
_SLIDING = {"sliding_window": 4}
_SLIDING_ABOVE = _SLIDING | {"use_sliding_window": True, "max_window_layers": 3}
_OWN: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": WIDTH, "n_head": HEADS},
    "falcon": {"hidden_size": WIDTH, "num_attention_heads": HEADS},
    "gemma2": _COMMON | _SLIDING | {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": _COMMON
    | _SLIDING
    | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window_pattern": 3},
    "gpt2": {"n_embd": WIDTH, "n_head": HEADS},
    "gpt_neox": {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"},
    "gpt_oss": _COMMON | _SLIDING | _EXPERTS | {"head_dim": 8},
    "mistral": _COMMON | _SLIDING,
    "mixtral": _COMMON | _SLIDING | _EXPERTS,
    "opt": {
        "hidden_size": WIDTH,
        "ffn_dim": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "word_embed_proj_dim": WIDTH,
    },
    "phi3": _COMMON | _SLIDING | {"pad_token_id": 0},
    "qwen2": _COMMON | _SLIDING_ABOVE,
    "qwen3": _COMMON | _SLIDING_ABOVE | {"head_dim": 8},
    "qwen3_moe": _COMMON
    | _SLIDING
    | _EXPERTS
    | {
        "use_sliding_window": True,
        "moe_intermediate_size": 16,
        "mlp_only_layers": [1],
        "decoder_sparse_step": 1,
    },
    "smollm3": _COMMON
    | _SLIDING
    | {"use_sliding_window": True, "pad_token_id": 0, "no_rope_layer_interval": 3},
    "starcoder2": _COMMON | _SLIDING,
}


def family_config(family: str, **changes: Any) -> Any:
    """A config of six layers, width 32, four heads, 64 tokens."""
    kind, part = CONFIG_MAPPING[family], anatomy({"model_type": family})
    known = kind().to_dict().keys() | kind.attribute_map.keys() | {*part.row.filled_from}
    given = {
        part.layer_count: LAYERS,
        "vocab_size": TOKENS,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **_OWN.get(family, _COMMON),
        **changes,
    }
    positions = kind.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if positions in known:
        given.setdefault(positions, 64)
    assert not given.keys() - known, "a config keeps what it does not know, to no effect"
    return kind(**given)


def family_model(folder: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """Save a randomly initialised model; its weights are large, so that a wrong layer shows."""
    config = family_config(family, **changes)
    torch.manual_seed(seed)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Nothing stays as it was initialised: biases, norms and sinks must travel too.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def all_families() -> list[str]:
    return sorted(FAMILIES)
