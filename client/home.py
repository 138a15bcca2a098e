"""A site's home folder: where everything of a site lies, outside any checkout.

site.toml      model, records, label        identity/  keys, profile, root
policy.toml    what may leave, what to take log.db     hash-chained log
organs/        organs, see store.py         receipts/EXCHANGE   signed receipts
work/          scratch, emptied at will
ledger.db      what each unit of the records was in; its heads are in log.db
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field
from pydantic.dataclasses import dataclass

from client import represented, signing_wire
from client.policy import Policy
from client.store import Store
from not_core import atomic
from not_core.canonical import STRICT, Line, Name
from not_core.errors import HomeError
from not_core.manifest import Positive, Unit
from not_core.privacy.ledger import LEDGER, LOG, Ledger
from not_core.settings import parsed, read
from not_core.trust import keys
from not_core.trust.certificates import DAY
from not_core.trust.federation import Trust, load_trust
from not_core.trust.keys import Identity
from not_core.trust.log import Log
from not_core.trust.passphrase import given
from not_core.trust.profile import Request

SITE, POLICY, IDENTITY = "site.toml", "policy.toml", "identity"
INIT = "organ-site init"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Settings:
    """What a site is and has; the content of ``site.toml``.

    Attributes:
        site: Name in the federation.
        model: Model folder, GGUF file or hub id.
        records: The private records.
        text_field: Field of a record that holds its text.
        unit_field: Field that names whom a record is about: differential privacy then hides all
            records of one subject; empty to hide each record.
        general: Public general text, to measure forgetting.
        domain: What the records are about, in public words.
        donates: Whether the site gives organs.
        organ_name: Name of the organ it gives.
        licence: Licence of that organ.
        held_out: Documents kept back from all training, to measure on; about so many units with
            differential privacy.
        device: auto, cpu, cuda or mps.
        threads: CPU threads; 0 for torch's choice.
    """

    site: Name
    model: str
    records: str
    general: str
    domain: Line
    text_field: str = "text"
    unit_field: str = ""
    donates: bool = True
    organ_name: Name = "organ"
    licence: Line = "unspecified"
    held_out: Positive = 20
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


@plain_dataclass(frozen=True, slots=True)
class Home:
    """A site's home as its operator reads it and decides; no private key is loaded."""

    folder: Path
    settings: Settings
    policy: Policy
    log: Log

    @property
    def unit(self) -> Unit | None:
        """What differential privacy hides here; None where organs are trained without."""
        if self.policy.bound is None:
            return None
        return "subject" if self.settings.unit_field else "record"

    @property
    def ledger(self) -> Ledger:
        """The privacy ledger of this site's records; its witness is the site's log."""
        return Ledger(self.folder / LEDGER, self.log)

    @property
    def spent(self) -> float | None:
        """Epsilon of all organs together so far; None without differential privacy."""
        bound = self.policy.bound
        return None if bound is None else self.ledger.spent(bound.delta).all

    @property
    def store(self) -> Store:
        """Where its organs lie."""
        return Store(self.folder)

    def place(self, *parts: str | Path) -> Path:
        """A path in the home, which is its owner's only; its parent is made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path


@plain_dataclass(frozen=True, slots=True)
class Site(Home):
    """A site that is ready to take part."""

    identity: Identity

    @property
    def trust(self) -> Trust:
        """The federation that this site was installed with, and whom it has expelled since."""
        return self.identity.trust


def create(
    folder: Path,
    settings: Settings,
    policy: Policy,
    *,
    passphrase: bytes | None = None,
    token: str | None = None,
) -> Request:
    """Make a home with new keys and a request for admission in ``identity/request.json``.

    Args:
        folder: New folder.
        settings: What the site is.
        policy: What it allows.
        passphrase: Encrypts the keys when given.
        token: URI of a signing key on a token.

    Returns:
        The request.

    Raises:
        OutputExistsError: ``folder`` is taken.
    """
    with atomic.folder(folder, mode=0o700) as work:
        for name, values in ((SITE, settings), (POLICY, policy)):
            table = {key: value for key, value in asdict(values).items() if value is not None}
            (work / name).write_text(tomli_w.dumps(table), encoding="utf-8")
        request = keys.create(work / IDENTITY, settings.site, passphrase=passphrase, token=token)
        Log(work / LOG).append("created", what="home")
    return request


def read_home(folder: Path) -> Home:
    """Read a home without its keys; its site may not be admitted yet.

    Raises:
        HomeError: Not a site's home, or its settings are not valid.
    """
    settings, policy = settings_of(folder)
    if not (folder / LOG).is_file():
        raise HomeError(f"no log in {folder}; expected a site's home, or put back its newest copy")
    return Home(folder, settings, policy, Log(folder / LOG))


def load(folder: Path, *, passphrase: bytes | None = None) -> Site:
    """Load the home of an admitted site.

    Where the environment names a signing agent no key is read: the agent uses the keys.

    Args:
        folder: The home.
        passphrase: Of the keys; None for what the environment names, if they need one.

    Raises:
        HomeError: Not a site's home, or its settings are not valid.
        KeyFileError: The keys are missing, too open, or not admitted yet.
        CertificateError: The profile is for other keys.
        FormatError: The profile is damaged.
    """
    settings, policy = settings_of(folder)
    _sweep(folder)
    agent = os.environ.get(signing_wire.VARIABLE)
    if agent:
        identity = represented.load(folder / IDENTITY, Path(agent))
    else:
        words = given() if passphrase is None else passphrase
        identity = keys.load(folder / IDENTITY, passphrase=words)
    identity = replace(identity, trust=replace(identity.trust, grace=policy.revocation_grace))
    if identity.site != settings.site:
        raise HomeError(
            f"{folder / SITE} names {settings.site}, the keys belong to {identity.site}; "
            "use one home for each site"
        )
    return Site(folder, settings, policy, Log(folder / LOG), identity)


def informed(site: Site) -> Site:
    """A site as it is by now: a new revocation list may have come while it was at work.

    Raises:
        CertificateError: As ``load``.
    """
    trust = load_trust(site.identity.folder, grace=site.trust.grace)
    return replace(site, identity=replace(site.identity, trust=trust))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a site's home while no task of it is at work.

    Raises:
        HomeError: One is.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(atomic.locked(folder, wait=False))
        except BlockingIOError:
            raise HomeError(
                f"a task of the site is at work in {folder}; wait until it is done (organ-site "
                "status), or stop the site first"
            ) from None
        yield


def _sweep(folder: Path) -> None:
    """Remove what a process that died left unfinished: it may hold an organ in the clear.

    Work of another process that still runs is younger than a day and left alone.
    """
    oldest = time.time() - DAY
    for path in Store(folder).unfinished():
        if path.lstat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def settings_of(folder: Path) -> tuple[Settings, Policy]:
    """Read ``site.toml`` and ``policy.toml``.

    Raises:
        HomeError: Missing or not valid.
    """
    return read(folder / SITE, Settings, INIT), policy_of(folder)


def policy_of(folder: Path) -> Policy:
    """Read ``policy.toml``.

    Raises:
        HomeError: Missing or not valid.
    """
    return read(folder / POLICY, Policy, INIT)


def settings(table: dict[str, Any]) -> Settings:
    """Settings from plain data.

    Raises:
        HomeError: A value is missing or not valid.
    """
    return parsed(table, Settings, SITE)


def policy(table: dict[str, Any]) -> Policy:
    """A policy from plain data; what is None is as if it were absent.

    Raises:
        HomeError: A value is not valid.
    """
    return parsed({key: one for key, one in table.items() if one is not None}, Policy, POLICY)
