"""The coordinator's home folder: root certificate, catalogue, organ bank, incoming parts.

    root.pem, federation.crl  the federation, to refuse strangers and the expelled; public
    catalogue.db   sites, offers, receipts, steps       bank/      sealed organs by digest
    incoming/      sealed organs still on their way
No key lies here: nothing in this home can open what is stored in it.
"""

from dataclasses import dataclass
from pathlib import Path

from not_core import atomic
from not_core.errors import HomeError
from not_core.trust.federation import ROOT, Trust, load_trust
from not_core.trust.revocation import LIST
from server.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A coordinator that is ready to run exchanges."""

    folder: Path
    trust: Trust
    catalogue: Catalogue

    def banked(self, organ: str) -> Path:
        """Place of a sealed organ."""
        return self.folder / "bank" / f"{organ}.organ"

    def incoming(self, sealed: str) -> Path:
        """Place of a sealed file that is still on its way, by its digest: organs are resealed."""
        return self.folder / "incoming" / f"{sealed}.part"


def create(folder: Path, root: Path) -> None:
    """Make a home that trusts the federation of ``root``.

    Raises:
        OutputExistsError: ``folder`` is taken.
        CertificateError: ``root`` is no root certificate.
        StaleListError: There is no revocation list beside it.
    """
    trusted = load_trust(root)
    with atomic.folder(folder, mode=0o700) as work:
        (work / ROOT).write_bytes(trusted.pem)
        (work / LIST).write_bytes(trusted.revoked.pem)
        (work / "bank").mkdir(mode=0o700)
        (work / "incoming").mkdir(mode=0o700)
        Catalogue(f"sqlite:///{work / 'catalogue.db'}").close()


def load(folder: Path) -> Coordinator:
    """Load a coordinator's home.

    Raises:
        HomeError: Not a coordinator's home.
    """
    if not (folder / "catalogue.db").is_file():
        raise HomeError(f"no catalogue in {folder}; make a home with organ-coordinator init")
    return Coordinator(
        folder, load_trust(folder), Catalogue(f"sqlite:///{folder / 'catalogue.db'}")
    )
