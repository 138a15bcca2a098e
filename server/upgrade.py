"""Brings a coordinator's home of an earlier version up to date, before it is served.

Before headers and bodies were kept apart, the bank had whole files, ``ORGAN.organ``.
"""

import shutil
import sys
from pathlib import Path

from not_core import canonical
from not_core.errors import NotError
from not_core.trust.delivery import read_header
from not_core.trust.offer import peek_offer
from server import database, home
from server.bank import CHUNK
from server.catalogue import Quotas
from server.home import BANK, Coordinator


def upgrade(folder: Path) -> None:
    """Bring catalogue, then bank, up to date, and make what is new; what is, stays as it is.

    Raises:
        HomeError: Not a coordinator's home.
        CatalogueError: The catalogue cannot be used, or is of a newer version.
        BankError: The bank cannot be used.
        KeyFileError: There is no such file with the catalogue's password.
    """
    engine = database.connect(home.catalogue_of(folder))
    try:
        database.upgrade(engine)
    finally:
        engine.dispose()
    home.make_log_key(folder)
    with home.opened(folder) as coordinator:
        for whole in sorted((folder / BANK).glob("*.organ")):
            _split(coordinator, whole)


def _split(coordinator: Coordinator, whole: Path) -> None:
    """Put the body of a whole file into the bank, and its header into the catalogue.

    A file that is damaged, or of which the catalogue knows nothing, is left where it is: its donor
    is asked again.
    """
    try:
        with whole.open("rb") as file:
            header = read_header(file)
            offer, size = peek_offer(header.envelope), file.tell()
            file.seek(0)
            before = file.read(size)
    except NotError:
        return
    for kept in coordinator.catalogue.organs(offer.exchange):
        if kept.organ == offer.organ_digest and kept.donation.offer.encode() == header.envelope:
            part = coordinator.incoming(offer.exchange, offer)
            with whole.open("rb") as file, part.open("wb") as body:
                file.seek(size)
                shutil.copyfileobj(file, body, CHUNK)
            if canonical.sha256_file(part) != offer.body_sha256:
                part.unlink()
                return
            quotas = Quotas(site_bytes=sys.maxsize, exchange_organs=sys.maxsize)  # it is here
            coordinator.catalogue.reserve(offer.exchange, offer, kept.donation, quotas)
            coordinator.bank.put(offer.body_sha256, part)
            coordinator.catalogue.offered(offer.exchange, offer, kept.donation, before)
            whole.unlink()
