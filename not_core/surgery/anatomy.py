"""Where each model family keeps its layers, embeddings, norms and head, as data.

The transformers class of a family is built without weights and looked at; a row here says only
what looking cannot tell, or tells wrongly. No other module names a family, but some name its config
fields and files: ``docs/families.md`` lists what a new one may need.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from not_core.errors import UnknownFamilyError

_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
_OUTPUTS = frozenset(
    "o_proj out_proj c_proj dense dense_4h_to_h down_proj down_proj_bias fc2 w2".split()  # noqa: SIM905
)
"""What families call the last product of attention and of feed-forward."""


def is_output(name: str) -> bool:
    """Whether a tensor is of the last product of attention or feed-forward.

    A layer adds what these put out to what came in; where they are zero, it changes nothing.
    """
    return not _OUTPUTS.isdisjoint(name.split(".")[-2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What inspection cannot tell about one family.

    Attributes:
        family: ``model_type`` of the Hugging Face config.
        ignored: Endings of tensor names that old checkpoints hold and current classes recompute.
        former_head: Name that old checkpoints give the output projection.
        sample: Config fields without which the class cannot be built to be looked at.
        per_layer: Config fields with one entry a layer that the class leaves empty by default.
        not_per_layer: Config fields that are as long as there are layers only by chance.
        listed: Config field with the indices of the layers that are unlike the others, and the
            field with an interval that makes more of them so, all but each n-th layer, or None.
        filled_from: Config fields that only serve to fill in a field with one entry a layer that
            is left out; every config read here has that field filled in.
        gguf: Whether its GGUF files are read, which ``permuted`` and ``transposed`` are about.
        permuted: Parts of tensor names whose rows GGUF stores in another rotary order, with the
            config field that counts their heads.
        transposed: Endings of tensor names that GGUF stores transposed.
    """

    family: str
    ignored: tuple[str, ...] = ()
    former_head: str | None = None
    sample: tuple[tuple[str, Any], ...] = ()
    per_layer: tuple[str, ...] = ()
    not_per_layer: tuple[str, ...] = ()
    listed: tuple[str, str | None] | None = None
    filled_from: tuple[str, ...] = ()
    gguf: bool = False
    permuted: tuple[tuple[str, str], ...] = ()
    transposed: tuple[str, ...] = ()

    def stated(self) -> list[str]:
        """What this row says, in words, but for what is about GGUF."""
        said = [f"{name[1:]} is recomputed" for name in self.ignored]
        if self.former_head:
            said.append(f"{self.former_head} was the head's name")
        said += [f"looked at with {name} = {value}" for name, value in self.sample]
        said += [f"{name} has one entry a layer" for name in self.per_layer]
        said += [f"{name} says nothing of single layers" for name in self.not_per_layer]
        if self.listed:
            name, interval = self.listed
            said.append(
                f"{name} and {interval} list layers" if interval else f"{name} lists layers"
            )
        return said + [f"{name} only fills in others" for name in self.filled_from]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The parts of one decoder-only family.

    Attributes:
        row: What inspection cannot tell.
        architecture: The causal-LM class.
        trunk: Prefix of the base model's tensors in that class, such as ``"model."``.
        layers: Prefix of layer tensors; the layer's index and a dot follow.
        embedding: Tensor of the token embedding.
        head: Tensor of the output projection; absent from a checkpoint that ties it.
        frame: The other tensors outside all layers: position embeddings and norms.
        layer_count: Config field that holds the number of layers.
        width: Config field that holds the width of the residual stream.
        per_layer: Config fields that hold one entry a layer.
    """

    row: Row
    architecture: str
    trunk: str
    layers: str
    embedding: str
    head: str
    frame: tuple[str, ...]
    layer_count: str
    width: str
    per_layer: tuple[str, ...]

    @property
    def family(self) -> str:
        """``model_type`` of the Hugging Face config."""
        return self.row.family

    def layer_of(self, name: str) -> tuple[int, str] | None:
        """Split a layer tensor's name into its layer index and the rest; None for other tensors."""
        if not name.startswith(self.layers):
            return None
        index, dot, rest = name[len(self.layers) :].partition(".")
        number = _INDEX.fullmatch(index)  # one spelling each: the class knows no other
        return (int(index), rest) if dot and number else None

    def layer_tensor(self, index: int, rest: str) -> str:
        """Name of tensor ``rest`` of layer ``index`` in a whole model."""
        return f"{self.layers}{index}.{rest}"


