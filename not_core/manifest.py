"""What an organ says of itself: base, span, tensors, training, privacy, donor.

The organ digest is the SHA-256 of the canonical manifest. The manifest holds no time, no key and
no path, so the same training gives the same digest at any hour and under any identity.
"""

from decimal import ROUND_CEILING, Context
from typing import Annotated, Literal

from pydantic import Field, JsonValue
from pydantic.dataclasses import dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest, Line, Many, Name

FORMAT: Literal["organ-exchange/organ/v1"] = "organ-exchange/organ/v1"

TENSORS = "organ.safetensors"
MANIFEST = "manifest.json"
CARD = "README.md"
"""Files of an organ folder before it is signed."""

MOST_LAYERS = 4096
"""No model has as many layers; bounds what a manifest can make its reader build."""

MOST_STEPS, MOST_EPSILON, MOST_NOISE, LEAST_DELTA = 100_000, 500, 1e5, 1e-12
"""Bounds of a statement of differential privacy: what its reader can recompute in a minute or so.

An epsilon near the largest protects nobody.
"""

PROVES = (
    "That it adds up, any reader can recompute. It does not prove that the donor did as it states, "
    "nor how much else was made of the same records."
)
"""What a statement of differential privacy is worth, for cards and reports."""

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**53 - 1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Delta = Annotated[float, Field(ge=LEAST_DELTA, lt=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, le=MOST_EPSILON, allow_inf_nan=False)]
Unit = Literal["record", "subject"]
"""What differential privacy protects: a record, or all records of one subject."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Span:
    """Donor layers ``start`` up to, not including, ``stop``; counted from 0."""

    start: Count
    stop: Positive

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"expected 0 <= start < stop, got {self.start}:{self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class BaseFacts:
    """The model that an organ was cut from.

    ``config`` holds the fields that decide whether an organ fits; ``layer_config`` the entries of
    the organ's own layers in fields that hold one entry a layer.
    """

    family: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")]
    architecture: Line
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    config: dict[str, JsonValue]
    layer_config: Annotated[dict[str, list[JsonValue]], Field(fail_fast=True)]
    weights: Digest
    tokenizer: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TensorFacts:
    """One tensor: ``name`` counts layers from 0 within the organ; ``sha256`` is of its bytes."""

    name: Line
    dtype: Line
    shape: Many[Count]
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class StoredLayers:
    """``organ.safetensors`` holds the organ's tensors themselves."""

    form: Literal["layers"] = "layers"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class StoredFactors:
    """``organ.safetensors`` holds what the organ's tensors differ by from the base's.

    ``tensors`` are the factors, two to a tensor. ``zeroed`` names the organ's tensors that begin at
    zero instead of as they are in the base, which is how inserted layers begin.
    """

    form: Literal["factors"] = "factors"
    tensors: Many[TensorFacts]
    zeroed: Many[Line] = ()


Stored = Annotated[StoredLayers | StoredFactors, Field(discriminator="form")]
"""What ``organ.safetensors`` holds."""


