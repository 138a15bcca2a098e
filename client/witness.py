"""A site as a witness of the coordinator's log: it signs what continues what it has seen.

``heads/`` keeps each request that was believed, with its proofs, so that all can be checked again
without a network, and one that was not, as evidence. The first tree head that comes is believed:
its log's fingerprint is for people to compare.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from client.home import IDENTITY, Home, Site
from client.policy import check_heads
from not_core import atomic, canonical
from not_core.errors import LogError, NotError, PolicyError
from not_core.protocol import Cosigned, Witnessed, WitnessRequest
from not_core.trust.delivery import open_file, read_header
from not_core.trust.federation import Trust, load_trust, verify_profile
from not_core.trust.offer import peek_offer
from not_core.trust.statement import sign_statement, verify_statement
from not_core.trust.tree_head import (
    COSIGNATURE_TYPE,
    Cosignature,
    TreeHead,
    check_continues,
    check_includes,
    verify_head,
)
from not_core.verbs.trust import BY_HAND

HEADS, REFUSED, FULL = "heads", "refused", "full"
LIMIT = 64 * 1024 * 1024
"""Largest request read, in bytes."""

RESERVE = 16 * 1024 * 1024
"""Room for evidence, in bytes, beside what the policy allows for heads; half is for bare heads."""

ASIDE = "set aside"

_Said = tuple[str, str, str, str]
"""Event, site, exchange and digest of an entry of the coordinator's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a coordinator has shown of its log, checked again.

    Attributes:
        head: The latest tree head.
        heads: How many there were, each continuing the one before.
        entries: How many entries were proven to be in it; one that says anything else of what this
            site signed than it did is another entry.
        witnesses: Sites that have signed a tree head which one of these continues.
        missing: What this site has signed or was given, and no proof covers: it never came to the
            coordinator whole, or the log does not show it.
        unseen: Exchanges of which this site holds such things, and no tree head.
        unreadable: Files in ``organs`` in which nothing can be looked up.
        refused: How many tree heads this site did not believe.
        full: Whether it had no room for the last that came.
    """

    head: TreeHead
    heads: int
    entries: int
    witnesses: tuple[str, ...]
    missing: tuple[str, ...]
    unseen: tuple[str, ...]
    unreadable: tuple[str, ...]
    refused: int
    full: bool

    @property
    def wrong(self) -> str:
        """What is wrong or not proven, and what to do; empty where nothing is."""
        found = []
        if self.refused:
            found.append(
                f"{self.refused} tree heads of the coordinator were not believed; they lie in "
                f"{HEADS}/{REFUSED} of this home: show them to the federation"
            )
        if self.full:
            found.append(
                "the last tree heads were not kept, for want of room; ask the coordinator's "
                "operator why they are so many, or raise most_heads_bytes in policy.toml"
            )
        if self.missing:
            found.append(
                "no proof that the coordinator's log holds what this site signed or was given: "
                f"{'; '.join(self.missing)}; if the exchange has ended, ask its operator"
            )
        if self.unseen:
            found.append(_never_shown(self.unseen))
        return "; ".join(found)


def witness(site: Site, request: WitnessRequest, body: bytes) -> tuple[Witnessed, bytes]:
    """Sign a tree head that continues the one before; keep what proves it.

    Raises:
        LogError: It does not, or other sites were shown another log; that is kept as evidence.
        PolicyError: The site keeps no more of them.
        NotError: It is not signed by the log's key.
    """
    before = latest(site.folder, site.trust)
    # What nobody vouches for proves nothing, and takes room.
    request = replace(request, cosigned=tuple(one for one, _ in _cosigned(request, site.trust)))
    try:
        if _asks_again(site, request, before):
            return Witnessed(size=before.size if before else 0, envelope=""), b""
        head = check(before, request, site.trust)
    except LogError:
        _keep_evidence(site, request)
        raise
    evidence = canonical.encode(request)
    full = site.place(HEADS, FULL)
    try:
        check_heads(site.policy, _bytes(site.folder.glob(f"{HEADS}/*.json")) + len(evidence))
    except PolicyError:
        full.touch(mode=0o600)
        raise
    number = 1 + max((int(path.stem) for path in _kept(site.folder)), default=0)
    kept = site.place(HEADS, f"{number:06}.json")
    atomic.write(kept, evidence, mode=0o600)
    full.unlink(missing_ok=True)
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
    for logged in request.logged:
        check_includes(head, logged.index, logged.entry, logged.path)
    for one, seen in _cosigned(request, trust):
        try:
            check_continues(seen.head, head, one.path)
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
        What was shown; None where nothing was, and nothing had to be.

    Raises:
        LogError: One does not continue the one before, or none came of exchanges that this site was
            in.
        NotError: One is not signed by the log's key, or its file is damaged.
    """
    trust = load_trust(home.folder / IDENTITY)
    shown: set[str] = set()
    proven: set[_Said] = set()
    witnesses: set[str] = set()
    heads: list[TreeHead] = []
    for path in _kept(home.folder):
        request = _read(path)
        heads.append(check(heads[-1] if heads else None, request, trust))
        entries = (one.entry for one in request.logged)
        proven.update((one.event, one.site, one.exchange, one.digest) for one in entries)
        witnesses.update(seen.site for _, seen in _cosigned(request, trust))
        shown.add(request.exchange)
    missing, unseen, unreadable = [], set(), []
    settled = _settled(home) - shown
    for path, what, said in _expected(home):
        exchange = path.parent.name
        if said is None:
            unreadable.append(str(path.relative_to(home.folder)))
        elif said in proven or exchange in settled:
            continue
        elif exchange in shown:
            missing.append(f"{what} in exchange {exchange}")
        else:
            unseen.add(exchange)
    if not heads:
        if unseen:
            raise LogError(_never_shown(sorted(unseen)))
        return None
    return Shown(
        head=heads[-1],
        heads=len(heads),
        entries=len(proven),
        witnesses=tuple(sorted(witnesses)),
        missing=tuple(missing),
        unseen=tuple(sorted(unseen)),
        unreadable=tuple(unreadable),
        refused=len(list((home.folder / HEADS / REFUSED).glob("*.json"))),
        full=(home.folder / HEADS / FULL).exists(),
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
    home.log.append(ASIDE, what="coordinator's log")
    heads.rename(aside)
    return aside


def _asks_again(site: Site, request: WitnessRequest, before: TreeHead | None) -> bool:
    """Whether a tree head cannot be judged as shown, so that the coordinator is to show it anew.

    It is proven from another than the one before; or it is no younger than that and smaller: of two
    exchanges at once, either may be heard first.

    Raises:
        LogError: It is older, and contradicts what this site has signed.
        NotError: It is not signed by the log's key.
    """
    if before is None:
        return request.since != 0
    head = verify_head(request.head.encode(), site.trust.fingerprint)
    if head.key != before.key:
        return False
    if head.size >= before.size:
        return request.since != before.size
    if head.time > before.time:
        return False
    for path in _kept(site.folder):
        seen = _head(path, site.trust)
        if seen.size in (request.since, head.size):
            check_continues(seen, head, request.path if seen.size == request.since else ())
    return True


def _keep_evidence(site: Site, request: WitnessRequest) -> None:
    """Keep a request that was not believed; of a large one, the tree head and its proof alone."""
    held = _bytes(site.folder.glob(f"{HEADS}/{REFUSED}/*.json"))
    bare = replace(request, logged=(), cosigned=())
    for one, room in ((request, RESERVE // 2), (bare, RESERVE)):
        evidence = canonical.encode(one)
        if held + len(evidence) <= room:
            kept = site.place(HEADS, REFUSED, f"{canonical.sha256(evidence)[:16]}.json")
            atomic.write(kept, evidence, mode=0o600)
            return


def _cosigned(request: WitnessRequest, trust: Trust) -> Iterator[tuple[Cosigned, Cosignature]]:
    """What other sites have signed; one that was expelled since, or has other keys, says nothing.

    Whoever shows it could have left it out as well.
    """
    for one in dict.fromkeys(request.cosigned):
        with suppress(NotError):
            key = verify_profile(one.profile, trust)
            payload = verify_statement(one.envelope.encode(), COSIGNATURE_TYPE, key)
            seen = canonical.decode(Cosignature, payload, "cosignature")
            if seen.site == one.profile.site:
                yield one, seen


def _expected(home: Home) -> Iterator[tuple[Path, str, _Said | None]]:
    """What this site has signed, or was given: its file, what it is, and the entry on it.

    Who delivers has not been verified, nor what: no entry, where it cannot be read.
    """
    for path in [*home.store.offered.whole(), *home.store.delivered.whole()]:
        said = None
        with suppress(NotError), open_file(path) as file:
            envelope = read_header(file).envelope
            donor = peek_offer(envelope).donor
            said = ("offered", donor, path.parent.name, canonical.sha256(envelope))
        if path.parent.name != BY_HAND:
            yield path, f"offer of organ {path.stem[:12]}", said
    for path in sorted(home.folder.glob("receipts/*/*.json")):
        digest = canonical.sha256(canonical.read_bounded(path))
        if path.parent.name != BY_HAND:
            said = ("received", home.settings.site, path.parent.name, digest)
            yield path, f"receipt on organ {path.name[:12]}", said


def _settled(home: Home) -> set[str]:
    """Exchanges in which nothing was done here since the coordinator's log was set aside."""
    entries = home.log.entries()
    start = max((at for at, one in enumerate(entries) if one.event == ASIDE), default=0)
    return {one.exchange for one in entries[:start]} - {one.exchange for one in entries[start:]}


def _never_shown(exchanges: Iterable[str]) -> str:
    return (
        "no tree head has come of exchanges whose offers or receipts this site holds: "
        f"{', '.join(exchanges)}; they are under way, have never ended, were carried by hand, or "
        "are hidden: of one that has ended, ask the coordinator's operator"
    )


def _bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _kept(folder: Path) -> list[Path]:
    return sorted((folder / HEADS).glob("*.json"))


def _head(path: Path, trust: Trust) -> TreeHead:
    return verify_head(_read(path).head.encode(), trust.fingerprint)


def _read(path: Path) -> WitnessRequest:
    data = canonical.read_bounded(path, LIMIT)
    return canonical.decode(WitnessRequest, data, path.name, LIMIT)
