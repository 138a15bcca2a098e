"""Where a site's organs lie in its home; no other module names these places.

organs/made/ORGAN   trained here          organs/made/*.json  on which terms; what audits found
organs/sealed/EXCHANGE/ORGAN.organ        as offered; EXCHANGE.json beside it: for whom
organs/in/EXCHANGE/ORGAN.organ            as delivered; under another suffix until all has come
organs/trying/ORGAN open while tried      organs/opened/ORGAN  open, and accepted
"""

from dataclasses import dataclass
from pathlib import Path

ORGAN = "[0-9a-f]" * 64
"""Pattern of a digest, for ``glob``."""
SUFFIX = ".organ"


@dataclass(frozen=True, slots=True)
class Store:
    """Paths of one site's organs; whether anything is there, is for others to see.

    Attributes:
        home: The site's home folder.
    """

    home: Path

    @property
    def _organs(self) -> Path:
        return self.home / "organs"

    def made(self, organ: str) -> Path:
        """Folder of an organ that was trained here."""
        return self._organs / "made" / organ

    def all_made(self) -> list[Path]:
        """Folders of all organs that were trained here, each named by its organ's digest."""
        return sorted(self._organs.glob(f"made/{ORGAN}"))

    def note(self, terms: str) -> Path:
        """Which organ came of some terms, given by their digest."""
        return self.made(f"{terms}.json")

    def notes(self) -> list[Path]:
        """All files beside the folders of organs, audits' reports among them."""
        return sorted(self._organs.glob("made/*.json"))

    def offered(self, exchange: str) -> Path:
        """Folder of what was offered in an exchange."""
        return self._organs / "sealed" / exchange

    def sealed(self, exchange: str, organ: str) -> Path:
        """A sealed organ as it was offered."""
        return self.offered(exchange) / f"{organ}{SUFFIX}"

    def all_sealed(self, organ: str = ORGAN) -> list[Path]:
        """Sealed organs of all exchanges: all, or those of one organ."""
        return sorted(self._organs.glob(f"sealed/*/{organ}{SUFFIX}"))

    def copies(self) -> list[Path]:
        """All files of sealed organs, those that were never finished among them."""
        return sorted(self._organs.glob("sealed/*/*"))

    def asked(self, exchange: str) -> Path:
        """The request that was last answered in an exchange: for whom its sealed organ is."""
        return self._organs / "sealed" / f"{exchange}.json"

    def deliveries(self, exchange: str) -> Path:
        """Folder of what was delivered in an exchange."""
        return self._organs / "in" / exchange

    def delivered(self, exchange: str, organ: str) -> Path:
        """A sealed organ as it was delivered."""
        return self.deliveries(exchange) / f"{organ}{SUFFIX}"

    def all_delivered(self, organ: str = ORGAN) -> list[Path]:
        """Delivered organs of all exchanges that have come whole: all, or those of one organ."""
        return sorted(self._organs.glob(f"in/*/{organ}{SUFFIX}"))

    def arrived(self) -> list[Path]:
        """All files of deliveries, those that have not come whole among them."""
        return sorted(self._organs.glob("in/*/*"))

    def trying(self, organ: str) -> Path:
        """Folder of an organ that is open while it is tried."""
        return self._organs / "trying" / organ

    def opened(self, organ: str) -> Path:
        """Folder of an organ that was accepted."""
        return self._organs / "opened" / organ

    def unfinished(self) -> list[Path]:
        """What a process that died may have left anywhere; it may hold an organ in the clear."""
        return list(self._organs.glob("**/.*.partial"))
