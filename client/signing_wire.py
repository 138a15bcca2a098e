"""What a site's processes say to its signing agent: one request and one answer a connection.

Each is canonical JSON. The socket lies in a folder that is its owner's alone; how the agent knows
who is on the other end, and how much it reads, stands in ``signing_agent``.
"""

import base64
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core.canonical import STRICT, Digest, Line, Many, Name
from not_core.trust.offer import MAX_ADDRESSEES
from not_core.trust.profile import Base64, Profile, unbase64
from not_core.trust.statement import STATEMENT_LIMIT

SOCKET = "run/signing/socket"
VARIABLE = "ORGAN_SIGNING_AGENT"
"""Environment variable that names the socket to a process that is to hold no key."""

REQUEST_LIMIT = 4 * 1024 * 1024
"""Largest request, in bytes: an offer to as many as one can name, with all their profiles."""

ANSWER_LIMIT = 64 * 1024

_Payload = Annotated[str, Field(max_length=STATEMENT_LIMIT, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Sign:
    """Asks for a signature; arguments of ``holder.Signer.sign``, the payload in base64."""

    payload: _Payload
    payload_type: Line
    addressees: Annotated[Many[Profile], Field(max_length=MAX_ADDRESSEES)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Open:
    """Asks for a content key: what is wrapped, in base64, for a sealing key of the site."""

    fingerprint: Digest
    wrapped: Base64
    info: Digest


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Ask:
    """A request: one of both."""

    sign: Sign | None = None
    open: Open | None = None

    def __post_init__(self) -> None:
        if (self.sign is None) == (self.open is None):
            raise ValueError("expected to sign or to open")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Answer:
    """A signature or a content key in base64; or the code of what refuses it, and why."""

    data: Base64 = ""
    code: Name | None = None
    reason: Annotated[str, Field(max_length=4096)] = ""

    @property
    def raw(self) -> bytes:
        """The bytes of ``data``."""
        return unbase64(self.data, "answer of the signing agent")


def text(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode()


def socket_of(home: Path) -> Path:
    """Where the agent of a home listens."""
    return home / SOCKET
