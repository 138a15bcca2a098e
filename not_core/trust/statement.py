"""Signed statements: one payload, one ECDSA P-384 signature, in a canonical DSSE envelope.

Offers and receipts travel in these. The envelope's key id is the one that securesystemslib
computes from the public key, and must be right; it selects nothing, the verifier names the key.
"""

from collections.abc import Sequence
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field
from pydantic.dataclasses import dataclass
from securesystemslib.dsse import Envelope as LibraryEnvelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # exported without __all__
    Signature,
    SSlibKey,
)

from not_core import canonical
from not_core.canonical import STRICT, Digest, Line, Many
from not_core.errors import FormatError, SignatureError
from not_core.trust.holder import Signer
from not_core.trust.keys import Identity
from not_core.trust.profile import Profile, unbase64

STATEMENT_LIMIT = 512 * 1024
"""Largest envelope read or written, in bytes."""

_Text = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=STATEMENT_LIMIT)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class _Signature:
    keyid: Digest
    sig: Annotated[_Text, Field(max_length=256)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Envelope:
    """A DSSE envelope with one signature; names are DSSE's."""

    payload: _Text
    payloadType: Line  # noqa: N815 - the name is DSSE's
    signatures: Annotated[Many[_Signature], Field(min_length=1, max_length=1)]


def sign_statement(
    payload: bytes, payload_type: str, identity: Identity, addressees: Sequence[Profile] = ()
) -> bytes:
    """Sign a payload as a site; see ``signed_by``."""
    return signed_by(identity.signing_key, payload, payload_type, addressees)


def signed_by(
    signer: Signer, payload: bytes, payload_type: str, addressees: Sequence[Profile] = ()
) -> bytes:
    """Sign a payload.

    Args:
        signer: Who signs.
        payload: Any bytes; in this project canonical JSON.
        payload_type: What the payload is; covered by the signature.
        addressees: Whose keys an offer names by their fingerprints; empty for all else.

    Returns:
        The envelope in canonical JSON.

    Raises:
        FormatError: The envelope would be larger than ``STATEMENT_LIMIT``.
        SigningError: The site's signing agent does not sign it.

    Source: DSSE v1.0.2, github.com/secure-systems-lab/dsse.
    """
    public = SSlibKey.from_crypto(signer.public_key())
    signature = signer.sign(payload, payload_type, addressees)
    signed = {public.keyid: Signature(public.keyid, signature.hex())}
    envelope = LibraryEnvelope(payload, payload_type, signed)
    data = canonical.encode(envelope.to_dict())
    if len(data) > STATEMENT_LIMIT:
        raise FormatError(
            f"signed statement would have {len(data)} bytes, at most {STATEMENT_LIMIT} are "
            "allowed; name fewer addressees"
        )
    return data


def verify_statement(
    envelope: bytes, payload_type: str, public_key: ec.EllipticCurvePublicKey
) -> bytes:
    """Check a signed statement and return its payload.

    Args:
        envelope: As ``sign_statement`` wrote it.
        payload_type: The type that is expected here.
        public_key: The one key that may have signed.

    Raises:
        FormatError: Not a canonical envelope with exactly one signature.
        SignatureError: Another type, another key, or changed.
    """
    parsed = canonical.decode(Envelope, envelope, "signed statement", STATEMENT_LIMIT)
    unbase64(parsed.payload, "payload of the signed statement")
    unbase64(parsed.signatures[0].sig, "signature of the signed statement")
    if parsed.payloadType != payload_type:
        raise SignatureError(
            f"signed statement is of type {parsed.payloadType}, expected {payload_type}"
        )
    key = SSlibKey.from_crypto(public_key)
    try:
        checked = LibraryEnvelope.from_dict(
            {
                "payload": parsed.payload,
                "payloadType": parsed.payloadType,
                "signatures": [
                    {"keyid": parsed.signatures[0].keyid, "sig": parsed.signatures[0].sig}
                ],
            }
        )
        checked.verify([key], 1)
    except UnverifiedSignatureError:
        raise SignatureError(
            "signed statement was not signed by the expected key, or was changed since; get it "
            "again from its signer"
        ) from None
    return checked.payload


def claimed_payload(envelope: bytes) -> bytes:
    """The payload of a statement, believed by nobody yet.

    Raises:
        FormatError: Not a canonical envelope.
    """
    parsed = canonical.decode(Envelope, envelope, "signed statement", STATEMENT_LIMIT)
    return unbase64(parsed.payload, "payload of the signed statement")
