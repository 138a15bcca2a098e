"""A config as the layers of a model see it: what each layer has of its own, what all share.

Fields with one entry a layer are cut and joined with the layers. That the result builds every
layer as it was where it came from is not assumed: see ``blueprint``.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from not_core.errors import CheckpointError
from not_core.surgery.anatomy import Anatomy, Row, classes

Entries = Mapping[str, Sequence[Any]]
"""Config field -> what it says of each layer."""

# A field that any config of transformers may hold: caches go by it even where layers do not.
_LAYER_TYPES = "layer_types"

# Fields of a config that say nothing about whether an organ fits.
_INCIDENTAL = frozenset(
    {
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "init_std",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "layerdrop",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "slow_but_exact",
        "task_specific_params",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
# Dropout acts in training only; summary_* belong to GPT-2's classification head.
_INCIDENTAL_PARTS = ("pdrop", "dropout", "summary_", "token_id")


# Fields that transformers goes by in any config, though few classes declare them.
_HELD_BY_ANY = ("attention_chunk_size", "head_dim", "quantization_config", "sliding_window")


def layer_entries(config: Mapping[str, Any], part: Anatomy) -> dict[str, list[Any]]:
    """What a config says of each layer.

    A field that lists layers by index, such as ``mlp_only_layers``, becomes one truth a layer.

    Raises:
        CheckpointError: A field does not have one entry a layer, or lists no layers.
    """
    count = config[part.layer_count]
    found = {}
    for name in (*part.per_layer, _LAYER_TYPES):
        values = config.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != count:
            raise CheckpointError(
                f"config field {name} is not a list of {count} entries, one a layer; "
                "get an undamaged copy"
            )
        found[name] = list(values)
    if part.row.listed:
        found[part.row.listed[0]] = _listed(config, *part.row.listed, count)
    return found


def _listed(config: Mapping[str, Any], name: str, interval: str | None, count: int) -> list[bool]:
    """For each layer, whether a list of indices or an interval tells it from the others."""
    among, step = config.get(name) or [], (interval and config.get(interval)) or 1
    indices = isinstance(among, list) and all(isinstance(index, int) for index in among)
    if not indices or not isinstance(step, int):
        raise CheckpointError(
            f"config field {name} is no list of layers, or {interval} no number; "
            "get an undamaged copy"
        )
    odd = set(among)
    return [index in odd or (index + 1) % step != 0 for index in range(count)]


def with_layers(
    config: Mapping[str, Any], part: Anatomy, entries: Entries, count: int
) -> dict[str, Any]:
    """A config for ``count`` layers of which ``entries`` tells.

    Fields that list layers by index stay worded as they are where they say the same already.
    """
    new = {**config, part.layer_count: count}
    new |= {name: values for name, values in entries.items() if name not in listed_fields(part)}
    if part.row.listed and _listed(new, *part.row.listed, count) != entries[part.row.listed[0]]:
        name, interval = part.row.listed
        new[name] = [index for index, odd in enumerate(entries[name]) if odd]
        if interval:
            new[interval] = 1
    return new


def listed_fields(part: Anatomy) -> tuple[str, ...]:
    """Config fields that list layers by index; none for most families."""
    return tuple(field for field in part.row.listed or () if field)


def fitting_fields(config: Mapping[str, Any], part: Anatomy) -> dict[str, Any]:
    """The config fields that must be equal for an organ to fit: all that are not known not to.

    What the class does not declare is a note of some program that wrote the file.
    """
    dropped = {*_INCIDENTAL, part.layer_count, *part.per_layer, _LAYER_TYPES}
    dropped |= {*part.row.filled_from, *listed_fields(part)}
    return {
        name: value
        for name, value in sorted(config.items())
        if name not in dropped
        and (name in _HELD_BY_ANY or name in _declared(part.row))
        and not name.startswith("_")
        and not any(word in name for word in _INCIDENTAL_PARTS)
    }


def default_fields(part: Anatomy) -> dict[str, Any]:
    """What the class takes the fields of ``fitting_fields`` for where a file leaves them out."""
    return fitting_fields(_declared(part.row), part)


@cache
def _declared(row: Row) -> Mapping[str, Any]:
    config_class, _ = classes(row.family)
    declared: dict[str, Any] = config_class(**dict(row.sample)).to_dict()
    return declared
