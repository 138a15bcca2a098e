"""A site as a witness of the coordinator's log: it signs what continues what it has seen.

``heads/`` keeps each request that was believed, with its proofs, so that all can be checked again
without a network, and one that was not, as evidence. The first tree head that comes is believed:
its log's fingerprint is for people to compare.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from client.home import IDENTITY, Home, Site
from client.policy import check_heads
from not_core import atomic, canonical
from not_core.errors import LogError, NotError
from not_core.protocol import Witnessed, WitnessRequest
from not_core.trust.delivery import open_file, read_header
from not_core.trust.federation import Trust, load_trust, verify_profile
from not_core.trust.statement import sign_statement, verify_statement
from not_core.trust.tree_head import (
    COSIGNATURE_TYPE,
    Cosignature,
    MerklePath,
    TreeHead,
    check_continues,
    check_includes,
    verify_head,
)

HEADS, REFUSED = "heads", "refused"
LIMIT = 64 * 1024 * 1024
"""Largest request read, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a coordinator has shown of its log, checked again.

    Attributes:
        head: The latest tree head.
        heads: How many there were, each continuing the one before.
        entries: How many entries were proven to be in it.
        witnesses: Sites that have signed a tree head which one of these continues.
        missing: What this site has signed or was given, and no proof covers: it never came to the
            coordinator whole, or the log does not show it.
        refused: How many tree heads this site did not believe.
    """

    head: TreeHead
    heads: int
    entries: int
    witnesses: tuple[str, ...]
    missing: tuple[str, ...]
    refused: int

    @property
    def wrong(self) -> str:
        """What is wrong, and what to do; empty where nothing is."""
        if self.refused:
            return (
                f"{self.refused} tree heads of the coordinator were not believed; they lie in "
                f"{HEADS}/{REFUSED} of this home: show them to the federation"
            )
        if self.missing:
            return (
                "no proof that the coordinator's log holds what this site signed or was given: "
                f"{'; '.join(self.missing)}; if the exchange has ended, ask its operator"
            )
        return ""


def witness(site: Site, request: WitnessRequest, body: bytes) -> tuple[Witnessed, bytes]:
    """Sign a tree head that continues the one before; keep what proves it.

    Raises:
        LogError: It does not, or other sites were shown another log; that is kept as evidence.
        PolicyError: The site keeps no more of them.
        NotError: It is not signed by the log's key.
    """
    before = latest(site.folder, site.trust)
    known = 0 if before is None else before.size
    if request.since != known and _claims_growth(request, before, site.trust):
        return Witnessed(size=known, envelope=""), b""
    evidence = canonical.encode(request)
    sizes = [path.stat().st_size for path in site.folder.glob(f"{HEADS}/**/*.json")]
    check_heads(site.policy, sum(sizes) + len(evidence))
    try:
        head = check(before, request, site.trust)
    except LogError:
        kept = site.place(HEADS, REFUSED, f"{canonical.sha256(evidence)[:16]}.json")
        atomic.write(kept, evidence, mode=0o600)
        raise
    number = 1 + max((int(path.stem) for path in _kept(site.folder)), default=0)
    kept = site.place(HEADS, f"{number:06}.json")
    atomic.write(kept, evidence, mode=0o600)
    digest = canonical.sha256(request.head.encode())
    site.log.append("witnessed", what="tree head", digest=digest, exchange=request.exchange)
    said = Cosignature(site=site.settings.site, head=head)
    envelope = sign_statement(canonical.encode(said), COSIGNATURE_TYPE, site.identity)
    return Witnessed(size=head.size, envelope=envelope.decode()), b""


def check(before: TreeHead | None, request: WitnessRequest, trust: Trust) -> TreeHead:
    """Check all that a request shows.

    Args:
        before: The tree head before it; None where there is none.
        request: A stranger's.
        trust: What this site believes.

    Returns:
        The tree head that it shows.

    Raises:
        LogError: It does not continue the one before, or what another site has signed, or does not
            hold what it is said to.
        NotError: It is not signed by the log's key.
    """
    head = verify_head(request.head.encode(), trust.fingerprint)
    check_continues(before, head, request.path)
    for one in request.logged:
        check_includes(head, one.index, one.entry, one.path)
    for seen, path in _cosigned(request, trust):
        try:
            check_continues(seen.head, head, path)
        except LogError as error:
            raise LogError(f"{seen.site} has signed what is not in this log: {error}") from None
    return head


def latest(folder: Path, trust: Trust) -> TreeHead | None:
    """The tree head that this site has signed last; None where there is none.

    Raises:
        NotError: Its file is damaged.
    """
    kept = _kept(folder)
    return _head(kept[-1], trust) if kept else None


def latest_checked(folder: Path, trust: Trust) -> TreeHead:
    """The tree head that came last, after checking that it continues the one before.

    Raises:
        LogError: There is none, or it does not.
        NotError: A file is damaged.
    """
    kept = _kept(folder)
    if not kept:
        raise LogError("no tree head has come to this site")
    before = _head(kept[-2], trust) if kept[1:] else None
    return check(before, _read(kept[-1]), trust)


def verify(home: Home) -> Shown | None:
    """Check all tree heads of this site again, one after the other, and what they hold.

    Returns:
        What was shown; None where nothing was.

    Raises:
        LogError: One does not continue the one before.
        NotError: One is not signed by the log's key, or its file is damaged.
    """
    kept = _kept(home.folder)
    if not kept:
        return None
    trust = load_trust(home.folder / IDENTITY)
    proven: dict[str, set[str]] = {}
    witnesses: set[str] = set()
    heads: list[TreeHead] = []
    for path in kept:
        request = _read(path)
        heads.append(check(heads[-1] if heads else None, request, trust))
        proven.setdefault(request.exchange, set()).update(
            one.entry.digest for one in request.logged
        )
        witnesses.update(seen.site for seen, _ in _cosigned(request, trust))
    missing = [
        f"{what} in exchange {exchange}"
        for exchange, digests in sorted(proven.items())
        for what, digest in _expected(home.folder, exchange)
        if digest not in digests
    ]
    return Shown(
        head=heads[-1],
        heads=len(heads),
        entries=sum(map(len, proven.values())),
        witnesses=tuple(sorted(witnesses)),
        missing=tuple(missing),
        refused=len(list((home.folder / HEADS / REFUSED).glob("*.json"))),
    )


def set_aside(home: Home) -> Path | None:
    """Put away what was seen of a coordinator's log: the next tree head is believed, whose ever.

    Returns:
        Where it is now; None where nothing was seen.
    """
    heads = home.folder / HEADS
    if not heads.is_dir():
        return None
    aside = home.folder / f"{HEADS}.{int(time.time())}"
    home.log.append("set aside", what="coordinator's log")
    heads.rename(aside)
    return aside


def _claims_growth(request: WitnessRequest, before: TreeHead | None, trust: Trust) -> bool:
    """Whether a tree head may continue the one before, by what it says of itself."""
    if before is None:
        return True
    head = verify_head(request.head.encode(), trust.fingerprint)
    return head.key == before.key and head.size >= before.size


def _cosigned(request: WitnessRequest, trust: Trust) -> Iterator[tuple[Cosignature, MerklePath]]:
    """What other sites have signed; one that was expelled since, or has other keys, says nothing.

    Whoever shows it could have left it out as well.
    """
    for one in request.cosigned:
        with suppress(NotError):
            key = verify_profile(one.profile, trust)
            payload = verify_statement(one.envelope.encode(), COSIGNATURE_TYPE, key)
            seen = canonical.decode(Cosignature, payload, "cosignature")
            if seen.site == one.profile.site:
                yield seen, one.path


def _expected(folder: Path, exchange: str) -> Iterator[tuple[str, str]]:
    """What this site has signed, or was given, in an exchange: what it is, and its digest."""
    for sealed in sorted(folder.glob(f"organs/*/{exchange}/*.organ")):
        with open_file(sealed) as file:
            envelope = read_header(file).envelope
        yield f"offer of organ {sealed.stem[:12]}", canonical.sha256(envelope)
    for receipt in sorted(folder.glob(f"receipts/{exchange}/*.json")):
        envelope = canonical.read_bounded(receipt)
        yield f"receipt on organ {receipt.name[:12]}", canonical.sha256(envelope)


def _kept(folder: Path) -> list[Path]:
    return sorted((folder / HEADS).glob("*.json"))


def _head(path: Path, trust: Trust) -> TreeHead:
    return verify_head(_read(path).head.encode(), trust.fingerprint)


def _read(path: Path) -> WitnessRequest:
    data = canonical.read_bounded(path, LIMIT)
    return canonical.decode(WitnessRequest, data, path.name, LIMIT)
