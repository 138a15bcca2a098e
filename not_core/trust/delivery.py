r"""The file ``.organ`` around its encrypted body: header, checks that need no key.

Layout: ``organ-exchange/sealed/v1\n``, header length (4 bytes, big-endian), delivery header in
canonical JSON, body to the end of the file. ``offer`` in the header is the exact text of the
signed envelope; ``wraps`` maps each addressee, as the offer writes it, to the base64 of its wrapped
content key.

Everything but the body is signed, and the body's digest is: whoever carries the file can change
nothing of what it says. A few bytes have another form that holds as well: an ECDSA signature (r, s)
has a twin (r, n - s), in the offer and in the certificate, and a certificate may be exchanged for
another of the same site and key.
"""

import hashlib
import os
import struct
from io import BufferedReader
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest
from not_core.errors import BodyError, FormatError, TooLargeError, TruncatedError, WrapsError
from not_core.trust.federation import Trust
from not_core.trust.offer import MAX_ADDRESSEES, SignedOffer, verify_offer
from not_core.trust.profile import Base64, Profile, unbase64
from not_core.trust.statement import STATEMENT_LIMIT

SEALED_FORMAT: Literal["organ-exchange/sealed/v1"] = "organ-exchange/sealed/v1"
MAGIC = b"organ-exchange/sealed/v1\n"
HEADER_LIMIT = 1024 * 1024
"""Largest delivery header, in bytes."""

WRAP_BYTES = 1168
"""HPKE with MLKEM768-X25519: 1,120 bytes encapsulation, 32 of key, 16 of tag."""

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class DeliveryHeader:
    """What stands before the body; nothing in it is verified by parsing."""

    format: Literal["organ-exchange/sealed/v1"] = SEALED_FORMAT
    offer: Annotated[str, Field(max_length=STATEMENT_LIMIT)]
    profile: Profile
    wraps: Annotated[
        dict[Digest, Base64], Field(min_length=1, max_length=MAX_ADDRESSEES, fail_fast=True)
    ]

    @property
    def envelope(self) -> bytes:
        """The signed offer, exactly as signed."""
        return self.offer.encode()


def write_header(header: DeliveryHeader, file: BinaryIO) -> None:
    """Write magic, length and header.

    Raises:
        FormatError: The header is larger than ``HEADER_LIMIT``.
    """
    data = canonical.encode(header)
    if len(data) > HEADER_LIMIT:
        raise FormatError(
            f"delivery header would have {len(data)} bytes, at most {HEADER_LIMIT} are allowed; "
            "name fewer addressees"
        )
    file.write(MAGIC + _LENGTH.pack(len(data)) + data)


def read_header(file: BinaryIO) -> DeliveryHeader:
    """Read a delivery header from the start of a sealed organ; leaves ``file`` at the body.

    Raises:
        FormatError: Not a sealed organ of this version, too large a header, or damaged.
    """
    start = file.read(len(MAGIC) + _LENGTH.size)
    if MAGIC.startswith(start[: len(MAGIC)]) and len(start) != len(MAGIC) + _LENGTH.size:
        raise TruncatedError(f"sealed organ ends after {len(start)} bytes; get an undamaged copy")
    if not start.startswith(MAGIC):
        raise FormatError(
            "file is not a sealed organ of format v1; get an undamaged copy, or a newer "
            "organ-exchange"
        )
    (length,) = _LENGTH.unpack(start[len(MAGIC) :])
    if length > HEADER_LIMIT:
        raise TooLargeError(
            f"delivery header claims {length} bytes, at most {HEADER_LIMIT} are read; refuse it"
        )
    data = file.read(length)
    if len(data) != length:
        raise TruncatedError(
            f"sealed organ ends inside its header, after {len(data)} of {length} bytes; get an "
            "undamaged copy"
        )
    return canonical.decode(DeliveryHeader, data, "delivery header")


def verify_sealed(
    path: Path, trust: Trust, *, now: float | None = None, exchange: str | None = None
) -> SignedOffer:
    """Check a sealed organ without any private key, as the coordinator does.

    Args:
        path: The ``.organ`` file.
        trust: What is believed.
        now: Seconds since the epoch.
        exchange: The exchange that it must be for; None for any.

    Returns:
        The verified offer, with its donor's profile.

    Raises:
        FormatError: Not a sealed organ, or damaged.
        TruncatedError: It ends too early.
        CertificateError: The donor does not chain to the root, or was revoked.
        SignatureError: The offer is not its donor's.
        OfferError: The offer's dates or audience.
        WrapsError: Wrapped keys that the offer does not name.
        BodyError: A body that the offer does not describe.
    """
    with open_file(path) as file:
        return verify_file(file, trust, now=now, exchange=exchange)[1]


def open_file(path: Path) -> BufferedReader:
    """Open a sealed organ.

    Raises:
        FormatError: Missing, unreadable, or not a regular file.
    """
    if not path.is_file():
        raise FormatError(f"no sealed organ at {path}; check the path")
    try:
        return path.open("rb")
    except OSError as error:
        raise FormatError(
            f"sealed organ {path} cannot be read ({error.strerror}); check its permissions"
        ) from None


def verify_file(
    file: BufferedReader,
    trust: Trust,
    *,
    now: float | None = None,
    exchange: str | None = None,
    lapsed: bool = False,
) -> tuple[DeliveryHeader, SignedOffer]:
    """Do as ``verify_sealed`` on an open file; leaves ``file`` at the body.

    ``lapsed`` is ``verify_offer``'s.
    """
    header, signed = verify_header(file, trust, now=now, exchange=exchange, lapsed=lapsed)
    offer = signed.offer
    start = file.tell()
    size = os.fstat(file.fileno()).st_size - start
    if size < offer.body_bytes:
        raise TruncatedError(
            f"body has {size} bytes, its offer says {offer.body_bytes}; get an undamaged copy"
        )
    if size > offer.body_bytes:
        raise BodyError(
            f"body has {size} bytes, its offer says {offer.body_bytes}; get an undamaged copy"
        )
    if hashlib.file_digest(file, "sha256").hexdigest() != offer.body_sha256:
        raise BodyError("body is not the one that its offer describes; get an undamaged copy")
    file.seek(start)
    return header, signed


def verify_header(
    file: BinaryIO,
    trust: Trust,
    *,
    now: float | None = None,
    exchange: str | None = None,
    lapsed: bool = False,
) -> tuple[DeliveryHeader, SignedOffer]:
    """Do what ``verify_sealed`` does before the body, at which it leaves ``file``.

    ``lapsed`` is ``verify_offer``'s.
    """
    header = read_header(file)
    signed = verify_offer(
        header.envelope, header.profile, trust, now=now, exchange=exchange, lapsed=lapsed
    )
    offer = signed.offer
    if sorted(header.wraps) != list(offer.addressees):
        raise WrapsError(
            f"sealed organ has wraps for other sites than the {len(offer.addressees)} that its "
            "donor named; refuse it"
        )
    if canonical.digest(header.wraps) != offer.wraps_sha256:
        raise WrapsError(
            "sealed organ has other wrapped keys than its donor signed; get an undamaged copy"
        )
    for wrap in header.wraps.values():
        if len(unbase64(wrap, "wrapped key")) != WRAP_BYTES:
            raise FormatError(f"a wrapped key does not have {WRAP_BYTES} bytes; refuse it")
    return header, signed
