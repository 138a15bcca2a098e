"""A plan made into a model of the host's class: its config, its tensors, the model in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from not_core.errors import CheckpointError, PlanError
from not_core.surgery.anatomy import classes
from not_core.surgery.blueprint import build, check_tensors, check_traits, layer_traits
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.layer_config import with_layers
from not_core.surgery.plan import HOST, Layer, Plan
from not_core.surgery.source import Source
from not_core.surgery.tensors import Form, Held, Tensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Sources = Mapping[str, Source]
"""Where a plan's layers come from, by the names it uses; the host's own go without saying."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Tensors of several sources under new names: new name -> (source, name there)."""

    where: Mapping[str, tuple[Tensors, str]]

    def names(self) -> tuple[str, ...]:
        """All new names, sorted."""
        return tuple(sorted(self.where))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""
        tensors, there = self.where[name]
        return tensors.form(there)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, on the CPU."""
        tensors, there = self.where[name]
        return tensors.read(there, shared=shared)


def plan_config(plan: Plan, host: Checkpoint, sources: Sources) -> dict[str, Any]:
    """The host's config for the layers of a plan.

    Raises:
        PlanError: The plan names a source or layer that is not there, or its class would build a
            layer otherwise than where the layer was made.
        CheckpointError: The plan's tensors are not those that the class loads.
    """
    taken = [_source(layer, host, sources) for layer in plan.layers]
    columns = [source.entry(layer.index) for source, layer in zip(taken, plan.layers, strict=True)]
    config = with_layers(
        host.config,
        host.anatomy,
        {name: [entry[name] for entry in columns] for name in host.source.entries},
        len(plan.layers),
    )
    if counted := _counted_name(config, host):
        raise PlanError(
            f"quantization_config names layers by number ({counted}), which surgery would make "
            "wrong; use the model as it was before it was quantized"
        )
    model = build(config, host.anatomy)
    found = layer_traits(model, host.anatomy)
    by_name = {layer.source: source for layer, source in zip(plan.layers, taken, strict=True)}
    expected = {name: source.traits(host.config, host.anatomy) for name, source in by_name.items()}
    for place, layer in enumerate(plan.layers):
        check_traits(found[place], expected[layer.source][layer.index], f"layer {place}")
    tensors = plan_tensors(plan, host, sources)
    check_tensors(tensors, tensors.names(), model, host.anatomy)
    return config


def plan_tensors(plan: Plan, host: Checkpoint, sources: Sources) -> Joined:
    """Every tensor of the new model under its new name; reads none of them.

    Raises:
        PlanError: The plan names a source or layer that is not there.
    """
    where: dict[str, tuple[Tensors, str]] = {name: (host.tensors, name) for name in host.frame}
    for new, layer in enumerate(plan.layers):
        source = _source(layer, host, sources)
        for rest, name in source.layer(layer.index).items():
            where[host.anatomy.layer_tensor(new, rest)] = (source.tensors, name)
    return Joined(where)


def assemble(
    plan: Plan,
    host: Checkpoint,
    sources: Sources,
    *,
    dtype: str | None = None,
    frame: Held | None = None,
) -> "PreTrainedModel":
    """Build the model of a plan in memory, in evaluation mode, on the CPU.

    In the host's own type, its parameters share memory with the host's file mapping and the
    organs' tensors, so that no weight is held twice: whoever trains a parameter replaces it by a
    copy first. In another, each tensor is converted as it is read, so that memory is that of the
    new type.

    Args:
        plan: Its layers.
        host: Where embeddings, final norm, head and host layers come from.
        sources: Where other layers come from.
        dtype: Type of its weights, such as ``bfloat16``; None for the host's.
        frame: Tensors outside all layers that are in memory already, to be shared where they are of
            the type; None reads the host's.

    Raises:
        PlanError: The plan names a source or layer that is not there, or a layer does not fit.
        CheckpointError: A tensor that the class needs is missing, or one it does not know is there.
    """
    import torch
    from transformers import AutoConfig

    tensors = plan_tensors(plan, host, sources)
    config = AutoConfig.for_model(**plan_config(plan, host, sources))
    _, kind = classes(host.anatomy.family)
    own = host.config.get("dtype") or host.tensors.form(host.anatomy.embedding).dtype
    wanted = getattr(torch, dtype or str(own).removeprefix("torch."))
    held = {} if frame is None else frame.tensors
    there = {name: tensor for name, tensor in held.items() if tensor.dtype == wanted}

    def read(name: str) -> "torch.Tensor":
        if name in there:
            return there[name]
        if dtype is None:
            return tensors.read(name, shared=True)
        tensor = tensors.read(name)
        return tensor.to(wanted) if tensor.is_floating_point() else tensor

    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict={name: read(name) for name in tensors.names()},
        dtype=wanted,
        output_loading_info=True,
    )
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors do not match the class {kind.__name__}, first {wrong[0]}; "
            "get the checkpoint in the form that the class saves"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CheckpointError(
            f"{kind.__name__} was left without some of its weights; get a complete checkpoint"
        )
    result: PreTrainedModel = model.eval()
    return result


def _source(layer: Layer, host: Checkpoint, sources: Sources) -> Source:
    if layer.source != HOST and layer.source not in sources:
        raise PlanError(f"the plan takes layers of {layer.source[:12]}, which is not there")
    return host.source if layer.source == HOST else sources[layer.source]


def _counted_name(config: Mapping[str, Any], host: Checkpoint) -> str | None:
    """A name in the quantization config that holds a layer's number."""
    listed = (config.get("quantization_config") or {}).get("modules_to_not_convert") or ()
    return next((name for name in listed if host.anatomy.layer_of(f"{name}.")), None)
