"""The coordinator's home folder: root certificate, settings, catalogue, bank, incoming parts.

    root.pem, federation.crl  the federation, to refuse strangers and the expelled; public
    coordinator.toml          where catalogue and bank are, how much is kept, how long is waited
    catalogue.db   sites, offers with their headers, receipts, steps; here, or in another database
    bank/          sealed bodies by digest; here, or in another store
    incoming/      sealed bodies still on their way
    log.key        signs what is said of the log
No other key lies here: nothing in this home can open what is stored in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field
from pydantic.dataclasses import dataclass
from sqlalchemy import URL

from not_core import atomic
from not_core.canonical import STRICT
from not_core.errors import CatalogueError, HomeError
from not_core.manifest import Positive
from not_core.settings import read
from not_core.trust.federation import ROOT, Trust, load_trust
from not_core.trust.holder import HeldSigner, Signer
from not_core.trust.keyfile import read_secret, write_secret
from not_core.trust.offer import Offer
from not_core.trust.private_keys import read_signing_key, signing_key_pem
from not_core.trust.revocation import LIST
from server import database
from server.bank import Bank, is_url, make_bank, open_bank
from server.catalogue import Catalogue, Quotas

SETTINGS, LOG_KEY = "coordinator.toml", "log.key"
CATALOGUE, BANK, INCOMING = "catalogue.db", "bank", "incoming"


MOST_SECONDS = 366 * 86_400.0
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Limits:
    """How long a run of an exchange waits; the table ``limits`` of ``coordinator.toml``.

    Attributes:
        join_seconds: For as many sites as it was asked for with, once two are there.
        enrol_seconds: For more enrolments, once there are two and a donor; who is later takes part
            in a second pass.
        step_seconds: For a donation, or a trial.
        wire_seconds: For the answer to any other message. When nothing has happened for so long,
            those that have answered all sign the log, and no longer wait for the others.
        patience_seconds: While a site that is away, or died over a request, is asked again; 0 for
            never.
    """

    join_seconds: Seconds = 120
    enrol_seconds: Seconds = 60
    step_seconds: Seconds = 6 * 3600
    wire_seconds: Seconds = 600
    patience_seconds: Annotated[float, Field(ge=0, le=MOST_SECONDS)] = 300


IN_PROCESS = Limits(enrol_seconds=MOST_SECONDS, patience_seconds=0)
"""Where a site that does not answer will not come back either."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Settings:
    """Where a coordinator keeps what it keeps, and how much; the content of ``coordinator.toml``.

    Attributes:
        catalogue: URL of its database, without a password; empty for SQLite in the home.
        password_file: File with the database's password, mode 0600; empty for none.
        bank: Folder, or URL that fsspec knows, for sealed bodies.
        most_site_bytes: Of sealed bodies that are kept of one site.
        most_organs: In one exchange.
        limits: How long exchanges wait.
    """

    catalogue: str = ""
    password_file: str = ""
    bank: str = BANK
    most_site_bytes: Positive = 256 * 2**30
    most_organs: Positive = 1000
    limits: Limits = Limits()

    @property
    def quotas(self) -> Quotas:
        """What the catalogue holds sites and exchanges to."""
        return Quotas(site_bytes=self.most_site_bytes, exchange_organs=self.most_organs)


@plain_dataclass(frozen=True, slots=True)
class Coordinator:
    """A coordinator that is ready to run exchanges."""

    folder: Path
    trust: Trust
    catalogue: Catalogue
    bank: Bank
    settings: Settings
    log_key: Signer

    def incoming(self, exchange: str, offer: Offer) -> Path:
        """Place of a body on its way: each exchange fetches for itself, from whoever offers it."""
        return self.folder / INCOMING / f"{exchange}.{offer.donor}.{offer.body_sha256}.part"

    def parts(self, exchange: str) -> list[Path]:
        """Bodies on their way in an exchange."""
        return sorted((self.folder / INCOMING).glob(f"{exchange}.*.part"))


