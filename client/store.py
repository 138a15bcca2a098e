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
class Sealed:
    """Sealed organs by the exchange that they belong to.

    Attributes:
        root: Holds a folder an exchange.
    """

    root: Path

    def folder(self, exchange: str) -> Path:
        """Folder of one exchange's organs."""
        return self.root / exchange

    def path(self, exchange: str, organ: str) -> Path:
        """One organ in one exchange."""
        return self.folder(exchange) / f"{organ}{SUFFIX}"

    def whole(self, organ: str = ORGAN) -> list[Path]:
        """Organs of all exchanges that are here whole: all, or one organ's."""
        return sorted(self.root.glob(f"*/{organ}{SUFFIX}"))

    def files(self) -> list[Path]:
        """All files of organs, those that are not whole among them."""
        return sorted(self.root.glob("*/*"))


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

    @property
    def offered(self) -> Sealed:
        """Organs as they were offered."""
        return Sealed(self._organs / "sealed")

    def asked(self, exchange: str) -> Path:
        """The request that was last answered in an exchange: for whom its sealed organ is."""
        return self.offered.root / f"{exchange}.json"

    @property
    def delivered(self) -> Sealed:
        """Organs as they were delivered."""
        return Sealed(self._organs / "in")

    def trying(self, organ: str) -> Path:
        """Folder of an organ that is open while it is tried."""
        return self._organs / "trying" / organ

    def opened(self, organ: str) -> Path:
        """Folder of an organ that was accepted."""
        return self._organs / "opened" / organ

    def unfinished(self) -> list[Path]:
        """What a process that died may have left anywhere; it may hold an organ in the clear."""
        return list(self._organs.glob("**/.*.partial"))
