"""``organ extract``, ``organ transplant`` and ``organ inspect``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from not_core.commands.program import Json, new_place, report, span
from not_core.errors import OrganError

Out = Annotated[Path, typer.Option(help="Folder to make; it must not exist yet.")]
Model = Annotated[str, typer.Option(help="Model folder, .gguf file or hub id.")]


class ModeName(StrEnum):
    """How an organ is put in."""

    REPLACE = "replace"
    INSERT = "insert"


class MethodName(StrEnum):
    """How organs are merged."""

    AVERAGE = "average"
    TIES = "ties"


class Difference(StrEnum):
    """A difference between organ and recipient that can be allowed."""

    BASE = "base"
    DTYPE = "dtype"
    HEAD = "head"
    ROPE = "rope"
    TOKENIZER = "tokenizer"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(extract)
    app.command()(transplant)
    app.command()(excise)
    app.command()(merge)
    app.command()(inspect)


def extract(
    model: Model,
    span_: Annotated[str, typer.Option("--span", help="Layers START:STOP, half-open, from 0.")],
    out: Out,
    name: Annotated[str, typer.Option(help="The organ's name.")] = "organ",
    as_json: Json = False,
) -> None:
    """Cut a span of layers out of a model, untrained.

    Example: organ extract --model SmolLM2/ --span 2:4 --out plain/
    """
    start, stop = span(span_)
    new_place(out)
    from not_core.manifest import Span
    from not_core.surgery import organ as organs
    from not_core.surgery.checkpoint import open_checkpoint

    label = organs.make_label(name=name, domain="unspecified", licence="unspecified", version=1)
    host = open_checkpoint(model)
    cut = Span(start=start, stop=stop)
    tensors = organs.extract(host, cut)
    manifest = organs.describe(host, cut, tensors, label, training=None)
    organs.write_organ(out, tensors, manifest)
    report({"organ": str(out), "digest": manifest.digest, **_summary(manifest)}, as_json)


def transplant(
    organs: Annotated[list[Path], typer.Argument(metavar="ORGAN...", help="Organ folders.")],
    into: Annotated[str, typer.Option(help="Recipient: model folder, .gguf file or hub id.")],
    out: Out,
    mode: Annotated[ModeName, typer.Option(help="Take the host's layers' place, or add.")] = (
        ModeName.REPLACE
    ),
    position: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Host layer of an organ's first layer, once for each organ; default: where it "
            "grew. Positions count the host's layers as they were.",
        ),
    ] = None,
    allow: Annotated[
        list[Difference] | None, typer.Option(help="Accept a difference that still runs.")
    ] = None,
    keep_replaced: Annotated[
        bool, typer.Option(help="Set aside the layers that organs replace, for `organ excise`.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Put organs into a model and write the grafted model to a new folder.

    The result loads with plain `AutoModelForCausalLM.from_pretrained`. This command does not
    verify signatures: use `organ verify` or `organ open` first.

    Example: organ transplant opened/ --into SmolLM2/ --mode replace --position 10 --out grafted/
    """
    new_place(out)
    from not_core.surgery import graft
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.compatibility import check
    from not_core.surgery.organ import read_manifest, read_organ
    from not_core.surgery.plan import Graft, compose

    if position is not None and len(position) != len(organs):
        raise typer.BadParameter(f"{len(position)} positions for {len(organs)} organs")
    host = open_checkpoint(into)
    manifests = [read_manifest(folder) for folder in organs]
    for manifest in manifests:
        check(manifest, host, frozenset(map(str, allow or ())))
    grafts = [
        Graft(
            organ=manifest.digest,
            count=len(manifest.span),
            mode=mode.value,
            position=manifest.span.start if position is None else position[index],
        )
        for index, manifest in enumerate(manifests)
    ]
    plan = compose(host.layers, grafts)
    read = {
        manifest.digest: read_organ(folder)
        for manifest, folder in zip(manifests, organs, strict=True)
    }
    written = graft.transplant(
        plan,
        host,
        read,
        out,
        allow=frozenset(map(str, allow or ())),
        keep_replaced=keep_replaced,
    )
    report(
        {
            "grafted": str(out),
            "organs": [graft.organ for graft in grafts],
            "mode": mode.value,
            "positions": [graft.position for graft in grafts],
            "layers": written.layers,
            "weights": written.weights,
        },
        as_json,
    )


