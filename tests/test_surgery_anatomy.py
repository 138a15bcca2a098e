"""What inspection finds, what a row overrides, and what is said where neither is enough.

Rows of families that surgery does not support stand for those that somebody may add.
"""

import pytest
import torch
from families import LAYERS, all_families, family_config
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from not_core.errors import UnknownFamilyError
from not_core.surgery.anatomy import FAMILIES, Row, _inspect, anatomy
from not_core.surgery.layer_config import fitting_fields, layer_entries, with_layers


@pytest.mark.parametrize("family", all_families())
def test_the_parts_are_all_that_a_model_is_made_of(family: str) -> None:
    config = family_config(family)
    part = anatomy(config.to_dict())
    with torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    names = set(model.state_dict())
    layers = {name: at for name in names if (at := part.layer_of(name))}
    assert {index for index, _ in layers.values()} == set(range(LAYERS))
    assert all(part.layer_tensor(*at) == name for name, at in layers.items())
    assert names - set(layers) == {part.embedding, part.head, *part.frame}
    assert {part.embedding, part.head}.isdisjoint(part.frame)
    assert model.get_input_embeddings().weight.shape[0] == config.vocab_size
    assert config.to_dict()[part.layer_count] == LAYERS
    assert config.to_dict()[part.width] == 32


@pytest.mark.parametrize(
    ("row", "per_layer", "said"),
    [
        # Lists of indices that are as long as the layers in a config of the class's defaults.
        (Row(family="lfm2"), ("full_attn_idxs", "layer_types"), []),
        (
            Row(family="lfm2", listed=("full_attn_idxs", None)),
            ("layer_types",),
            ["full_attn_idxs lists layers"],
        ),
        (
            Row(family="llama4_text", not_per_layer=("moe_layers",)),
            ("layer_types", "no_rope_layers"),
            ["moe_layers says nothing of single layers"],
        ),
        # A field that a class leaves out, and one without which it cannot be built.
        (
            Row(family="llama", per_layer=("layer_types",)),
            ("layer_types",),
            ["layer_types has one entry a layer"],
        ),
        (
            Row(family="nemotron", sample=(("num_key_value_heads", 8),)),
            (),
            ["looked at with num_key_value_heads = 8"],
        ),
        (
            FAMILIES["qwen3_moe"],
            (),
            ["mlp_only_layers and decoder_sparse_step list layers"],
        ),
    ],
    ids=lambda value: value.family if isinstance(value, Row) else "",
)
def test_a_row_says_what_looking_cannot_tell(
    row: Row, per_layer: tuple[str, ...], said: list[str]
) -> None:
    assert _inspect(row).per_layer == per_layer
    assert row.stated() == said


def test_layers_that_a_field_lists_by_index_move_with_surgery() -> None:
    part = _inspect(Row(family="lfm2", listed=("full_attn_idxs", None)))
    kinds = ["conv", "conv", "full_attention", "conv"]
    config = {"num_hidden_layers": 4, "full_attn_idxs": [2], "layer_types": kinds, "hidden_size": 8}
    entries = layer_entries(config, part)
    assert entries == {"full_attn_idxs": [False, False, True, False], "layer_types": kinds}
    moved = {name: [values[2], *values] for name, values in entries.items()}
    assert with_layers(config, part, moved, 5) == {
        "num_hidden_layers": 5,
        "full_attn_idxs": [0, 3],
        "layer_types": ["full_attention", *kinds],
        "hidden_size": 8,
    }
    assert fitting_fields(config, part) == {"hidden_size": 8}


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("nemotron", "cannot be built (TypeError: unsupported operand"),
        ("gpt_neo", "cannot be built (StrictDataclassClassValidationError"),
        ("t5", "cannot be built (KeyError"),
        ("nonsense", "cannot be built (KeyError"),
        ("xlm", "has 4 lists of three modules (transformer.attentions, transformer.layer_norm1"),
        ("whisper", "has 0 lists of three modules"),
    ],
)
def test_a_class_that_cannot_be_made_out_is_named_with_its_row(family: str, found: str) -> None:
    with pytest.raises(UnknownFamilyError) as caught:
        _inspect(Row(family=family))
    assert str(caught.value).startswith(f"the class of model family {family} {found}")
    assert "in its row in not_core/surgery/anatomy.py" in str(caught.value)


def test_a_class_without_embedding_or_head_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "get_output_embeddings", lambda self: None)
    with pytest.raises(UnknownFamilyError, match="llama does not tell its embedding and its head"):
        _inspect(Row(family="llama", former_head="another row than the one that is kept"))
