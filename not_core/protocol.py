"""The messages of an exchange: all that client and server know of each other.

A message is a canonical JSON value and, for segments, raw bytes. This is the only module of
``not_core`` that knows Flower: it packs both into a ``RecordDict``, the bytes as an ``Array``,
which travels without numpy.

Flower keeps what a message consists of by digest, and believes whoever names a digest first what is
below it. So each object of a message holds random bytes: nobody else can know its digest.

Every request is idempotent: asked again, a site answers from what it has kept.
"""

import secrets
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest, Line, Many, Name
from not_core.errors import FormatError
from not_core.manifest import Count, Positive, Span
from not_core.trust.profile import Pem, Profile
from not_core.trust.tree_head import Entry, MerklePath

ENROL = "query.enrol"
REVOKE = "query.revoke"
DONATE = "train.donate"
SEGMENT = "query.segment"
DELIVER = "query.deliver"
TRANSPLANT = "evaluate.transplant"
WITNESS = "query.witness"

SEGMENT_BYTES = 16 * 1024 * 1024
"""Bytes of a sealed organ in one message; no process ever holds a whole organ for the wire."""

SALT_BYTES = 16
CHUNK_BYTES = 5 * 1024 * 1024
"""Into pieces of so many bytes Flower cuts an array, each an object of its own."""
_PIECE = CHUNK_BYTES - SALT_BYTES
MOST_VALUE = 16 * 1024 * 1024
"""Of a message beside its body, in bytes."""

ENROLMENT_TYPE = "application/vnd.organ-exchange.enrolment.v1+json"
RECEIPT_TYPE = "application/vnd.organ-exchange.receipt.v1+json"
ADMISSION_TYPE = "application/vnd.organ-exchange.admission.v1+json"
"""DSSE payload types of what sites sign."""

