"""Canonical JSON (RFC 8785) for everything that is hashed or signed, and SHA-256 of it.

One value has one encoding, so a digest of the bytes is a digest of the value. Reading refuses
bytes that are not canonical: nobody can give one value two digests.
"""

import hashlib
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import rfc8785
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json

from not_core.errors import FormatError

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="strings")
"""Config of every value that is read from outside: exact types, no unknown fields."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A site's, organ's or exchange's name: lower-case letters, digits and inner hyphens."""

_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160"
    r"\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
"""Unicode's Cc, Cf, Zl, Zp, and what shows nothing; a list, so that no version of it decides."""

Line = Annotated[str, StringConstraints(max_length=200, pattern=f"^[^{_UNSEEN}]*$")]
"""One line of free text; no control characters, nothing that reorders or hides text."""

Many = Annotated[tuple[T, ...], Field(fail_fast=True)]
"""As many as there are. The first that is wrong ends the reading: pydantic else notes each error,
in thousands of bytes, before it says that there was one."""

DEFAULT_LIMIT = 4 * 1024 * 1024
"""Largest document read, in bytes."""
MOST_PARTS = 100_000
"""Of a document that is read: braces and commas. A parsed ``{}`` takes 300 times its bytes."""
FEW_PARTS = 2_000
"""In so many each unknown field may be an error of its own. In more they are passed over when it is
read, and found by its not being canonical."""


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(cls: Any) -> TypeAdapter[Any]:
    if cls not in _adapters:
        _adapters[cls] = TypeAdapter(cls)
    return _adapters[cls]


def encode(value: Any) -> bytes:
    """Serialise a value or plain JSON data as RFC 8785 bytes.

    Raises:
        ValueError: The value holds NaN, infinity or an integer beyond 2**53.

    Source: RFC 8785.
    """
    plain = _adapter(type(value)).dump_python(value, mode="json") if is_dataclass(value) else value
    return rfc8785.dumps(plain)


def decode(cls: type[T], data: bytes, what: str, limit: int = DEFAULT_LIMIT) -> T:
    """Parse canonical bytes into ``cls``.

    Args:
        cls: A pydantic dataclass configured ``STRICT``.
        data: The bytes, exactly as ``encode`` wrote them.
        what: Noun for messages, such as ``"manifest"``.
        limit: Largest size accepted, in bytes.

    Raises:
        FormatError: Too large, not JSON, not canonical, or not of the form of ``cls``. The message
            names fields, never their contents.
    """
    if len(data) > limit:
        raise FormatError(f"{what} has {len(data)} bytes, at most {limit} are read")
    if (parts := data.count(b",") + data.count(b"{")) > MOST_PARTS:
        raise FormatError(f"{what} has {parts} parts, at most {MOST_PARTS} are read")
    try:
        value = _adapter(cls).validate_json(
            data, extra="forbid" if parts <= FEW_PARTS else "ignore"
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(_shown(part) for part in first["loc"]) or "top level"
        raise FormatError(
            f"{what} is not valid at {where}: {first['type'].replace('_', ' ')}; "
            "get an undamaged copy, or one that this version of organ-exchange can read"
        ) from None
    try:
        canonical = encode(value) == data
    except (ValueError, RecursionError):  # a number that RFC 8785 cannot write, or too deep here
        canonical = False
    if not canonical:
        raise FormatError(f"{what} is not canonical JSON (RFC 8785); get the unedited file")
    return cast(T, value)


def _shown(part: int | str) -> str:
    """A step of a path into a document; a key may be hostile text, which no message repeats."""
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_\[\]-]{1,64}", text, re.ASCII) else "(a key)"


def plain(data: bytes, what: str) -> Any:
    """Parse ordinary JSON from a file that others write, such as a model's ``config.json``.

    Raises:
        FormatError: Not JSON in UTF-8, NaN or half a character in it, nested more than 200 deep, or
            an integer of thousands of digits.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:  # its message may quote the data
        raise FormatError(f"{what} is not JSON; get an undamaged copy") from None


def read_bounded(path: Path, limit: int = DEFAULT_LIMIT) -> bytes:
    """Read a file that others write, and never more of it than it may hold.

    Raises:
        FormatError: Larger than ``limit`` bytes, or unreadable.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read ({error.strerror}); expected a regular file of this user's"
        ) from None
    if len(data) > limit:
        raise FormatError(f"{path} has more than {limit} bytes; get the unedited file")
    return data


def sha256(data: bytes) -> str:
    """SHA-256 of bytes in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical bytes."""
    return sha256(encode(value))
