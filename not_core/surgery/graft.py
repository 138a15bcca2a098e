"""Transplant, excise and recovery on disk: a plan streamed to a new checkpoint, tensor by tensor.

No model is loaded. The new folder holds config, generation config, tokenizer, sharded weights,
the lineage, and the layers that organs replaced, in a folder of their own.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from not_core import atomic, canonical
from not_core.errors import CheckpointError, OrganError
from not_core.manifest import TensorFacts
from not_core.surgery import lineage as lineages
from not_core.surgery.anatomy import anatomy
from not_core.surgery.assemble import Joined, plan_config, plan_tensors
from not_core.surgery.checkpoint import CONFIG, GENERATION_CONFIG, INDEX, SINGLE, Checkpoint
from not_core.surgery.compatibility import check, fitted
from not_core.surgery.lineage import LINEAGE, ROOT, Lineage, RecoveryFacts
from not_core.surgery.organ import Organ
from not_core.surgery.origins import REPLACED, SET_ASIDE, There, layers_at_hand
from not_core.surgery.plan import Layer, Plan, whole
from not_core.surgery.source import Source
from not_core.surgery.tensors import Tensors, table_digest, tensor_digest, write_safetensors
from not_core.surgery.tokenizer import files_of

SHARD_BYTES = 5 * 1000 * 1000 * 1000


@dataclass(frozen=True, slots=True)
class Written:
    """A model that was written.

    Attributes:
        weights: Its weights digest.
        layers: Number of its layers.
        organs: Ids of the organs in it, by digest.
    """

    weights: str
    layers: int
    organs: Mapping[str, str]


def transplant(
    plan: Plan,
    host: Checkpoint,
    organs: Mapping[str, Organ],
    out: Path,
    *,
    allow: Set[str] = frozenset(),
    keep_replaced: bool = True,
) -> Written:
    """Write a plan's model to a folder that plain ``from_pretrained`` loads, whole or not at all.

    Args:
        plan: Its layers.
        host: Where embeddings, final norm, head and host layers come from.
        organs: By the plan's source names, which are their digests.
        out: Folder to make.
        allow: Differences between organs and host to accept; see ``compatibility``.
        keep_replaced: Whether to set aside the layers that organs replace, so that they can be
            put back without the host.

    Raises:
        OutputExistsError: ``out`` is taken.
        IncompatibleOrganError: An organ does not fit.
        PlanError: A layer is not there, or would run otherwise than where it was made.
    """
    atomic.refuse_existing(out)
    for organ in organs.values():
        check(organ.manifest, host, allow)
    before = lineages.lineage_of(host)
    there = layers_at_hand(host, before)
    for name, organ in organs.items():
        source = fitted(organ, host)
        there |= {Layer(name, index): (source, index) for index in source.layers}
    return _write(lineages.grafted(before, plan, organs), host, there, out, aside=keep_replaced)


def recover(
    host: Checkpoint,
    tensors: Tensors,
    recovery: RecoveryFacts,
    out: Path,
    *,
    keep_replaced: bool = True,
) -> Written:
    """Write a graft with some of its layers tuned; what they were before is set aside.

    Args:
        host: The graft.
        tensors: Of those layers, named ``LAYER.NAME`` by the layer's index in the graft.
        recovery: What was done.
        out: Folder to make.
        keep_replaced: Whether to set aside what this and earlier operations replaced, so that it
            can be put back.

    Raises:
        OutputExistsError: ``out`` is taken.
        CheckpointError: The graft was changed since it was written.
    """
    atomic.refuse_existing(out)
    before = lineages.lineage_of(host)
    source = tuned(host, tensors, recovery.layers)
    there = layers_at_hand(host, before)
    there |= {Layer(recovery.digest, place): (source, place) for place in recovery.layers}
    after = lineages.recovered(before, recovery, source.entries)
    return _write(after, host, there, out, aside=keep_replaced)


def tuned(host: Checkpoint, tensors: Tensors, places: Iterable[int]) -> Source:
    """Layers of a model with other weights, named ``LAYER.NAME``, at the indices they stand at."""
    return Source(
        tensors=tensors,
        layers={
            place: {rest: f"{place}.{rest}" for rest in host.source.layer(place)}
            for place in places
        },
        entries=host.source.entries,
    )


def excise(host: Checkpoint, organ: str, out: Path, *, root: Checkpoint | None = None) -> Written:
    """Take an organ or a recovery out of a grafted model; what it replaced comes back.

    Args:
        host: The grafted model.
        organ: The organ's id, ``recovery``, or a digest or the beginning of it.
        out: Folder to make.
        root: The model before any organ, for layers that the graft did not set aside.

    Raises:
        OrganError: No such organ, what it replaced was not kept, or it was tuned since.
        CheckpointError: The model was changed after the transplant; ``root`` is another model; or
            the result is not what the lineage says.
    """
    atomic.refuse_existing(out)
    before = lineages.lineage_of(host)
    after = lineages.excised(before, before.find(organ))
    there = layers_at_hand(host, before)
    if root is not None:
        if root.weights_digest != before.root:
            raise CheckpointError(
                f"{root.origin} has weights {root.weights_digest[:12]}, the organs were put into "
                f"{before.root[:12]}; give the model that they were put into"
            )
        there |= {Layer(ROOT, index): (root.source, index) for index in range(root.layers)}
    return _write(after, host, there, out, aside=True)


def _write(lineage: Lineage, host: Checkpoint, there: There, out: Path, *, aside: bool) -> Written:
    """Write the model of a lineage, and verify it where the lineage tells what it must be."""
    plan = Plan(tuple(Layer(origin.source, origin.index) for origin in lineage.layers))
    below = [layer for layer in lineages.beneath(lineage) if layer in there] if aside else []
    sources = {name: _source(name, lineage, there) for name in lineage.sources}
    if absent := [layer for layer in plan.layers if layer not in there]:
        raise OrganError(
            f"{len(absent)} layers that the organ replaced were not kept in {host.origin}; "
            "give the model that it was put into with --host"
        )
    config = plan_config(plan, host, sources)
    tensors = plan_tensors(plan, host, sources)
    with atomic.folder(out) as work:
        digest = _write_weights(tensors, work)
        untouched = plan.layers == whole(ROOT, len(plan.layers)) and not lineage.organs()
        if untouched and digest != lineage.root:
            raise CheckpointError(
                f"without its organs the model has weights {digest[:12]}, not those it had before, "
                f"{lineage.root[:12]}; give the model that they were put into with --host"
            )
        kept = _write_aside(below, there, work)
        if not untouched:
            final = replace(lineage, weights=digest, aside=kept)
            (work / LINEAGE).write_bytes(canonical.encode(final))
        _copy_rest(host, work)
        made = _made_config(config)
        if not host.origin.is_file() and not (work / GENERATION_CONFIG).exists():
            _write_generation_config(host.origin, made, work)
        made.save_pretrained(work)  # last: without it, what a killed run left is no model
    return Written(digest, len(plan.layers), lineage.organs())


def _write_aside(below: Iterable[Layer], there: There, work: Path) -> tuple[TensorFacts, ...]:
    """Write the layers that lie beneath others; return what the lineage is to say of them."""
    kept = {
        f"{layer.source}.{layer.index}.{rest}": (source.tensors, name)
        for layer in below
        for source, index in [there[layer]]
        for rest, name in source.layer(index).items()
    }
    if not kept:
        return ()
    tensors, found = Joined(kept), dict[str, str]()
    (work / REPLACED).mkdir()
    write_safetensors(
        work / REPLACED / SET_ASIDE,
        tensors,
        tensors.names(),
        seen=lambda name, tensor: found.update({name: tensor_digest(tensor)}),
    )
    forms = {name: tensors.form(name) for name in tensors.names()}
    return tuple(
        TensorFacts(name=name, dtype=form.dtype, shape=form.shape, sha256=found[name])
        for name, form in forms.items()
    )


def _source(name: str, lineage: Lineage, there: There) -> Source:
    """All that can be had of one source, wherever it lies."""
    facts = lineage.sources[name]
    found = {layer.index: at for layer, at in there.items() if layer.source == name}
    where = {
        f"{index}.{rest}": (source.tensors, stored)
        for index, (source, place) in found.items()
        for rest, stored in source.layer(place).items()
    }
    layers: dict[int, dict[str, str]] = {index: {} for index in found}
    for key in where:
        index, _, rest = key.partition(".")
        layers[int(index)][rest] = key
    return Source(tensors=Joined(where), layers=layers, entries=facts.entries, start=facts.start)


def _made_config(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    made = AutoConfig.for_model(**config)
    made.architectures = [anatomy(dict(config)).architecture]
    return made


def _write_generation_config(origin: Path, made: Any, work: Path) -> None:
    """Write how the host generates where only its ``config.json`` tells, and the new one does not.

    Old models keep such settings there; ``from_pretrained`` heeds them, config classes drop them.

    Raises:
        CheckpointError: They cannot be read.
    """
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(
            origin, config_file_name=CONFIG, local_files_only=True, _from_model_config=True
        )
        same = found == GenerationConfig.from_model_config(json.loads(made.to_json_string()))
    except Exception as error:  # the library raises whatever its validators raise
        raise CheckpointError(
            f"the generation settings in {origin / CONFIG} are not valid ({type(error).__name__}); "
            "get an undamaged copy"
        ) from error
    if not same:
        (work / GENERATION_CONFIG).write_text(found.to_json_string(use_diff=True), "utf-8")


def _write_weights(tensors: Tensors, work: Path) -> str:
    """Write all tensors in shards; return the weights digest."""
    shards: list[list[str]] = [[]]
    size = total = 0
    for name in tensors.names():
        bytes_ = tensors.form(name).bytes
        if shards[-1] and size + bytes_ > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_
        total += bytes_
    digests: dict[str, str] = {}
    table: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        single = len(shards) == 1
        file = SINGLE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(
            work / file,
            tensors,
            tuple(names),
            seen=lambda name, tensor: digests.update({name: tensor_digest(tensor)}),
        )
        table |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
        (work / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return table_digest((name, tensors.form(name), digest) for name, digest in digests.items())


def _copy_rest(host: Checkpoint, work: Path) -> None:
    """Copy the host's tokenizer and generation config; a GGUF's tokenizer is written out."""
    if host.origin.is_file():
        host.tokenizer.save_pretrained(work)
        return
    generation = (GENERATION_CONFIG,) if (host.origin / GENERATION_CONFIG).is_file() else ()
    for name in (*generation, *files_of(host.origin)):
        (work / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(host.origin / name, work / name)
