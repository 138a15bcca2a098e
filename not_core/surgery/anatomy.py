"""Where each model family keeps its layers, as data.

A family is a row here; no other module names a family. Encoders and encoder-decoders are not
listed: an organ needs a residual stream that one run of decoder layers reads and writes.
"""

from dataclasses import dataclass
from typing import Any

from not_core.errors import UnknownFamilyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The parts of one decoder-only family.

    Attributes:
        family: ``model_type`` of the Hugging Face config.
        trunk: Prefix of the base model's tensors in the causal-LM class, such as ``"model."``.
        layers: Prefix of layer tensors; the layer's index and a dot follow.
        head: Tensor of the output projection; absent from a checkpoint that ties it.
        layer_count: Config field that holds the number of layers.
        width: Config field that holds the width of the residual stream.
        ignored: Endings of tensor names that old checkpoints hold and current classes recompute.
        permuted: Parts of tensor names whose rows GGUF stores in another rotary order, with the
            config field that counts their heads.
        transposed: Endings of tensor names that GGUF stores transposed.
    """

    family: str
    trunk: str
    layers: str
    head: str = "lm_head.weight"
    layer_count: str = "num_hidden_layers"
    width: str = "hidden_size"
    ignored: tuple[str, ...] = ()
    permuted: tuple[tuple[str, str], ...] = ()
    transposed: tuple[str, ...] = ()

    def layer_of(self, name: str) -> tuple[int, str] | None:
        """Split a layer tensor's name into its layer index and the rest; None for other tensors."""
        if not name.startswith(self.layers):
            return None
        index, dot, rest = name[len(self.layers) :].partition(".")
        return (int(index), rest) if dot and index.isdecimal() else None

    def layer_tensor(self, index: int, rest: str) -> str:
        """Name of tensor ``rest`` of layer ``index`` in a whole model."""
        return f"{self.layers}{index}.{rest}"


_ROWS = (
    Anatomy(
        family="llama",
        trunk="model.",
        layers="model.layers.",
        ignored=(".rotary_emb.inv_freq",),
        permuted=((".q_proj.", "num_attention_heads"), (".k_proj.", "num_key_value_heads")),
    ),
    Anatomy(
        family="gpt2",
        trunk="transformer.",
        layers="transformer.h.",
        layer_count="n_layer",
        width="n_embd",
        ignored=(".attn.bias", ".attn.masked_bias"),
        transposed=(
            ".attn.c_attn.weight",
            ".attn.c_proj.weight",
            ".mlp.c_fc.weight",
            ".mlp.c_proj.weight",
        ),
    ),
)
FAMILIES = {row.family: row for row in _ROWS}

# Fields of a config that say nothing about whether an organ fits.
_INCIDENTAL = frozenset(
    {
        "architectures",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "return_dict",
        "task_specific_params",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
# Dropout acts in training only; summary_* belong to GPT-2's classification head.
_INCIDENTAL_PARTS = ("pdrop", "dropout", "summary_", "token_id")


def anatomy(config: dict[str, Any]) -> Anatomy:
    """Find the family of a config.

    Raises:
        UnknownFamilyError: The family is not supported, or is no decoder.
    """
    family = config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise UnknownFamilyError(
            f"{family} is an encoder-decoder; organs are runs of decoder-only layers, "
            f"choose a model of one of these families: {', '.join(sorted(FAMILIES))}"
        )
    if family not in FAMILIES:
        raise UnknownFamilyError(
            f"model family {family!r} is not supported; "
            f"choose a model of one of these: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[family]


def per_layer_fields(config: dict[str, Any], count: int) -> tuple[str, ...]:
    """Names of config fields that hold one entry a layer, such as ``layer_types``."""
    return tuple(
        sorted(
            name
            for name, value in config.items()
            if isinstance(value, list) and len(value) == count and "token_id" not in name
        )
    )


def fitting_fields(config: dict[str, Any], part: Anatomy) -> dict[str, Any]:
    """The config fields that must be equal for an organ to fit."""
    dropped = _INCIDENTAL | {part.layer_count, "num_hidden_layers"}
    dropped |= set(per_layer_fields(config, config[part.layer_count]))
    return {
        name: value
        for name, value in sorted(config.items())
        if name not in dropped
        and not name.startswith("_")
        and not any(word in name for word in _INCIDENTAL_PARTS)
    }
