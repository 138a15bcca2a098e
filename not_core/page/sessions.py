"""Who is signed in, in the memory of the process that serves: to stop it signs everybody out."""

import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

Role = Literal["reader", "operator"]
"""A reader sees all there is to see; an operator may decide, too."""

LIFE_SECONDS = 12 * 3600.0
"""How long a session lasts, used or not."""

MOST_SESSIONS = 1000
MOST_ATTEMPTS, ATTEMPT_SECONDS = 10, 600.0
MOST_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Standing:
    """What somebody may do now.

    Attributes:
        role: Their role.
        secret: Stands for what they sign in by; with another one, older sessions end.
    """

    role: Role
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has signed in.

    Attributes:
        name: Who.
        secret: As in ``Standing``, when they did.
        until: When it ends, by ``time.monotonic``.
    """

    name: str
    secret: str
    until: float


class Sessions:
    """Sessions by their secret tokens."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self, name: str, secret: str = "") -> str:
        """Sign somebody in; the token of the session."""
        token, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            kept = [(key, one) for key, one in self._sessions.items() if one.until > now]
            self._sessions = dict(kept[-(MOST_SESSIONS - 1) :])
            self._sessions[token] = Session(name, secret, now + LIFE_SECONDS)
        return token

    def get(self, token: str) -> Session | None:
        """The session; None where it is none, or no longer."""
        session = self._sessions.get(token)
        return session if session is not None and session.until > time.monotonic() else None

    def close(self, token: str) -> None:
        """Sign out."""
        with self._lock:
            self._sessions.pop(token, None)


class Attempts:
    """Holds whoever tries to sign in to so many failures in so many seconds."""

    def __init__(self, most: int = MOST_ATTEMPTS, seconds: float = ATTEMPT_SECONDS) -> None:
        self._most, self._seconds = most, seconds
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def allowed(self, key: str) -> bool:
        """Whether another attempt is."""
        with self._lock:
            times = self._times.get(key, deque())
            return len(times) < self._most or times[0] <= time.monotonic() - self._seconds

    def failed(self, key: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        with self._lock:
            if len(self._times) > MOST_KEYS:
                self._times = {
                    key: times
                    for key, times in self._times.items()
                    if times[-1] > now - self._seconds
                }
            self._times.setdefault(key, deque(maxlen=self._most)).append(now)