def default_learning_rate(rank: int | None) -> float:
    """The peak rate where none is named: of factors of some rank, or of whole layers."""
    return 2e-3 if rank else 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TrainingFacts:
    """How the organ was trained; with a recipe's defaults for the rest, enough to repeat it.

    What part of what was learned is left (``Recipe.scale``), and whether documents that were kept
    back chose the organ, is not told.
    """

    scaffold: Literal["in-situ", "alone", "emulator", "inserted"]
    rank: Positive | None
    tokens: Positive
    steps: Positive
    seed: Count
    learning_rate: float
    block_tokens: Positive
    step_tokens: Positive
    head_sample: Count | None
    precision: Literal["float32", "bfloat16"]
    device: Line
    threads: Positive
    libraries: Annotated[dict[str, str], Field(fail_fast=True)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class MergeFacts:
    """How the organ was made from its parents; enough to repeat it with them and the base.

    ``weights`` are the parents', in their order; ``density`` and ``scale`` are those of TIES.
    ``trained`` tells whether a parent, or a parent's parent, was trained on records.
    """

    method: Literal["average", "ties"]
    weights: Many[Factor]
    density: Annotated[float, Field(gt=0, le=1)] | None
    scale: Factor | None
    trained: bool

    def __post_init__(self) -> None:
        ties = self.method == "ties"
        if (self.density is not None, self.scale is not None) != (ties, ties):
            raise ValueError("expected density and scale for ties, and for ties only")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class NoPrivacy:
    """An explicit statement that nothing bounds what the organ may have memorised."""

    mechanism: Literal["none"] = "none"

    @property
    def words(self) -> str:
        """The statement in a line."""
        return self.mechanism


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class DifferentialPrivacy:
    """The donor's statement that it trained by DP-SGD, and what that costs a unit of its records.

    The numbers are public: none tells how many units there are or were drawn.

    Attributes:
        unit: What one clipped gradient is of.
        neighbours: Data sets that cannot be told apart well: one unit more or less.
        sampler: Each step draws each unit by its own coin.
        sampling_probability: Of that coin.
        noise_multiplier: Standard deviation of the noise over ``clip``.
        clip: Largest L2 norm of what a unit adds to a step.
        steps: Charged for, at least those that were trained.
        units_per_step: Planned, and what each step's sum is divided by.
        most_blocks_per_unit: Most blocks of a unit that one gradient is of.
        delta: Where ``epsilon`` holds.
        epsilon: An upper bound, by ``accountant``.
        accountant: Library, version and method.

    Source: Abadi et al. (2016), arXiv:1607.00133.
    """

    mechanism: Literal["dp-sgd"] = "dp-sgd"
    unit: Unit
    neighbours: Literal["add-or-remove-one"] = "add-or-remove-one"
    sampler: Literal["poisson"] = "poisson"
    sampling_probability: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    noise_multiplier: Annotated[float, Field(gt=0, le=MOST_NOISE, allow_inf_nan=False)]
    clip: Factor
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    units_per_step: Positive
    most_blocks_per_unit: Positive
    delta: Delta
    epsilon: Epsilon
    accountant: Line

    @property
    def words(self) -> str:
        """The statement in a line; its numbers are rounded up."""
        return f"epsilon {_up(self.epsilon)} at delta {_up(self.delta)} a {self.unit}"


def _up(value: float) -> str:
    """Three digits, never less than ``value``."""
    return f"{float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(value))):g}"


Privacy = Annotated[NoPrivacy | DifferentialPrivacy, Field(discriminator="mechanism")]
"""What bounds how much can be learned of a unit of the records."""


def check_charged(privacy: NoPrivacy | DifferentialPrivacy, training: TrainingFacts | None) -> None:
    """Check that a statement charges for the training that there was.

    Raises:
        ValueError: There was none, it took more steps, or its loss read other units' records.
    """
    if isinstance(privacy, DifferentialPrivacy) and not (
        training is not None and training.steps <= privacy.steps and training.head_sample is None
    ):
        raise ValueError(
            "expected differential privacy of training, charged for all its steps, with a loss "
            "over the whole vocabulary"
        )


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Manifest:
    """The signed description of one organ.

    ``donor`` is the name of the site that claims it; None until a site does, by signing. At most
    one of ``training`` and ``merge`` is there; with neither, these are the base's own layers.
    ``tensors`` are the organ's, whatever form they are stored in.
    """

    format: Literal["organ-exchange/organ/v1"] = FORMAT
    name: Name
    version: Positive
    domain: Line
    licence: Line
    donor: Name | None
    base: BaseFacts
    span: Span
    tensors: Many[TensorFacts]
    stored: Stored = Field(default_factory=StoredLayers)
    training: TrainingFacts | None
    privacy: Privacy
    audit: Digest | None = None
    parents: Many[Digest] = ()
    merge: MergeFacts | None = None

    def __post_init__(self) -> None:
        if self.span.stop > self.base.layers:
            raise ValueError(f"span {self.span} reaches past a base of {self.base.layers} layers")
        if self.compact and (self.training is None or self.training.rank is None):
            raise ValueError("expected factors of an organ that was trained by factors only")
        check_charged(self.privacy, self.training)
        if self.merge is None:
            return
        if self.training is not None:
            raise ValueError("expected training or merge, got both")
        if not 2 <= len(set(self.parents)) == len(self.parents) == len(self.merge.weights):
            raise ValueError("expected two or more different parents, and a weight for each")

    @property
    def compact(self) -> bool:
        """Whether factors are stored, which only its own base expands to its tensors."""
        return isinstance(self.stored, StoredFactors)

    @property
    def trained(self) -> bool:
        """Whether records were used to make it, or an organ that it was made from."""
        return self.training is not None or (self.merge is not None and self.merge.trained)

    @property
    def organ_id(self) -> str:
        """The name that stays the same over versions: ``donor/name``."""
        return f"{self.donor or 'unclaimed'}/{self.name}"

    @property
    def digest(self) -> str:
        """The organ digest."""
        return canonical.digest(self)