Text = Annotated[str, Field(max_length=256 * 1024)]
Fraction = Annotated[float, Field(allow_inf_nan=False)]
Perplexity = Annotated[float, Field(ge=1, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Refusal:
    """A site's answer when it cannot or will not: a code, and no text.

    The code is one of ``not_core.errors``, or ``internal`` for an error that nobody expected.
    """

    code: Name


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RevokeRequest:
    """Hands a site the federation's revocation list, in PEM, in the body; it believes the root."""

    exchange: Name


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Revoked:
    """Number of the revocation list that the site goes by now; it never goes back."""

    number: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class EnrolRequest:
    """Asks a site who it is; the nonce keeps an old answer from being used again."""

    exchange: Name
    nonce: Digest


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Enrolment:
    """A site's profile and what it offers to do; no number of records."""

    exchange: Name
    nonce: Digest
    profile: Profile
    domain: Line
    donates: bool
    family: Line
    layers: Positive
    base_weights: Digest


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SignedEnrolment:
    """An ``Enrolment`` in an envelope signed by the site: a profile alone is public."""

    envelope: Text


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Admission:
    """A site's word that a Flower node is its own; carried to the coordinator's operator by hand.

    ``node_key`` is the node's public key, ECDSA P-384, SubjectPublicKeyInfo in PEM.
    """

    format: Literal["organ-exchange/admission/v1"] = "organ-exchange/admission/v1"
    profile: Profile
    node_key: Pem


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Terms:
    """What all donors of an exchange train: the same layers for the same number of tokens.

    ``rank`` is that of factors; None trains the layers whole.
    """

    span: Span
    rank: Positive | None
    tokens: Positive
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    seed: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class DonateRequest:
    """Asks a site to train an organ and seal it to the addressees, whom it checks itself."""

    exchange: Name
    terms: Terms
    addressees: Annotated[Many[Profile], Field(max_length=10_000)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Donation:
    """A signed offer of an organ, the size of its sealed file, and what making it took."""

    offer: Text
    sealed_bytes: Positive
    sealed_sha256: Digest
    organ_bytes: Positive
    tokens: Positive
    steps: Positive
    privacy: Line


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SegmentRequest:
    """Asks a donor for bytes of a sealed organ; the reply's body is these bytes."""

    exchange: Name
    organ: Digest
    offset: Count
    length: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Segment:
    """Where the bytes of the message's body belong."""

    organ: Digest
    offset: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class DeliverRequest:
    """Hands a recipient the bytes in the body, which belong at ``offset`` of a sealed organ."""

    exchange: Name
    organ: Digest
    offset: Count
    sealed_bytes: Positive
    sealed_sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Delivered:
    """How many bytes of a sealed organ the recipient holds, from its start."""

    organ: Digest
    held: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TransplantRequest:
    """Asks a site to try an organ and to say what it did; one at a time, so none waits for all."""

    exchange: Name
    organ: Digest
    mode: Literal["replace", "insert"]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Receipt:
    """A recipient's measurements of one organ, rounded, and its verdict.

    Perplexities are token-weighted, over documents that the recipient holds out from all training;
    ``change`` is relative, with its 95% interval over documents. ``general_documents`` says how
    little the general figures may rest on.
    """

    format: Literal["organ-exchange/receipt/v1"] = "organ-exchange/receipt/v1"
    exchange: Name
    organ: Digest
    donor: Name
    recipient: Name
    mode: Literal["replace", "insert"]
    position: Count
    domain_perplexity_before: Perplexity
    domain_perplexity_after: Perplexity
    general_perplexity_before: Perplexity
    general_perplexity_after: Perplexity
    change: Fraction
    interval: tuple[Fraction, Fraction]
    documents: Positive
    general_documents: Positive
    tokens: Positive
    verdict: Literal["accepted", "rejected"]
    reason: Line


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Trial:
    """Reply to a transplant request: the signed receipt."""

    receipt: Text


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Logged:
    """An entry of the coordinator's log, and the proof that a tree head covers it."""

    index: Count
    entry: Entry
    path: MerklePath


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Cosigned:
    """What another site has signed of the log, and the proof that a later tree head continues it.

    ``profile`` verifies ``envelope``, which holds a ``Cosignature``.
    """

    profile: Profile
    envelope: Text
    path: MerklePath


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class WitnessRequest:
    """Asks a site to sign the log's tree head, with all that shows that it may.

    ``path`` proves that the log of ``head`` continues the ``since`` entries that it had when this
    site last signed; ``logged`` that it holds what this site has signed or was given in the
    exchange.
    """

    exchange: Name
    head: Text
    since: Count
    path: MerklePath
    logged: Annotated[Many[Logged], Field(max_length=3_000)]
    cosigned: Annotated[Many[Cosigned], Field(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Witnessed:
    """A site's ``Cosignature`` in its envelope.

    Empty, where the site has last signed ``size`` entries, and not as many as were asked for.
    """

    size: Count
    envelope: Text


Reply = TypeVar("Reply")


@plain_dataclass(frozen=True, slots=True)
class Packet:
    """A message's value as bytes, the name of its type, and its body."""

    kind: str
    value: bytes
    body: bytes


def pack(value: object, body: bytes = b"") -> RecordDict:
    """Put a value and a body into a Flower message."""
    return RecordDict(
        {
            "kind": ConfigRecord(
                {"name": type(value).__name__, "salt": secrets.token_bytes(SALT_BYTES)}
            ),
            "content": ArrayRecord(
                {"value": _array(canonical.encode(value)), "body": _array(body)}
            ),
        }
    )


def unpack(content: RecordDict) -> Packet:
    """Take a message apart.

    Raises:
        FormatError: It was not made by ``pack``.
    """
    try:
        kind = content.config_records["kind"]["name"]
        arrays = content.array_records["content"]
        value, body = _bytes(arrays["value"]), _bytes(arrays["body"])
    except KeyError as error:
        raise FormatError(f"a message without {error}; expected one of this protocol") from None
    if not isinstance(kind, str):
        raise FormatError("a message whose kind is not text; expected one of this protocol")
    return Packet(kind, value, body)


def read(packet: Packet, cls: type[Reply]) -> Reply:
    """Read a packet's value as ``cls``.

    Raises:
        FormatError: It is of another kind or malformed.
    """
    if packet.kind != cls.__name__:
        raise FormatError(f"a message of kind {packet.kind[:40]!r}, expected {cls.__name__}")
    return canonical.decode(cls, packet.value, cls.__name__, limit=MOST_VALUE)


def _array(data: bytes) -> Array:
    carried = b"".join(
        part
        for start in range(0, max(len(data), 1), _PIECE)
        for part in (secrets.token_bytes(SALT_BYTES), data[start : start + _PIECE])
    )
    return Array("uint8", (len(carried),), "organ.bytes", carried)


def _bytes(array: Array) -> bytes:
    data = array.data
    starts = range(0, len(data), CHUNK_BYTES)
    return b"".join(data[start + SALT_BYTES : start + CHUNK_BYTES] for start in starts)
