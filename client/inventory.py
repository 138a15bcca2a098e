"""What organs a site has: those that it made, those that it took in; and how some are removed."""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client import donor
from client import policy as policies
from client.home import Home, alone
from client.policy import Policy
from client.store import Store
from not_core import canonical
from not_core.errors import HomeError, NotError
from not_core.manifest import TENSORS
from not_core.protocol import Receipt
from not_core.surgery.organ import read_manifest
from not_core.trust.delivery import open_file, read_header
from not_core.trust.offer import peek_offer
from not_core.trust.statement import claimed_payload

FORGOTTEN = "forgotten"
"""Event of the log: the operator had this removed."""

FULL = 0.8
"""Part of the room for deliveries above which an operator is told."""

EXCHANGE = re.compile(r"[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """An organ that this site made.

    Attributes:
        organ: Its digest.
        id: Names of site and organ.
        word: The operator's; ``pending`` where there is none yet, ``unasked`` where the policy
            wants none.
        privacy: What it states.
        bytes: Of its tensors.
        exchanges: Where it was offered.
    """

    organ: str
    id: str
    word: donor.Word
    privacy: str
    bytes: int
    exchanges: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An organ that came to this site.

    Attributes:
        organ: Its digest.
        donor: Who gave it; of one that was not tried, who is said to.
        exchange: In which it came.
        verdict: What a trial found; ``untried``, or ``incomplete`` where not all of it has come.
        gain: By how much perplexity on the site's own records fell, as a fraction; None untried.
        bytes: That are kept of what was delivered.
        opened: Whether it lies open in ``organs/opened``.
    """

    organ: str
    donor: str
    exchange: str
    verdict: Literal["accepted", "rejected", "untried", "incomplete"]
    gain: float | None
    bytes: int
    opened: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is kept of deliveries, and how much may be.

    Attributes:
        files: In ``organs/in``.
        bytes: Of them.
        most_files: That may be there.
        most_bytes: That may be there.
    """

    files: int
    bytes: int
    most_files: int
    most_bytes: int

    @property
    def words(self) -> str:
        """Both, for people."""
        return (
            f"{self.files} of {self.most_files} files, {self.bytes / 2**20:,.0f} of "
            f"{self.most_bytes / 2**20:,.0f} MiB"
        )

    @property
    def full(self) -> bool:
        """Whether deliveries will soon be refused."""
        return self.files > FULL * self.most_files or self.bytes > FULL * self.most_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed: ``what`` it was, the organ that it is of, its size."""

    what: str
    organ: str
    bytes: int


def grown(home: Home) -> list[Grown]:
    """Organs that this site made."""
    found = []
    for folder in home.store.all_made():
        manifest = read_manifest(folder)
        found.append(
            Grown(
                organ=manifest.digest,
                id=manifest.organ_id,
                word=donor.word(home, folder.name),
                privacy=manifest.privacy.words,
                bytes=(folder / TENSORS).stat().st_size,
                exchanges=_exchanges(home.store.offered.whole(folder.name)),
            )
        )
    return found


def taken(home: Home) -> list[Taken]:
    """Organs that came to this site, by exchange: one row a trial, or one for an untried organ."""
    store = home.store
    sizes = {(one.parent.name, one.stem): one.stat().st_size for one in store.delivered.whole()}
    found = []
    for said in receipts(home.folder):
        if said.donor == home.settings.site:
            continue
        found.append(
            Taken(
                organ=said.organ,
                donor=said.donor,
                exchange=said.exchange,
                verdict=said.verdict,
                gain=-said.change,
                bytes=sizes.get((said.exchange, said.organ), 0),
                opened=store.opened(said.organ).is_dir(),
            )
        )
    tried = {(one.exchange, one.organ) for one in found}
    for path in store.delivered.files():
        organ = path.name[:64]
        if (path.parent.name, organ) in tried:
            continue
        found.append(
            Taken(
                organ=organ,
                donor=_donor(path),
                exchange=path.parent.name,
                verdict="untried" if path.suffix == ".organ" else "incomplete",
                gain=None,
                bytes=path.stat().st_size,
                opened=False,
            )
        )
    return sorted(found, key=lambda one: (one.exchange, one.donor, one.organ))


def receipts(folder: Path) -> list[Receipt]:
    """What a site found of organs that it tried, by exchange."""
    found = []
    for path in sorted(folder.glob("receipts/*/*.json")):
        payload = claimed_payload(canonical.read_bounded(path))
        found.append(canonical.decode(Receipt, payload, path.name))
    return found


def stored(folder: Path, policy: Policy) -> Stored:
    """What is kept of deliveries."""
    sizes = [path.stat().st_size for path in Store(folder).delivered.files()]
    return Stored(
        files=len(sizes),
        bytes=sum(sizes),
        most_files=policies.MOST_FILES,
        most_bytes=policy.most_stored_bytes,
    )


def forget(home: Home, exchange: str, *, made: bool = False) -> list[Removed]:
    """Remove what an exchange has left: sealed organs, and opened ones of no other exchange.

    Receipts stay, and so does what this site made: its terms would have to be trained anew, and
    with differential privacy be paid for anew. Of such an organ a last sealed copy stays, too:
    sealed anew it would be another body, which the coordinator would be sent and keep as well.

    Args:
        home: The site's.
        exchange: Its name.
        made: Whether organs that this site made and offered in this exchange alone go, too.

    Raises:
        HomeError: Nothing of it is here, or a task of the site is at work.
    """
    if not EXCHANGE.fullmatch(exchange):
        raise HomeError("no name of an exchange; see 'organ-site organs'")
    with alone(home.folder):
        return list(_forget(home, exchange, made))


def own(home: Home) -> set[str]:
    """Digests of organs that this site made and of which anything is here."""
    store = home.store
    found = {one.name for one in store.all_made()} | {one.stem for one in store.offered.whole()}
    return found | donor.made_organs(home.folder).keys()


def forget_organ(home: Home, organ: str) -> list[Removed]:
    """Remove an organ that this site made: sealed copies, notes, and itself.

    Args:
        home: The site's.
        organ: Its digest, one of ``own``.

    Raises:
        HomeError: It waits for the operator, or a task of the site is at work.
    """
    with alone(home.folder):
        return list(_forget_organ(home, organ))


def _forget(home: Home, exchange: str, made: bool) -> Iterator[Removed]:
    store = home.store
    came, sent = store.delivered.folder(exchange), store.offered.folder(exchange)
    if not came.is_dir() and not sent.is_dir():
        raise HomeError(f"no organ of exchange {exchange} is kept; see 'organ-site organs'")
    for path in sorted(came.glob("*")):
        organ = path.name[:64]
        opened = store.opened(organ)
        if _exchanges(store.delivered.whole(organ)) == [exchange] and opened.is_dir():
            yield _remove(home, "opened organ", opened, exchange)
        yield _remove(home, "sealed organ", path, exchange)
    for path in sorted(sent.glob("*")):
        organ = path.name[:64]
        if _exchanges(store.offered.whole(organ)) == [exchange]:
            if made and donor.word(home, organ) != "pending":
                yield from _forget_made(home, organ, exchange)
            if store.made(organ).is_dir():
                continue  # the last copy, whose body serves again
        yield _remove(home, "sealed organ", path, exchange)
    _remove_empty(came)
    _remove_empty(sent)


def _forget_organ(home: Home, organ: str) -> Iterator[Removed]:
    if donor.word(home, organ) == "pending":
        raise HomeError(
            f"organ {organ[:12]} waits for approval; 'organ-site reject' it first, then forget it"
        )
    for path in home.store.offered.files():
        if path.name.startswith(organ):
            yield _remove(home, "sealed organ", path, path.parent.name)
            _remove_empty(path.parent)
    yield from _forget_made(home, organ, "")


def _forget_made(home: Home, organ: str, exchange: str) -> Iterator[Removed]:
    for note in donor.notes_of(home.folder, organ):  # which say that it is there whole
        note.unlink()
    folder = home.store.made(organ)
    if folder.is_dir():
        yield _remove(home, "organ", folder, exchange)


def _remove_empty(place: Path) -> None:
    """Remove an exchange's folder that holds nothing, with the request that it was answered by."""
    if place.is_dir() and not any(place.iterdir()):
        place.with_suffix(".json").unlink(missing_ok=True)
        place.rmdir()


def _remove(home: Home, what: str, path: Path, exchange: str) -> Removed:
    """Remove a file or folder; that it goes is in the log before."""
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    size = sum(one.stat().st_size for one in files)
    found = Removed(what=what, organ=path.name[:64], bytes=size)
    home.log.append(FORGOTTEN, what=what, digest=found.organ, size=size, exchange=exchange)
    if path.is_dir():  # nothing of that name may be there in part
        gone = path.with_name(f".{path.name}.{FORGOTTEN}.partial")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(path.rename(gone))
    else:
        path.unlink()
    return found


def _exchanges(paths: Iterable[Path]) -> list[str]:
    return sorted(path.parent.name for path in paths)


def _donor(path: Path) -> str:
    """Who is said to have given what was delivered; nothing where that cannot be read yet."""
    with suppress(NotError, OSError), open_file(path) as file:
        return peek_offer(read_header(file).envelope).donor
    return ""
