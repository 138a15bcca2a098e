"""How much anybody may ask of a page: requests over time, and streams at once."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

REQUESTS, SECONDS = 120, 60.0
"""As many at once, and as many more in as many seconds."""
STREAMS = 4
MOST_KEYS = 4096


@dataclass(slots=True)
class _Bucket:
    tokens: float
    seen: float


class Limits:
    """Token buckets and open streams by who asks: a session, or an address. For one event loop."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._streams: Counter[str] = Counter()

    def wait(self, key: str) -> float:
        """Take a request's token; 0.0, or how many seconds there is none for."""
        now, rate = time.monotonic(), REQUESTS / SECONDS
        if len(self._buckets) > MOST_KEYS:  # whoever has been quiet is as good as new
            self._buckets = {
                key: one for key, one in self._buckets.items() if now - one.seen < SECONDS
            }
        bucket = self._buckets.setdefault(key, _Bucket(REQUESTS, now))
        bucket.tokens = min(float(REQUESTS), bucket.tokens + (now - bucket.seen) * rate)
        bucket.seen = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0

    def full(self, key: str) -> bool:
        """Whether somebody has as many streams open as may be."""
        return self._streams[key] >= STREAMS

    @contextmanager
    def streaming(self, key: str) -> Iterator[None]:
        """Count a stream while it is open."""
        self._streams[key] += 1
        try:
            yield
        finally:
            self._streams[key] -= 1
            if not self._streams[key]:
                del self._streams[key]
