"""What happens in one pass of an exchange: told at once, written down in few transactions."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.catalogue import Catalogue, Happened

_log = logging.getLogger(__name__)
_STEPS = ("enrol", "donate", "deliver", "transplant", "witness")


@dataclass(frozen=True, slots=True)
class Event:
    """Progress for whoever watches: ``site`` has done ``step``, or failed with ``code``.

    ``organ`` is the digest of the organ that it was about; empty where it was about none.
    """

    site: str
    step: str
    code: str = ""
    organ: str = ""


class Progress:
    """The events, failures and times of one pass.

    Args:
        catalogue: Where they are kept.
        exchange: Its name.
        notify: Told each event at once.
    """

    def __init__(
        self, catalogue: Catalogue, exchange: str, notify: Callable[[Event], None]
    ) -> None:
        self._catalogue, self._exchange, self._notify = catalogue, exchange, notify
        self._unwritten: list[Happened] = []
        self.failures: list[dict[str, str]] = []
        self._started = self._latest = time.monotonic()
        self._ended: dict[str, float] = {}

    @property
    def still_for(self) -> float:
        """Seconds for which nothing has happened."""
        return time.monotonic() - self._latest

    def done(self, site: str, step: str, organ: str = "") -> None:
        """A site has done a step."""
        self._tell(Event(site, step, organ=organ))
        self._ended[step] = time.monotonic() - self._started

    def fail(self, site: str, step: str, code: str, organ: str = "") -> None:
        """A site, or a node of which nobody knows yet whose it is, has failed in a step."""
        self.failures.append({"site": site, "step": step, "code": code})
        self._tell(Event(site, step, code, organ))

    def write(self) -> None:
        """Write down what has happened, at once: each transaction waits for the disk."""
        if self._unwritten:
            self._catalogue.happened(self._exchange, *self._unwritten)
            self._unwritten.clear()

    def seconds(self) -> dict[str, float]:
        """Seconds from the start to the last end of each step; steps overlap."""
        total = time.monotonic() - self._started
        marks = {step: self._ended.get(step, 0.0) for step in _STEPS}
        return {step: round(mark, 1) for step, mark in (marks | {"total": total}).items()}

    def _tell(self, event: Event) -> None:
        row = Happened(time.time(), event.site, event.step, event.code, event.organ)
        self._unwritten.append(row)
        self._latest = time.monotonic()
        facts = {"exchange": self._exchange, "site": event.site, "code": event.code}
        _log.info(event.step, extra=facts)
        self._notify(event)
