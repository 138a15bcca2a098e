"""``organ inspect``, ``organ diff`` and ``organ families``: looking, without changing anything."""

from pathlib import Path
from typing import Annotated, Any

import typer

from not_core.commands.program import Json, listing, report
from not_core.errors import CheckpointError, OrganError

Either = Annotated[str, typer.Argument(help="Model folder, .gguf file or hub id.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(inspect)
    app.command()(diff)
    app.command()(families)


def inspect(
    path: Annotated[
        Path, typer.Argument(help="Organ folder, sealed .organ file, model folder or .gguf file.")
    ],
    as_json: Json = False,
) -> None:
    """Say what an organ claims to be, or what a model is; needs no key, verifies no signature.

    Example: organ inspect organ/
    """
    from not_core.manifest import MANIFEST

    if path.is_file() and path.suffix != ".gguf":
        report(_sealed(path), as_json)
    elif path.is_file() or (path / "config.json").is_file():
        report(_model(path), as_json)
    elif (path / MANIFEST).is_file():
        report(_organ(path, as_json), as_json)
    else:
        raise OrganError(
            f"no organ at {path}; give an organ folder, a sealed .organ file or a model"
        )


def diff(
    first: Either,
    second: Either,
    as_json: Json = False,
) -> None:
    """Say which layers of two models differ, and by how much; layers are paired by content.

    `relative` is the L2 norm of the difference over that of the first; organs and lineage are the
    second's. The exit code is 0 whether they differ or not.

    Example: organ diff SmolLM2/ grafted/
    """
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.difference import difference

    ours, theirs = open_checkpoint(first), open_checkpoint(second)
    found = difference(ours, theirs)
    lineage = _lineage(theirs)
    names = lineage.organs() if lineage else {}
    organs = [names.get(one) for one in lineage.tenants()] if lineage else [None] * theirs.layers
    rows = [
        {
            "first": pair.first,
            "second": pair.second,
            "kind": pair.kind,
            "relative": pair.distance.relative if pair.distance else None,
            "largest": pair.distance.largest if pair.distance else None,
            "tensors changed": pair.distance.changed if pair.distance else None,
            "organ": None if pair.second is None else organs[pair.second],
        }
        for pair in found.layers
    ]
    frame = found.frame
    facts: dict[str, Any] = {
        "same": sum(pair.kind == "same" for pair in found.layers),
        "changed": sum(pair.kind == "changed" for pair in found.layers),
        "added": sum(pair.kind == "added" for pair in found.layers),
        "removed": sum(pair.kind == "removed" for pair in found.layers),
        "unlike": [text for pair in found.layers if pair.distance for text in pair.distance.unlike],
        "frame": "same"
        if frame is None
        else {
            "relative": frame.relative,
            "largest": frame.largest,
            "tensors changed": frame.changed,
            "unlike": list(frame.unlike),
        },
        "config": {name: list(values) for name, values in found.config.items()} or "same",
        "lineage": _state(lineage),
    }
    if as_json:
        report({"layers": rows, **facts}, as_json)
        return
    shown = [
        {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
        if row["kind"] != "same"
    ]
    if shown:
        listing(shown, as_json)
    report(facts, as_json)


def families(as_json: Json = False) -> None:
    """List the model families that surgery supports, and where their parts are.

    Layers, embedding, positions and norms lie in the trunk, the head beside it.

    Example: organ families
    """
    listing(family_rows(), as_json)


def family_rows() -> list[dict[str, str]]:
    """One row a family: what was found, and what had to be stated."""
    from not_core.surgery.anatomy import FAMILIES, anatomy

    parts = [anatomy({"model_type": family}) for family in sorted(FAMILIES)]
    return [
        {
            "family": part.family,
            "class": part.architecture,
            "trunk": part.trunk,
            "layers": part.layers.removeprefix(part.trunk),
            "embedding": _modules(part, part.embedding),
            "positions and norms": _modules(part, *part.frame),
            "head": _modules(part, part.head),
            "one entry a layer": ", ".join((*part.per_layer, *(part.row.listed or ())[:1])),
            "stated, not found": "; ".join(part.row.stated()),
            "GGUF": "yes" if part.row.gguf else "",
        }
        for part in parts
    ]


def _modules(part: Any, *tensors: str) -> str:
    """The modules that tensors belong to, as they are called in the trunk if they are in it."""
    modules = (name.removeprefix(part.trunk).rpartition(".")[0] for name in tensors)
    return ", ".join(dict.fromkeys(modules))


def _sealed(path: Path) -> dict[str, Any]:
    from not_core import canonical
    from not_core.trust.delivery import read_header
    from not_core.trust.offer import peek_offer

    with path.open("rb") as file:
        header = read_header(file)
    offer = canonical.plain(canonical.encode(peek_offer(header.envelope)), "offer")
    return {"sealed": str(path), "bytes": path.stat().st_size, **offer}


def _organ(path: Path, as_json: bool) -> dict[str, Any]:
    from not_core import canonical
    from not_core.manifest import TENSORS
    from not_core.surgery.organ import read_manifest
    from not_core.trust.signing import SIGNATURE

    manifest = read_manifest(path)
    facts: dict[str, Any] = {"digest": manifest.digest, **summary(manifest)}
    facts["artefact_bytes"] = (path / TENSORS).stat().st_size
    facts["signed"] = (path / SIGNATURE).is_file()
    if as_json:
        facts["manifest"] = canonical.plain(canonical.encode(manifest), "manifest")
    return facts


def _model(path: Path) -> dict[str, Any]:
    """What a model's config and the headers of its files say; digests read it once."""
    from not_core.surgery.checkpoint import open_checkpoint

    host = open_checkpoint(str(path))
    part = host.anatomy
    forms = [host.tensors.form(name) for name in host.names]
    lineage = _lineage(host)
    return {
        "model": str(path),
        "family": part.family,
        "architecture": part.architecture,
        "layers": host.layers,
        "width": host.config[part.width],
        "parameters": sum(form.parameters for form in forms),
        "bytes": {
            dtype: sum(form.bytes for form in forms if form.dtype == dtype)
            for dtype in sorted({form.dtype for form in forms})
        },
        "layer_tensors": part.layers,
        "embedding": part.embedding,
        "head": f"tied to {part.embedding}" if host.tied else part.head,
        "frame": list(host.frame),
        "one_entry_a_layer": sorted(host.source.entries),
        "weights": host.weights_digest,
        "vocabulary": host.tokenizer_digest,
        "lineage": _state(lineage),
        "organs": "unknown" if lineage is None else _organs(lineage) or "none",
        "recoveries": "unknown" if lineage is None else _recoveries(lineage) or "none",
    }


def _lineage(host: Any) -> Any:
    """A model's lineage; None when its weights were changed after that was written.

    Surgery refuses such a model, whose layers are no longer what the lineage says. To look at it
    is what shows the difference.
    """
    from not_core.surgery.lineage import lineage_of

    host.weights_digest  # noqa: B018 - weights that cannot be read are an error even here
    try:
        return lineage_of(host)
    except CheckpointError:
        return None


def _state(lineage: Any) -> str:
    """What can be said of a lineage in a word."""
    return "stale" if lineage is None else "current" if lineage.organs() else "none"


def _organs(lineage: Any) -> dict[str, Any]:
    """The organs in a graft, and where they stand."""
    return {
        name: {
            "digest": digest,
            "layers": [i for i, one in enumerate(lineage.tenants()) if one == digest],
        }
        for digest, name in lineage.organs().items()
    }


def _recoveries(lineage: Any) -> dict[str, Any]:
    """How a graft was tuned since, and at what cost in privacy."""
    return {
        digest: {
            "what": facts.what,
            "layers": [i for i, at in enumerate(lineage.layers) if at.source == digest],
            "tokens": facts.training.tokens,
            "privacy": facts.privacy.words,
        }
        for digest, facts in lineage.recoveries().items()
    }


def summary(manifest: Any) -> dict[str, Any]:
    """An organ's manifest in a few facts."""
    training = manifest.training
    return {
        "id": manifest.organ_id,
        "version": manifest.version,
        "domain": manifest.domain,
        "licence": manifest.licence,
        "donor": manifest.donor,
        "family": manifest.base.family,
        "base_weights": manifest.base.weights,
        "base_layers": manifest.base.layers,
        "span": str(manifest.span),
        "tensors": len(manifest.tensors),
        "form": manifest.stored.form,
        "training": f"none of its own ({manifest.merge.method} of {len(manifest.parents)} organs)"
        if manifest.merge
        else "none (the base's own layers)"
        if training is None
        else f"{training.scaffold}, {training.tokens} tokens, {training.steps} steps",
        "privacy": manifest.privacy.words,
    }
