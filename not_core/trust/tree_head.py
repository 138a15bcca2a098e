"""What a coordinator says of its log, what sites say of that, and what the log holds.

The coordinator signs a *tree head*: how many entries its log has, and their root. A site that has
seen an earlier one signs the next only if it continues it; what it signs then, a *cosignature*,
others can ask for. A coordinator that shows two sites two logs must hide from each what the other
has signed, forever. Entries are digests of what sites have signed; they hold no secret.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest, Many, Name
from not_core.errors import LogError
from not_core.manifest import Count
from not_core.trust import merkle
from not_core.trust.certificates import certificate_errors, is_p384
from not_core.trust.holder import Signer
from not_core.trust.profile import Base64, unbase64
from not_core.trust.statement import claimed_payload, signed_by, verify_statement

HEAD_TYPE = "application/vnd.organ-exchange.tree-head.v1+json"
COSIGNATURE_TYPE = "application/vnd.organ-exchange.cosignature.v1+json"
"""DSSE payload types."""

MerklePath = Annotated[Many[Digest], Field(max_length=128)]
"""A proof: hashes of nodes, from the leaf on."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Entry:
    """One entry of a coordinator's log.

    Attributes:
        event: What happened.
        site: Which site it is about.
        exchange: In which exchange; empty where it is in none.
        digest: SHA-256 of the envelope that the site has signed; of an organ that was forgotten,
            its own.
        time: When, in seconds since the epoch.
    """

    format: Literal["organ-exchange/log-entry/v1"] = "organ-exchange/log-entry/v1"
    event: Literal["offered", "received", "forgotten", "admitted", "expelled"]
    site: Name
    exchange: Name | Literal[""]
    digest: Digest
    time: Count


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TreeHead:
    """What a log is at a moment; RFC 9162 has it as a signed tree head.

    Attributes:
        federation: Fingerprint of the federation's root.
        key: The log's public key, ECDSA P-384, SubjectPublicKeyInfo in DER and base64; a log is
            its key.
        size: Its entries.
        root: Their root.
        time: When it was signed, in seconds since the epoch.
    """

    format: Literal["organ-exchange/tree-head/v1"] = "organ-exchange/tree-head/v1"
    federation: Digest
    key: Base64
    size: Count
    root: Digest
    time: Count

    @property
    def log(self) -> str:
        """Fingerprint of the log's key, for people to compare."""
        return canonical.sha256(self.key.encode())


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Cosignature:
    """A site's word that a tree head continues all that it has seen of this log."""

    format: Literal["organ-exchange/cosignature/v1"] = "organ-exchange/cosignature/v1"
    site: Name
    head: TreeHead


def public(key: ec.EllipticCurvePublicKey) -> str:
    """A log's key as tree heads hold it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_bytes(serialization.Encoding.DER, form)).decode()


def sign_head(head: TreeHead, signer: Signer) -> bytes:
    """Sign a tree head with the log's key."""
    return signed_by(signer, canonical.encode(head), HEAD_TYPE)


def verify_head(envelope: bytes, federation: str) -> TreeHead:
    """Read a tree head that is signed with the key which it names: whose that is, nobody says.

    Args:
        envelope: As ``sign_head`` wrote it.
        federation: Fingerprint of the root that it must be for.

    Raises:
        NotError: It is not, or is of another federation's log.
    """
    head = canonical.decode(TreeHead, claimed_payload(envelope), "tree head")
    with certificate_errors("the log's key"):
        key = serialization.load_der_public_key(unbase64(head.key, "the log's key"))
    if not is_p384(key):
        raise LogError("the log's key is not an ECDSA P-384 key; ask the coordinator's operator")
    verify_statement(envelope, HEAD_TYPE, key)
    if head.federation != federation:
        raise LogError("the tree head is of another federation's log; ask for this one's")
    return head


def check_continues(before: TreeHead | None, head: TreeHead, path: Sequence[str]) -> None:
    """Check that a log has only grown.

    Args:
        before: What it was; None where nothing is known of it, and any is believed.
        head: What it is.
        path: The proof.

    Raises:
        LogError: It does not continue what it was.
    """
    if before is None:
        return
    if head.key != before.key:
        raise LogError(
            f"the coordinator's log is {head.log[:16]}, it was {before.log[:16]}: another log, in "
            "which nothing is that was seen before; ask its operator"
        )
    if head.size < before.size:
        raise LogError(
            f"the coordinator's log has {head.size} entries, it had {before.size}: it was cut off, "
            "or put back from an old copy; ask its operator, and compare with other sites"
        )
    roots = bytes.fromhex(before.root), bytes.fromhex(head.root)
    if not merkle.continues(before.size, roots[0], head.size, roots[1], _hashes(path)):
        raise LogError(
            f"the coordinator's log of {head.size} entries does not begin with the {before.size} "
            "that it had: it was rewritten, or is not what other sites see; keep this home, and "
            "compare tree heads with other sites"
        )


def check_includes(head: TreeHead, index: int, entry: Entry, path: Sequence[str]) -> None:
    """Check that a log holds an entry.

    Raises:
        LogError: The path does not prove it.
    """
    root = bytes.fromhex(head.root)
    if not merkle.includes(canonical.encode(entry), index, head.size, _hashes(path), root):
        raise LogError(
            f"no proof that the coordinator's log of {head.size} entries holds entry {index}, "
            f"{entry.event} by {entry.site}; ask its operator to check it"
        )


def _hashes(path: Sequence[str]) -> list[bytes]:
    """A path's hashes as bytes."""
    return [bytes.fromhex(one) for one in path]
