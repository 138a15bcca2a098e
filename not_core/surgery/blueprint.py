"""What a family's class builds from a config, looked at on the meta device: no weights are made.

Nothing about layers is assumed that can be seen here: how each is built, and which tensors the
class loads.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from not_core.errors import CheckpointError, PlanError
from not_core.surgery.anatomy import Anatomy, classes
from not_core.surgery.tensors import FLOATS, Form, Tensors, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Traits = Mapping[str, Any]
"""What a layer was built with: classes, shapes and plain attributes of its modules."""

# Attributes that count a layer's place, which surgery changes on purpose.
_PLACE = frozenset({"layer_idx", "layer_id", "layer_index", "layer_number"})

Shape = tuple[int, ...]


def build(config: Mapping[str, Any], part: Anatomy) -> "PreTrainedModel":
    """Build the class of a config without weights.

    Raises:
        CheckpointError: The class refuses the config.
    """
    import torch
    from transformers import AutoConfig

    _, model_class = classes(part.family)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = model_class(AutoConfig.for_model(**config))
    except Exception as error:  # the class raises whatever its checks raise
        raise CheckpointError(
            f"{part.architecture} cannot be built from this config ({type(error).__name__}); "
            "get an undamaged copy"
        ) from error
    return model


def layer_traits(model: "PreTrainedModel", part: Anatomy) -> list[Traits]:
    """What each layer of a model was built with."""
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


def check_tensors(
    tensors: Tensors, names: tuple[str, ...], model: "PreTrainedModel", part: Anatomy
) -> None:
    """Refuse tensors other than those that a class loads, which would be made up or left out.

    What a class holds as one tensor may be stored as several, such as the experts of a layer: each
    layer may come in either form. In a quantized model only what is stored as it is computed can be
    compared, and that nothing is missing altogether.

    Args:
        tensors: Where they can be read from; only their names and forms are.
        names: Which make up the model.
        model: The class, as built from the model's config.
        part: The family's parts.

    Raises:
        CheckpointError: A tensor is missing, unknown to the class, or of another shape.
    """
    from transformers.core_model_loading import revert_weight_conversion

    held = model.state_dict()
    forms = [
        _by_layer(state, model, part) for state in (held, revert_weight_conversion(model, held))
    ]
    found: dict[int | None, dict[str, Form]] = {}
    for name in names:
        found.setdefault(_layer(name, part), {})[name] = tensors.form(name)
    quantized = bool(getattr(model.config, "quantization_config", None))
    wrong = [
        difference
        for layer in sorted({*found, *forms[0]}, key=lambda layer: -1 if layer is None else layer)
        for difference in min(
            (_differences(found.get(layer, {}), form.get(layer, {}), quantized) for form in forms),
            key=len,
        )
    ]
    if wrong:
        raise CheckpointError(
            f"{wrong[0]}; {len(wrong)} tensors in all do not match the class {part.architecture} "
            "as config.json describes it; get an undamaged copy, in the form that the class saves"
        )


def _by_layer(
    state: Mapping[str, Any], model: "PreTrainedModel", part: Anatomy
) -> dict[int | None, dict[str, Shape]]:
    """Shapes of the tensors that a checkpoint holds, by layer; None for those outside all."""
    found: dict[int | None, dict[str, Shape]] = {}
    for stored, tensor in state.items():
        name = part.head if stored == part.row.former_head else stored
        tied = name == part.head and getattr(model.config, "tie_word_embeddings", True)
        if not tied and not name.endswith(part.row.ignored):
            found.setdefault(_layer(name, part), {})[name] = tuple(tensor.shape)
    return found


def _layer(name: str, part: Anatomy) -> int | None:
    place = part.layer_of(name)
    return place[0] if place else None


def _differences(
    found: Mapping[str, Form], expected: Mapping[str, Shape], quantized: bool
) -> list[str]:
    packed = {name.rpartition(".")[0] for name in found.keys() - expected.keys() if quantized}
    wrong = []
    for name in sorted(found.keys() | expected.keys()):
        form, shape = found.get(name), expected.get(name)
        if form is None and name.rpartition(".")[0] not in packed:
            wrong.append(f"{shown(name)} is missing")
        elif form and shape is None and not quantized:
            wrong.append(f"{shown(name)} is there, which the class does not know")
        elif form and shape is not None and form.shape != shape:
            stored_as_computed = form.dtype in FLOATS or not quantized
            if stored_as_computed:
                wrong.append(f"{shown(name)} is {form}, expected {Form(form.dtype, shape)}")
    return wrong


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
