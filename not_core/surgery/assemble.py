"""A plan made into a model of the host's own class: in memory, or streamed to a new checkpoint."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core import atomic
from not_core.errors import CheckpointError, PlanError
from not_core.surgery.anatomy import per_layer_fields
from not_core.surgery.checkpoint import INDEX, SINGLE, Checkpoint
from not_core.surgery.organ import Organ
from not_core.surgery.plan import HOST, Layer, Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LINEAGE = "organs.json"
SHARD_BYTES = 400 * 1000 * 1000
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)

Organs = Mapping[str, Organ]
"""Organs by the source name that a plan uses for them."""


def splice_config(plan: Plan, host: Checkpoint, organs: Organs) -> dict[str, Any]:
    """The host's config for the layers of a plan; fields with one entry a layer are re-joined."""
    config = dict(host.config)
    for name in per_layer_fields(host.config, host.layers):
        config[name] = [
            host.config[name][layer.index]
            if layer.source == HOST
            else _organ(organs, layer).manifest.base.layer_config[name][layer.index]
            for layer in plan.layers
        ]
    config[host.anatomy.layer_count] = len(plan.layers)
    return config


def stream(plan: Plan, host: Checkpoint, organs: Organs) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Every tensor of the new model under its new name, one at a time.

    Raises:
        PlanError: The plan names a source or layer that is not there.
    """
    for name in host.frame_names():
        yield name, host.tensors.read(name)
    for new, layer in enumerate(plan.layers):
        if layer.source == HOST:
            names = host.layer_names(layer.index)
            if not names:
                raise PlanError(f"host has no layer {layer.index}; it has {host.layers} layers")
            for rest, name in names.items():
                yield host.anatomy.layer_tensor(new, rest), host.tensors.read(name)
        else:
            for rest, tensor in _organ(organs, layer).weights[layer.index].items():
                yield host.anatomy.layer_tensor(new, rest), tensor


def assemble(plan: Plan, host: Checkpoint, organs: Organs) -> "PreTrainedModel":
    """Build the model of a plan in memory, in evaluation mode, on the CPU.

    Its parameters share memory with the host's file mapping and the organs' tensors, so that no
    weight is held twice: whoever trains a parameter replaces it by a copy first.

    Args:
        plan: Its layers.
        host: Where embeddings, final norm, head and host layers come from.
        organs: Organs by source name.

    Raises:
        PlanError: The plan names a source or layer that is not there.
        CheckpointError: A tensor that the class needs is missing, or one it does not know is there.
    """
    from transformers import AutoConfig

    state = dict(stream(plan, host, organs))
    config = AutoConfig.for_model(**splice_config(plan, host, organs))
    kind = _class(config)
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=next(iter(state.values())).dtype,
        output_loading_info=True,
    )
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors do not match the class {kind.__name__}, first {wrong[0]}; "
            "get the checkpoint in the form that the class saves"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CheckpointError(f"{kind.__name__} was left without some of its weights")
    result: PreTrainedModel = model.eval()
    return result


def write_model(plan: Plan, host: Checkpoint, organs: Organs, out: Path) -> None:
    """Stream a plan to a folder that plain ``from_pretrained`` loads, whole or not at all.

    Memory follows the largest shard, not the model.

    Raises:
        OutputExistsError: ``out`` is taken.
    """
    from transformers import AutoConfig

    with atomic.folder(out) as work:
        config = AutoConfig.for_model(**splice_config(plan, host, organs))
        config.architectures = config.architectures or [_class(config).__name__]
        _write_shards(stream(plan, host, organs), work)
        config.save_pretrained(work)
        _copy_tokenizer(host, work)
        lineage = {
            "host": host.weights_digest,
            "layers": [[layer.source, layer.index] for layer in plan.layers],
        }
        (work / LINEAGE).write_text(json.dumps(lineage) + "\n", encoding="utf-8")


def _write_shards(tensors: Iterator[tuple[str, "torch.Tensor"]], work: Path) -> None:
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal held, size
        path = work / f"shard-{len(shards)}"
        save_file(held, path, metadata={"format": "pt"})
        shards.append(sorted(held))
        held, size = {}, 0

    for name, tensor in tensors:
        bytes_ = tensor.numel() * tensor.element_size()
        if held and size + bytes_ > SHARD_BYTES:
            flush()
        held[name] = tensor.contiguous()
        size += bytes_
        total += bytes_
    flush()
    if len(shards) == 1:
        (work / "shard-0").rename(work / SINGLE)
        return
    table: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (work / f"shard-{number}").rename(work / file)
        table |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
    (work / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy_tokenizer(host: Checkpoint, work: Path) -> None:
    """Copy the host's tokenizer and generation config; a GGUF's tokenizer is written out."""
    if host.origin.is_file():
        host.tokenizer.save_pretrained(work)
        return
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (host.origin / name).is_file():
            shutil.copyfile(host.origin / name, work / name)


def _organ(organs: Organs, layer: Layer) -> Organ:
    if layer.source not in organs or layer.index >= len(organs[layer.source]):
        raise PlanError(f"the plan takes layer {layer.index} of an organ that is not there")
    return organs[layer.source]


def _class(config: Any) -> Any:
    """The causal-LM class of a config, found without allocating a weight."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return type(AutoModelForCausalLM.from_config(config))