def create(
    folder: Path,
    root: Path,
    settings: Settings | None = None,
    furnish: Callable[[Path], object] = lambda work: None,
) -> None:
    """Make a home that trusts the federation of ``root``, whole or not at all.

    Args:
        folder: The home.
        root: The federation's ``root.pem``, its revocation list beside it.
        settings: Where catalogue and bank are.
        furnish: Adds to the home before it appears.

    Raises:
        OutputExistsError: ``folder`` is taken.
        CertificateError: ``root`` is no root certificate.
        StaleListError: There is no revocation list beside it.
        CatalogueError: The catalogue cannot be made or used.
        BankError: The bank cannot be used.
        KeyFileError: There is no such file with a password.
    """
    trusted, chosen = load_trust(root), settings or Settings()
    with atomic.folder(folder, mode=0o700) as work:
        (work / ROOT).write_bytes(trusted.pem)
        (work / LIST).write_bytes(trusted.revoked.pem)
        (work / SETTINGS).write_text(tomli_w.dumps(asdict(chosen)), encoding="utf-8")
        (work / INCOMING).mkdir(mode=0o700)
        make_log_key(work)
        make_bank(chosen.bank, work)
        engine = database.connect(_address(work, chosen))
        try:
            database.upgrade(engine)
        finally:
            engine.dispose()
        furnish(work)


def load(folder: Path) -> Coordinator:
    """Load a coordinator's home.

    Raises:
        HomeError: Not a coordinator's home, or its settings are not valid.
        CatalogueError: The catalogue cannot be used, or is of another version.
        BankError: The bank cannot be used.
        KeyFileError: There is no key of the log, or no such file with the catalogue's password.
    """
    settings = settings_of(folder)
    bank, trust = open_bank(settings.bank, folder), load_trust(folder)
    key = HeldSigner(read_signing_key(folder / LOG_KEY, "log's key"))
    return Coordinator(folder, trust, Catalogue(catalogue_of(folder)), bank, settings, key)


@contextmanager
def opened(folder: Path) -> Iterator[Coordinator]:
    """Load a coordinator's home, and let go of its catalogue afterwards; raises as ``load``."""
    coordinator = load(folder)
    try:
        yield coordinator
    finally:
        coordinator.catalogue.close()


def make_log_key(folder: Path) -> None:
    """Make the key that signs what is said of the log, unless there is one."""
    if not (folder / LOG_KEY).exists():
        write_secret(folder / LOG_KEY, signing_key_pem(ec.generate_private_key(ec.SECP384R1())))


def placed(bank: str) -> str:
    """A bank's place as settings hold it: a folder outside of the home by its whole path."""
    return bank if bank == BANK or is_url(bank) else str(Path(bank).resolve())


def settings_of(folder: Path) -> Settings:
    """Read a home's settings; a home of an earlier version has none.

    Raises:
        HomeError: Not a coordinator's home, or they are not valid.
    """
    if not (folder / ROOT).is_file() or not (folder / INCOMING).is_dir():
        raise HomeError(f"no coordinator in {folder}; make a home with organ-coordinator init")
    if not (folder / SETTINGS).is_file():
        return Settings()
    return read(folder / SETTINGS, Settings, "organ-coordinator init")


def catalogue_of(folder: Path) -> URL:
    """Where a home's catalogue is, with what it takes to use it.

    Raises:
        HomeError: As ``settings_of``, or its catalogue is gone.
        CatalogueError: Its address is not valid.
        KeyFileError: There is no such file with its password.
    """
    settings = settings_of(folder)
    if not settings.catalogue and not (folder / CATALOGUE).is_file():
        raise HomeError(f"no catalogue in {folder}; put back its newest copy")
    return _address(folder, settings)


def _address(folder: Path, settings: Settings) -> URL:
    if not settings.catalogue:
        return URL.create("sqlite+pysqlite", database=str(folder / CATALOGUE))
    url = database.address(settings.catalogue)
    if not settings.password_file:
        return url
    try:
        password = read_secret(Path(settings.password_file), "catalogue's password").decode()
    except UnicodeDecodeError:
        raise CatalogueError("the catalogue's password is not UTF-8; write it anew") from None
    return url.set(password=password.rstrip("\r\n"))
