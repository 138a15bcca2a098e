"""Compact organs made whole on their base: to the very tensors that their manifest declares.

Where a factored tensor differs by one bit from the donor's, or the base does, the expanded tensor
is refused. So factors fit their own base only, and nothing can allow another.
"""

from dataclasses import replace
from pathlib import Path

from not_core.errors import IncompatibleOrganError, OrganError
from not_core.manifest import Manifest, StoredLayers
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.lineage import lineage_of
from not_core.surgery.organ import CompactOrgan, Organ, extract, read_stored
from not_core.surgery.origins import root_tensors


def read_expanded(folder: Path, base: Checkpoint) -> Organ:
    """Read an organ folder of either form; see ``read_stored`` and ``expand``.

    Raises:
        OrganError: The folder contradicts its manifest, or its factors do not make its tensors.
        IncompatibleOrganError: The organ is compact and ``base`` is not its base.
    """
    return expand(read_stored(folder), base)


def expand(organ: Organ | CompactOrgan, base: Checkpoint) -> Organ:
    """Make a compact organ whole, and check each of its tensors, one at a time.

    Args:
        organ: As it was shipped; one of layers is returned as it is, whatever ``base``.
        base: The model that it grew in, or that model with other organs in it.

    Raises:
        IncompatibleOrganError: It grew in another model.
        OrganError: The factors do not make the tensors that the manifest declares, or ``base`` has
            lost the layers that are needed.
    """
    if isinstance(organ, Organ):
        return organ
    manifest = organ.manifest
    if manifest.base.weights == base.weights_digest:
        return organ.expand(extract(base, manifest.span))
    lineage = lineage_of(base)
    if manifest.base.weights != lineage.root:
        raise IncompatibleOrganError(
            f"{manifest.organ_id} is compact and grew in base weights "
            f"{manifest.base.weights[:12]}, {base.origin} has {lineage.root[:12]}; it expands on "
            "its own base only: give that one, or choose an organ shipped as layers"
        )
    return organ.expand(root_tensors(base, lineage, manifest.span))


def as_layers(organ: Manifest) -> Manifest:
    """The manifest of a compact organ that is to be shipped as layers: nobody has claimed it yet.

    Raises:
        OrganError: It is not compact.
    """
    if not organ.compact:
        raise OrganError(f"{organ.organ_id} holds layers already; there is nothing to expand")
    return replace(organ, stored=StoredLayers(), donor=None, parents=(organ.digest,))
