"""The model card of an organ, written from its manifest and from nothing else."""

from not_core.manifest import PROVES, DifferentialPrivacy, Manifest, StoredFactors


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
        *_privacy(manifest),
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


def _privacy(manifest: Manifest) -> list[str]:
    """What the manifest states of privacy, and what that is worth."""
    stated = manifest.privacy
    if isinstance(stated, DifferentialPrivacy):
        return [
            f"The donor states {stated.words}, one {stated.unit} added or removed: DP-SGD of "
            f"{stated.steps} steps, sampling probability {stated.sampling_probability:.4g}, noise "
            f"multiplier {stated.noise_multiplier:.4g}, clipped at {stated.clip:.4g}, accounted by "
            f"{stated.accountant}. {PROVES}",
        ]
    if not manifest.trained:
        return [
            "No private record was used to make it: its layers are the model's own, whatever that "
            "was trained on."
        ]
    if manifest.merge is not None:
        return [
            "A merge states no differential privacy of its own: what bounds what it may have "
            "memorised from the records its parents were trained on, if anything does, their "
            "manifests say.",
        ]
    return [
        "No differential privacy: nothing bounds what this organ may have memorised from the "
        "records it was trained on.",
    ]