_ROTARY = (".rotary_emb.inv_freq",)
_ROWS = (
    Row(family="bloom"),
    Row(family="falcon", ignored=_ROTARY),
    Row(family="gemma2"),
    Row(family="gemma3_text", filled_from=("sliding_window_pattern",)),
    Row(
        family="gpt2",
        ignored=(".attn.bias", ".attn.masked_bias"),
        gguf=True,
        transposed=(
            ".attn.c_attn.weight",
            ".attn.c_proj.weight",
            ".mlp.c_fc.weight",
            ".mlp.c_proj.weight",
        ),
    ),
    Row(
        family="gpt_neox",
        ignored=(".attention.bias", ".attention.masked_bias", *_ROTARY),
        former_head="embed_out.weight",
    ),
    Row(family="gpt_oss"),
    Row(
        family="llama",
        ignored=_ROTARY,
        gguf=True,
        permuted=((".q_proj.", "num_attention_heads"), (".k_proj.", "num_key_value_heads")),
    ),
    Row(family="mistral", ignored=_ROTARY),
    Row(family="mixtral", ignored=_ROTARY),
    Row(family="olmo2"),
    Row(family="opt"),
    Row(family="phi3", ignored=_ROTARY),
    Row(family="qwen2", filled_from=("max_window_layers",)),
    Row(family="qwen3", filled_from=("max_window_layers",)),
    Row(family="qwen3_moe", listed=("mlp_only_layers", "decoder_sparse_step")),
    Row(family="smollm3", filled_from=("max_window_layers", "no_rope_layer_interval")),
    Row(family="starcoder2", ignored=_ROTARY),
)
FAMILIES = {row.family: row for row in _ROWS}


def anatomy(config: dict[str, Any]) -> Anatomy:
    """Find the family of a config and where its parts are.

    Raises:
        UnknownFamilyError: The family is not supported, or is no decoder.
    """
    family = config.get("model_type")
    row = FAMILIES.get(family) if isinstance(family, str) else None
    if row is None or config.get("is_encoder_decoder"):
        raise UnknownFamilyError(
            f"{_reason(str(family), bool(config.get('is_encoder_decoder')))}; "
            f"choose a model of one of these families: {', '.join(sorted(FAMILIES))}"
        )
    return _inspect(row)


def _reason(family: str, encoder_decoder: bool) -> str:
    """Why a family is refused."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    if encoder_decoder or family in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return (
            f"{family} is an encoder-decoder: its decoder layers also read an encoder's output, "
            "which an organ does not carry (a limit of the method, arXiv:2601.13580)"
        )
    if family in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return (
            f"{family} is an encoder: its layers read the text in both directions and predict no "
            "next token (a limit of the method, arXiv:2601.13580)"
        )
    if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"model family {family} has not been tested for surgery"
    if family in CONFIG_MAPPING_NAMES:
        return f"model family {family} is no causal language model of one run of decoder layers"
    return f"model family {family} is not known to this version of transformers"


@cache
def _inspect(row: Row) -> Anatomy:
    """Build a family's class with three layers on the meta device, and look.

    Raises:
        UnknownFamilyError: It cannot be built so, or does not have one run of layers.
    """
    import torch

    try:
        config_class, model_class = classes(row.family)
        layer_count = config_class.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        given = dict(row.sample)
        three, five = (config_class(**given, **{layer_count: count}) for count in (3, 5))
        with torch.device("meta"):
            model = model_class(three)
    except Exception as error:  # the class raises whatever its checks raise
        said = " ".join(str(error).split())[:200]
        raise _odd(row, f"cannot be built ({type(error).__name__}: {said})") from error
    modules = {module: name for name, module in model.named_modules()}
    stacks = [
        name
        for module, name in modules.items()
        if isinstance(module, torch.nn.ModuleList) and len(module) == 3
    ]
    if len(stacks) != 1:
        raise _odd(row, f"has {len(stacks)} lists of three modules ({', '.join(stacks)})")
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if any(end not in modules for end in ends):
        raise _odd(row, "does not tell its embedding and its head")
    (stack,), (embedding, head) = stacks, (f"{modules[end]}.weight" for end in ends)
    few, more = three.to_dict(), five.to_dict()
    found = {
        name
        for name, value in more.items()
        if isinstance(value, list) and len(value) == 5 and len(few[name] or ()) == 3
    }
    return Anatomy(
        row=row,
        architecture=model_class.__name__,
        trunk=f"{model.base_model_prefix}.",
        layers=f"{stack}.",
        embedding=embedding,
        head=head,
        frame=tuple(
            name
            for name in model.state_dict()
            if not name.startswith(f"{stack}.") and name not in {embedding, head}
        ),
        layer_count=layer_count,
        width=config_class.attribute_map.get("hidden_size", "hidden_size"),
        per_layer=tuple(
            sorted((found | {*row.per_layer}) - {*row.not_per_layer, *(row.listed or ())})
        ),
    )


def _odd(row: Row, found: str) -> UnknownFamilyError:
    """A class that inspection cannot make out, with the row that would have to tell."""
    return UnknownFamilyError(
        f"the class of model family {row.family} {found}, expected a decoder of one run of layers, "
        "here of three; state what it needs in its row in not_core/surgery/anatomy.py, or install "
        "the transformers that constraints.txt names"
    )


def classes(family: str) -> tuple[Any, Any]:
    """The config class and the causal-LM class of a family."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    config_class = CONFIG_MAPPING[family]
    return config_class, MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
