"""Organs: a folder with ``organ.safetensors``, ``manifest.json`` and a model card.

Reading checks that the three agree; trust in who made them is ``not_core.trust``'s business. A
compact organ's folder holds factors; with its base, ``expansion`` makes an organ of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass as pydantic_dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT, Line, Name
from not_core.errors import CheckpointError, FormatError, OrganError, QuarantineError
from not_core.manifest import (
    CARD,
    MANIFEST,
    TENSORS,
    BaseFacts,
    Manifest,
    NoPrivacy,
    Positive,
    Privacy,
    Span,
    StoredFactors,
    StoredLayers,
    TensorFacts,
    TrainingFacts,
)
from not_core.surgery.card import card
from not_core.surgery.checkpoint import Checkpoint, refuse_strays
from not_core.surgery.compact import (
    LEFT,
    RIGHT,
    Expanded,
    Zeroed,
    check_factors,
    check_facts,
    describe_factors,
)
from not_core.surgery.layer_config import fitting_fields
from not_core.surgery.plan import cut
from not_core.surgery.source import Source
from not_core.surgery.tensors import (
    HEADER_BYTES,
    ITEM_BYTES,
    Form,
    Renamed,
    SafetensorsFiles,
    Tensors,
    finite,
    open_safetensors,
    shown,
    tensor_digest,
    tensor_facts,
    write_safetensors,
)

if TYPE_CHECKING:
    import torch


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Label:
    """What its maker calls an organ."""

    name: Name
    donor: Name | None = None
    domain: Line = "unspecified"
    licence: Line = "unspecified"
    version: Positive = 1


def make_label(**words: object) -> Label:
    """A label from what a user typed, checked before any work is done.

    Raises:
        FormatError: A name is not of lower-case letters, digits and inner hyphens, or a text is
            longer than a line.
    """
    return canonical.decode(Label, canonical.encode({"donor": None, **words}), "organ label")


@dataclass(frozen=True)
class Organ:
    """An organ: what it says of itself, and its tensors, named ``LAYER.NAME``.

    Attributes:
        manifest: What it says of itself.
        tensors: Where its tensors are read from.
    """

    manifest: Manifest
    tensors: Tensors = field(repr=False)

    def __len__(self) -> int:
        return len(self.manifest.span)

    @cached_property
    def source(self) -> Source:
        """Its layers, for a plan to take from."""
        layers: dict[int, dict[str, str]] = {}
        for facts in self.manifest.tensors:
            index, _, rest = facts.name.partition(".")
            layers.setdefault(int(index), {})[rest] = facts.name
        return Source(
            tensors=self.tensors,
            layers=layers,
            entries=self.manifest.base.layer_config,
            start=self.manifest.span.start,
        )


@dataclass(frozen=True)
class CompactOrgan:
    """An organ as it was shipped by factors; it takes its base to make an organ of it.

    Attributes:
        manifest: What it says of itself.
        factors: Where its factors are read from.
    """

    manifest: Manifest
    factors: Tensors = field(repr=False)

    def expand(self, base: Tensors) -> Organ:
        """The organ itself; each tensor is expanded, and checked, whenever it is read.

        Args:
            base: The same layers of its base, under the organ's names.

        Raises:
            OrganError: ``base`` or the factors are not those that the tensors were made of.
        """
        stored, facts = self.manifest.stored, {one.name: one for one in self.manifest.tensors}
        if not isinstance(stored, StoredFactors):
            raise ValueError("expected the manifest of a compact organ")
        if odd := sorted({*base.names()} ^ {*facts}):
            raise OrganError(f"organ and base disagree about {shown(odd[0])}; get its own base")
        begun = Zeroed(base, frozenset(stored.zeroed))
        return Organ(self.manifest, _checked(Declared(Expanded(begun, self.factors), facts)))


@dataclass(frozen=True, slots=True)
class Declared:
    """Tensors of an organ; only what the manifest declares can be read from them."""

    files: Tensors
    facts: Mapping[str, TensorFacts]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.facts))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor."""
        return Form(self.facts[name].dtype, self.facts[name].shape)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, checked against its digest.

        Raises:
            QuarantineError: ``declared``: it is not the declared tensor. ``finite``: it holds NaN
                or infinity.
        """
        self.check_form(name)
        tensor = self.files.read(name, shared=shared)
        if tensor_digest(tensor) != self.facts[name].sha256:
            raise QuarantineError(
                "declared", f"{shown(name)} is not the tensor that the manifest declares"
            )
        if not finite(tensor):
            raise QuarantineError("finite", f"{shown(name)} holds values that are not finite")
        return tensor

    def check_form(self, name: str) -> None:
        """Check type and shape of one tensor, without reading it.

        Raises:
            QuarantineError: ``declared``: they are others than the manifest's.
        """
        if (found := self.files.form(name)) != self.form(name):
            raise QuarantineError(
                "declared", f"{shown(name)} is {found}, declared is {self.form(name)}"
            )


def extract(host: Checkpoint, span: Span) -> Tensors:
    """The tensors of a span of layers, untrained, under an organ's names; reads none of them.

    Raises:
        PlanError: The span reaches past the model.
    """
    return Renamed(
        host.tensors,
        {
            f"{new}.{rest}": name
            for new, layer in enumerate(cut(host.layers, span))
            for rest, name in host.source.layer(layer.index).items()
        },
    )


def describe(
    host: Checkpoint,
    span: Span,
    tensors: Tensors,
    label: Label,
    *,
    training: TrainingFacts | None,
    privacy: Privacy = NoPrivacy(),  # noqa: B008 - frozen
    parents: tuple[str, ...] = (),
    form: Literal["layers", "factors"] = "layers",
) -> Manifest:
    """Make the manifest of an organ from what it is.

    Args:
        host: The base model that it was cut from.
        span: Its layers in the base.
        tensors: Its tensors; read one at a time.
        label: Its names.
        training: How it was trained; None for an untrained span.
        privacy: What bounds what it holds of the records that it was trained on.
        parents: Digests of organs that it was made from.
        form: What its folder is to hold; ``factors`` takes ``Expanded`` tensors.
    """
    factors = (
        describe_factors(_expanded(tensors), extract(host, span)) if form == "factors" else None
    )
    return Manifest(
        name=label.name,
        version=label.version,
        domain=label.domain,
        licence=label.licence,
        donor=label.donor,
        base=BaseFacts(
            family=host.anatomy.family,
            architecture=host.anatomy.architecture,
            layers=host.layers,
            config=fitting_fields(host.config, host.anatomy),
            layer_config={
                name: list(values[span.start : span.stop])
                for name, values in host.source.entries.items()
            },
            weights=host.weights_digest,
            tokenizer=host.tokenizer_digest,
        ),
        span=span,
        tensors=tensor_facts(tensors),
        stored=factors or StoredLayers(),
        training=training,
        privacy=privacy,
        parents=parents,
    )


def write_organ(out: Path, tensors: Tensors, manifest: Manifest) -> None:
    """Write an organ folder, whole or not at all; of a compact organ's tensors, their factors.

    Raises:
        OutputExistsError: ``out`` is taken.
    """
    with atomic.folder(out) as work:
        fill(work, tensors, manifest)


def fill(folder: Path, tensors: Tensors, manifest: Manifest) -> None:
    """Write an organ's files into an empty folder that the caller makes atomic."""
    stored = _expanded(tensors).factors if manifest.compact else tensors
    write_safetensors(folder / TENSORS, stored, stored.names())
    (folder / MANIFEST).write_bytes(canonical.encode(manifest))
    (folder / CARD).write_text(card(manifest), encoding="utf-8")


