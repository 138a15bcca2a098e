"""Who uses a site's private keys for it: this process, which holds them, or a signing agent.

What signs or opens anything for a site does so by a ``Signer`` and ``Openers`` of its ``Identity``,
and cannot tell which it is. A signer is given what a statement is and says, never a bare digest:
one that answers to somebody else's rules must be able to read what it signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from securesystemslib.dsse import Envelope

from not_core.errors import UnsealError
from not_core.trust.profile import Profile

SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Signer(Protocol):
    """Signs statements as one site."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """What verifies its signatures."""

    def sign(self, payload: bytes, payload_type: str, addressees: Sequence[Profile]) -> bytes:
        """Sign a payload of a type, with ECDSA and SHA-384 over DSSE's encoding of both.

        Args:
            payload: What is said.
            payload_type: What it is.
            addressees: Whose keys an offer names by their fingerprints; empty for all else.

        Returns:
            The signature in DER.
        """


class Opener(Protocol):
    """Opens what is wrapped for one sealing key."""

    def open(self, wrapped: bytes, info: bytes) -> bytes:
        """The content key.

        Raises:
            UnsealError: It is not wrapped for this key, with this ``info``.
        """


@dataclass(frozen=True, slots=True)
class HeldSigner:
    """A signing key that this process holds, or that is on a token it can use."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """As ``Signer``."""
        return self.private.public_key()

    def sign(self, payload: bytes, payload_type: str, addressees: Sequence[Profile]) -> bytes:
        """As ``Signer``; whatever it is."""
        encoded = Envelope(payload, payload_type, {}).pae()
        return self.private.sign(encoded, ec.ECDSA(hashes.SHA384()))


@dataclass(frozen=True, slots=True)
class HeldOpener:
    """A sealing key that this process holds."""

    private: MLKEM768X25519PrivateKey = field(repr=False)

    def open(self, wrapped: bytes, info: bytes) -> bytes:
        """As ``Opener``."""
        try:
            return SUITE.decrypt(wrapped, self.private, info=info)
        except (InvalidTag, ValueError):
            raise UnsealError("the wrapped key does not open; get an undamaged copy") from None
