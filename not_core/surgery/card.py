"""The model card of an organ, written from its manifest and from nothing else."""

from not_core.manifest import Manifest, StoredFactors


def card(manifest: Manifest) -> str:
    """Markdown that says what the organ is, what it was made from and what protects it."""
    base, training = manifest.base, manifest.training
    lines = [
        "---",
        "library_name: organ-exchange",
        f"license: {manifest.licence}",
        "tags: [organ]",
        "---",
        "",
        f"# {manifest.organ_id}, version {manifest.version}",
        "",
        f"Layers {manifest.span} of a {base.family} model of {base.layers} layers, "
        f"given by **{manifest.donor or 'nobody yet'}**. Domain: {manifest.domain}.",
        "",
        "| | |",
        "|---|---|",
        f"| base weights (SHA-256) | `{base.weights}` |",
        f"| vocabulary (SHA-256) | `{base.tokenizer}` |",
        f"| tensors | {len(manifest.tensors)} |",
    ]
    if isinstance(manifest.stored, StoredFactors):
        lines.append(
            f"| stored as | factors of rank {training.rank if training else None}, which expand to "
            "these tensors on that base only |"
        )
    elif manifest.merge is None:
        lines += [f"| expanded from | `{parent}` |" for parent in manifest.parents]
    if manifest.merge is not None:
        merge = manifest.merge
        lines += [
            f"| merge | {merge.method}"
            + (f", density {merge.density}, scale {merge.scale}" if merge.method == "ties" else "")
            + f", of {len(manifest.parents)} organs |",
            *(
                f"| parent of weight {weight} | `{parent}` |"
                for parent, weight in zip(manifest.parents, merge.weights, strict=True)
            ),
        ]
    elif training is None:
        lines.append("| training | none: these are the base model's own layers |")
    else:
        lines += [
            f"| training | {training.scaffold}, {training.tokens} tokens, {training.steps} steps, "
            f"learning rate {training.learning_rate}, seed {training.seed} |",
            "| libraries | "
            + ", ".join(f"{name} {version}" for name, version in training.libraries.items())
            + " |",
        ]
    if manifest.audit is not None:
        lines.append(f"| report of its audit (SHA-256) | `{manifest.audit}` |")
    lines += [
        "",
        "## Privacy",
        "",
        "No differential privacy: nothing bounds what this organ may have memorised from the "
        f"records {'it was' if training is not None else 'its parents were'} trained on."
        if manifest.trained
        else "No private record was used.",
        "",
        "## Use",
        "",
        "```",
        f"organ transplant THIS-FOLDER --into BASE-MODEL --position {manifest.span.start} "
        "--out GRAFTED",
        "```",
        "",
    ]
    return "\n".join(lines)