def claim(folder: Path, donor: str) -> Manifest:
    """Write a donor's name into the manifest and card of an organ that nobody has claimed yet.

    Raises:
        OrganError: Another site has claimed it.
    """
    manifest = read_manifest(folder)
    if manifest.donor == donor:
        return manifest
    if manifest.donor is not None:
        raise OrganError(
            f"{folder} was given by {manifest.donor}, this identity is {donor}; "
            "only the donor can sign an organ"
        )
    claimed = replace(manifest, donor=donor)
    atomic.write(folder / CARD, card(claimed).encode())
    atomic.write(folder / MANIFEST, canonical.encode(claimed))
    return claimed


def read_manifest(folder: Path) -> Manifest:
    """Read an organ folder's manifest.

    Raises:
        OrganError: There is none.
        FormatError: It is not a manifest of a version that this program reads.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise OrganError(f"no {MANIFEST} in {folder}; expected an organ folder")
    try:
        return canonical.decode(Manifest, canonical.read_bounded(path), MANIFEST)
    except FormatError as error:
        raise FormatError(f"{folder}: {error}") from None


def read_organ(folder: Path) -> Organ:
    """Read an organ folder that holds layers, as ``read_stored`` does.

    Raises:
        OrganError: As ``read_stored``; or the organ is compact, and its base is not given.
    """
    organ = read_stored(folder)
    if isinstance(organ, CompactOrgan):
        raise OrganError(
            f"{folder} holds a compact organ, which takes its base, "
            f"{organ.manifest.base.weights[:12]}, to expand; use `organ expand` first"
        )
    return organ


def read_stored(folder: Path, *, most_bytes: int | None = None) -> Organ | CompactOrgan:
    """Read an organ folder and check every tensor in it against the manifest, one at a time.

    Args:
        folder: The organ's.
        most_bytes: Largest ``organ.safetensors`` that is opened; None for any that is as large as
            its manifest says.

    Raises:
        QuarantineError: ``size``, before anything but the manifest is read; ``declared``: a tensor
            is missing, extra, or of another type, shape or content; ``finite``.
        OrganError: Factors do not fit the organ's tensors; or the folder holds links or pickles.
    """
    manifest = read_manifest(folder)
    refuse_strays(folder, OrganError)
    path = folder / TENSORS
    if not path.is_file():
        raise OrganError(f"no {TENSORS} in {folder}; expected an organ folder")
    layers = {one.name.partition(".")[0] for one in manifest.tensors}
    if len(layers) != len(manifest.span) or layers != set(map(str, range(len(layers)))):
        raise OrganError(f"{MANIFEST} has layers {sorted(layers)}, the span is {manifest.span}")
    if not isinstance(manifest.stored, StoredFactors):
        return Organ(manifest, _checked(_declared(path, manifest.tensors, most_bytes)))
    check_facts(manifest, manifest.stored)
    factors = _checked(_declared(path, manifest.stored.tensors, most_bytes))
    for one in manifest.tensors:
        if one.name + LEFT in factors.names():
            left, right = (factors.read(one.name + side) for side in (LEFT, RIGHT))
            check_factors(one.name, left, right, Form(one.dtype, one.shape))
    return CompactOrgan(manifest, factors)


def _declared(path: Path, declared: tuple[TensorFacts, ...], most: int | None) -> Declared:
    """The tensors of a file, which must be those that are declared; reads its header only."""
    facts = {one.name: one for one in declared}
    _check_size(path, {name: Form(one.dtype, one.shape) for name, one in facts.items()}, most)
    try:
        names = set(open_safetensors(path).keys())
    except CheckpointError as error:
        raise OrganError(str(error)) from None
    if names != set(facts) or len(facts) != len(declared):
        odd = sorted(names ^ set(facts)) or ["a name that stands twice"]
        raise QuarantineError(
            "declared",
            f"{TENSORS} and {MANIFEST} disagree about {shown(odd[0])}; get an undamaged copy",
        )
    tensors = Declared(SafetensorsFiles({name: (path, name) for name in names}), facts)
    for name in tensors.names():
        tensors.check_form(name)
    return tensors


def _check_size(path: Path, declared: Mapping[str, Form], most: int | None) -> None:
    """Hold a file's size, before it is opened, against a bound and what is declared of it."""
    for name, form in declared.items():
        if form.dtype not in ITEM_BYTES:
            raise QuarantineError("declared", f"{shown(name)} is of no known type, {form.dtype}")
    size, data = path.stat().st_size, sum(form.bytes for form in declared.values())
    if most is not None and size > most:
        raise QuarantineError("size", f"{TENSORS} has {size} bytes, at most {most} are read")
    if not data < size <= data + 8 + HEADER_BYTES:
        raise QuarantineError(
            "size",
            f"{TENSORS} has {size} bytes, the tensors in {MANIFEST} take {data} and a header; "
            "get an undamaged copy",
        )


def _checked(tensors: Declared) -> Declared:
    """The same, after each has been read once."""
    for name in tensors.names():
        tensors.read(name)
    return tensors


def _expanded(tensors: Tensors) -> Expanded:
    if not isinstance(tensors, Expanded):
        raise ValueError("expected tensors that were trained by factors")
    return tensors
