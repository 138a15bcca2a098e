"""A config as the layers of a model see it: what each layer has of its own, what all share.

Fields with one entry a layer are cut and joined with the layers. That the result builds every
layer as it was where it came from is not assumed: the class is built and looked at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from not_core.errors import CheckpointError, PlanError
from not_core.surgery.anatomy import Anatomy, classes

Entries = Mapping[str, Sequence[Any]]
"""Config field -> what it says of each layer."""

Traits = Mapping[str, Any]
"""What a layer was built with: classes, shapes and plain attributes of its modules."""

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
# Attributes that count a layer's place, which surgery changes on purpose.
_PLACE = frozenset({"layer_idx", "layer_id", "layer_index", "layer_number"})


def layer_entries(config: Mapping[str, Any], part: Anatomy) -> dict[str, list[Any]]:
    """What a config says of each layer.

    A field that lists layers by index, such as ``mlp_only_layers``, becomes one truth a layer.

    Raises:
        CheckpointError: A field does not have one entry a layer.
    """
    count = config[part.layer_count]
    found = {}
    for name in part.per_layer:
        values = config.get(name)
        if values is None:
            continue
        if len(values) != count:
            raise CheckpointError(
                f"config field {name} has {len(values)} entries for {count} layers; "
                "get an undamaged copy"
            )
        found[name] = list(values)
    if part.row.listed:
        name, interval = part.row.listed
        among, step = config.get(name) or (), (interval and config.get(interval)) or 1
        found[name] = [index in among or (index + 1) % step != 0 for index in range(count)]
    return found


def with_layers(
    config: Mapping[str, Any], part: Anatomy, entries: Entries, count: int
) -> dict[str, Any]:
    """A config for ``count`` layers of which ``entries`` tells."""
    new = {**config, **entries, part.layer_count: count}
    if part.row.listed:
        name, interval = part.row.listed
        new[name] = [index for index, odd in enumerate(entries[name]) if odd]
        if interval:
            new[interval] = 1
    return new


def fitting_fields(config: Mapping[str, Any], part: Anatomy) -> dict[str, Any]:
    """The config fields that must be equal for an organ to fit: all that are not known not to."""
    dropped = {*_INCIDENTAL, part.layer_count, *part.per_layer, *part.row.filled_from}
    dropped |= set(filter(None, part.row.listed or ()))
    return {
        name: value
        for name, value in sorted(config.items())
        if name not in dropped
        and not name.startswith("_")
        and not any(word in name for word in _INCIDENTAL_PARTS)
    }


def layer_traits(config: Mapping[str, Any], part: Anatomy) -> list[Traits]:
    """Build the class of a config without weights and list what each layer was built with.

    Raises:
        CheckpointError: The class refuses the config.
    """
    import torch
    from transformers import AutoConfig

    _, model_class = classes(part.family)
    try:
        with torch.device("meta"):
            model = model_class(AutoConfig.for_model(**config))
    except Exception as error:  # the class raises whatever its checks raise
        raise CheckpointError(
            f"{part.architecture} cannot be built from this config ({type(error).__name__}); "
            "get an undamaged copy"
        ) from error
    return [_traits(layer) for layer in model.get_submodule(part.layers.removesuffix("."))]


def check_traits(found: Traits, expected: Traits, layer: str) -> None:
    """Refuse a layer that would run otherwise than where it came from.

    Raises:
        PlanError: It would.
    """
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise PlanError(
                f"{layer} would run with {name} = {found.get(name)!r} here, it was made with "
                f"{expected.get(name)!r}; put it where its family's class builds it alike"
            )


def _traits(layer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in layer.named_modules():
        found[f"{path}.class" if path else "class"] = type(module).__name__
        for name, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str | tuple | None)
            if plain and not name.startswith("_") and name not in _PLACE:
                found[f"{path}.{name}" if path else name] = value
    for name, parameter in layer.named_parameters():
        found[f"{name}.shape"] = tuple(parameter.shape)
    return found
