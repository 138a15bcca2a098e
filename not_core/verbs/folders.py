"""Organs and sealed organs where they lie on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from not_core import canonical
from not_core.manifest import TENSORS, Manifest
from not_core.trust.offer import Offer
from not_core.trust.signing import SIGNATURE
from not_core.verbs.facts import table


@dataclass(frozen=True, slots=True, repr=False)
class OrganFolder:
    """An organ in a folder; it is path-like.

    Attributes:
        path: The folder.
        manifest: What the organ says of itself; nothing of it is verified.
    """

    path: Path
    manifest: Manifest

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What commands report of it."""
        return {
            "organ": str(self.path),
            "digest": self.manifest.digest,
            **summary(self.manifest),
            "artefact_bytes": (self.path / TENSORS).stat().st_size,
            "signed": (self.path / SIGNATURE).is_file(),
        }


@dataclass(frozen=True, slots=True, repr=False)
class SealedFile:
    """A sealed organ in a file; it is path-like.

    Attributes:
        path: The file.
        offer: What its donor offers.
        sites: Names of the addressees, where they are known: the file has their keys only.
    """

    path: Path
    offer: Offer
    sites: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What commands report of it."""
        offer = canonical.plain(canonical.encode(self.offer), "offer")
        return {"sealed": str(self.path), "bytes": self.path.stat().st_size, **offer}


def summary(manifest: Manifest) -> dict[str, Any]:
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