def excise(
    model: Annotated[str, typer.Argument(help="Grafted model folder.")],
    organ: Annotated[str, typer.Option(help="Organ id, or its digest or the beginning of it.")],
    out: Out,
    host: Annotated[
        str | None,
        typer.Option(help="The model before any organ, if what it lost was not set aside."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take an organ out of a grafted model; the layers that it replaced come back, bit for bit.

    Example: organ excise grafted/ --organ hospital/organ --out host/
    """
    new_place(out)
    from not_core.surgery import graft
    from not_core.surgery.checkpoint import open_checkpoint

    written = graft.excise(
        open_checkpoint(model), organ, out, root=open_checkpoint(host) if host else None
    )
    report(
        {
            "model": str(out),
            "layers": written.layers,
            "weights": written.weights,
            "organs": list(written.organs.values()),
        },
        as_json,
    )


def merge(
    organs: Annotated[
        list[Path],
        typer.Argument(metavar="ORGAN...", help="Two or more organ folders of one span."),
    ],
    base: Annotated[str, typer.Option(help="Model that they grew in: folder, .gguf or hub id.")],
    out: Out,
    method: Annotated[
        MethodName,
        typer.Option(help="Mean of the weights, or TIES: trim changes, elect signs, then mean."),
    ] = MethodName.AVERAGE,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of an organ, once for each; default: equal."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="TIES: part of each tensor's changes that is kept; default: 0.2."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="TIES: factor of the merged change; default: 1.")
    ] = None,
    name: Annotated[str, typer.Option(help="The merged organ's name.")] = "merged",
    as_json: Json = False,
) -> None:
    """Merge organs that grew in one base at one span into a new organ.

    It has its parents' privacy: none. This command does not verify signatures: use
    `organ verify` or `organ open` first.

    Example: organ merge opened-a/ opened-b/ --base SmolLM2/ --method ties --out merged/
    """
    new_place(out)
    from not_core.surgery import organ as made
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.merge import Average, Ties
    from not_core.surgery.merge import merge as merge_organs

    given = {"density": density, "scale": scale}
    changed = {key: value for key, value in given.items() if value is not None}
    if method is MethodName.AVERAGE and changed:
        raise typer.BadParameter(f"--{min(changed)} is for --method ties")
    if weight and len(weight) != len(organs):
        raise typer.BadParameter(f"{len(weight)} weights for {len(organs)} organs")
    weights = tuple(weight or ())
    try:
        how = (
            Ties(weights=weights, **changed)
            if method is MethodName.TIES
            else Average(weights=weights)
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    parents = [made.read_organ(folder) for folder in organs]
    label = made.make_label(
        name=name,
        domain="; ".join(sorted({parent.manifest.domain for parent in parents})),
        licence="; ".join(sorted({parent.manifest.licence for parent in parents})),
        version=1,
    )
    manifest, tensors = merge_organs(parents, open_checkpoint(base), label, how)
    made.write_organ(out, tensors, manifest)
    report({"organ": str(out), "digest": manifest.digest, **_summary(manifest)}, as_json)


def inspect(
    path: Annotated[Path, typer.Argument(help="Organ folder or sealed .organ file.")],
    as_json: Json = False,
) -> None:
    """Say what an organ claims to be; needs no key and verifies no signature.

    Example: organ inspect organ/
    """
    from not_core import canonical

    if path.is_file():
        from not_core.trust.delivery import read_header
        from not_core.trust.offer import peek_offer

        with path.open("rb") as file:
            header = read_header(file)
        offer = canonical.plain(canonical.encode(peek_offer(header.envelope)), "offer")
        report({"sealed": str(path), "bytes": path.stat().st_size, **offer}, as_json)
        return
    if not path.is_dir():
        raise OrganError(f"no organ at {path}; give an organ folder or a sealed .organ file")
    from not_core.surgery.organ import read_manifest
    from not_core.trust.signing import SIGNATURE

    manifest = read_manifest(path)
    facts: dict[str, Any] = {"digest": manifest.digest, **_summary(manifest)}
    facts["signed"] = (path / SIGNATURE).is_file()
    if as_json:
        facts["manifest"] = canonical.plain(canonical.encode(manifest), "manifest")
    report(facts, as_json)


def _summary(manifest: Any) -> dict[str, Any]:
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
        "training": f"none of its own ({manifest.merge.method} of {len(manifest.parents)} organs)"
        if manifest.merge
        else "none (the base's own layers)"
        if training is None
        else f"{training.scaffold}, {training.tokens} tokens, {training.steps} steps",
        "privacy": manifest.privacy.mechanism,
    }
