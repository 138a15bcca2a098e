"""Seconds of a process, shared out among what it does."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of this process by what they went to: to one thing at a time."""

    def __init__(self, what: str) -> None:
        self.cpu_seconds: defaultdict[str, float] = defaultdict(float)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Of a processor; by the clock."""
        self._what, self._since = what, self._now()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Count what passes within as spent on ``what``, and on nothing around it."""
        before = self._what
        self._turn(what)
        try:
            yield
        finally:
            self._turn(before)

    def so_far(self) -> dict[str, dict[str, float]]:
        """What everything has taken by now."""
        self._turn(self._what)
        return {
            what: {"cpu_seconds": round(cpu, 3), "seconds": round(self.seconds[what], 3)}
            for what, cpu in self.cpu_seconds.items()
        }

    def _turn(self, what: str) -> None:
        now = self._now()
        self.cpu_seconds[self._what] += now[0] - self._since[0]
        self.seconds[self._what] += now[1] - self._since[1]
        self._what, self._since = what, now

    def _now(self) -> tuple[float, float]:
        return time.process_time(), time.monotonic()
