"""A site's signing agent: the one process of a served site that has its private keys.

It unlocks them once and answers on a Unix socket: it signs what ``signing_rules`` lets, enters that
in the site's log first, and opens content keys. Settings, policy, approvals and revocation list are
read anew for each request, and the keys when the site has a new profile.

Whoever asks must be a process of the same user (Linux tells; elsewhere the modes of socket and
folder do). One is answered at a time, a request is bounded in size and time, and none ends the
agent. The passphrase comes on standard input and is nowhere else.

Run as ``python -P -m client.signing_agent HOME``.
"""

import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from client import signing_rules
from client.home import IDENTITY, Site, load, settings_of
from client.signing_wire import REQUEST_LIMIT, VARIABLE, Answer, Ask, Open, Sign, socket_of, text
from not_core import canonical
from not_core.errors import FormatError, HomeError, NotError, TooLargeError, UnsealError
from not_core.service import journal
from not_core.service.supervisor import end_with_parent, keep_memory_private
from not_core.trust.federation import load_trust
from not_core.trust.keys import PROFILE
from not_core.trust.profile import read_profile, unbase64

READ_SECONDS = 10.0
"""Longest that a request may take to arrive."""
RULE_SECONDS = 570.0
"""Longest that one may take to be answered; hashing an organ is most of it."""
PATH_BYTES = 100
"""Longest path of a socket, of which systems take 103 to 107 bytes."""
WAITING = 16

_log = logging.getLogger(__name__)


class Agent:
    """A site's keys, and what they are used for.

    Args:
        home: Of an admitted site.
        passphrase: Of its keys; None where they have none.

    Raises:
        NotError: As ``home.load``.
    """

    def __init__(self, home: Path, passphrase: bytes | None) -> None:
        self._home, self._passphrase = home, passphrase
        self._site = load(home, passphrase=passphrase)

    def answer(self, data: bytes) -> Answer:
        """Answer a request; whatever it is, with a value."""
        try:
            ask = canonical.decode(Ask, data, "request", REQUEST_LIMIT)
            site = self._present()
            if ask.sign is not None:
                found = _sign(site, ask.sign)
            elif ask.open is not None:
                found = _open(site, ask.open)
            return Answer(data=text(found))
        except NotError as error:
            _log.warning("refused: %s: %s", error.code, error)
            return Answer(code=error.code, reason=str(error)[:4096])
        except Exception as error:  # nothing that is asked ends the agent
            _log.exception("refused")
            return Answer(code="internal", reason=type(error).__name__)

    def _present(self) -> Site:
        """The site as its operator and its federation have it now."""
        settings, policy = settings_of(self._home)
        profile = read_profile(self._home / IDENTITY / PROFILE)
        if profile != self._site.identity.profile:
            self._site = load(self._home, passphrase=self._passphrase)
        trust = load_trust(self._home / IDENTITY, grace=policy.revocation_grace)
        identity = replace(self._site.identity, trust=trust)
        return replace(self._site, settings=settings, policy=policy, identity=identity)


def _sign(site: Site, ask: Sign) -> bytes:
    payload = unbase64(ask.payload, "payload")
    entry = signing_rules.check(site, payload, ask.payload_type, ask.addressees)
    site.log.append(
        signing_rules.SIGNED,
        what=entry.what,
        digest=entry.digest,
        size=len(payload),
        exchange=entry.exchange,
    )
    return site.identity.signing_key.sign(payload, ask.payload_type, ask.addressees)


def _open(site: Site, ask: Open) -> bytes:
    opener = site.identity.sealing_keys.get(ask.fingerprint)
    if opener is None:
        raise UnsealError("the site has no sealing key of that fingerprint")
    return opener.open(unbase64(ask.wrapped, "wrapped key"), bytes.fromhex(ask.info))


def serve(agent: Agent, path: Path) -> None:
    """Answer on a socket until this process ends.

    Args:
        agent: Who answers.
        path: Of the socket; its folder is made its owner's alone.

    Raises:
        HomeError: The path is too long for a socket.
    """
    check_path(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.umask(0o177)
        listener.bind(str(path))
        os.umask(before)
        listener.listen(WAITING)
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # who asked has gone, or was too slow
                _converse(agent, connection)


def check_path(path: Path) -> None:
    """Check that a socket can have a path.

    Raises:
        HomeError: It is too long.
    """
    if len(os.fsencode(path)) > PATH_BYTES:
        raise HomeError(
            f"the socket {path} has a longer path than {PATH_BYTES} bytes, which systems do not "
            "take; move the home to a shorter one"
        )


def _converse(agent: Agent, connection: socket.socket) -> None:
    if not _is_ours(connection):
        _log.warning("refused: a process of another user")
        return
    try:
        with _within(READ_SECONDS), connection.makefile("rb") as file:
            data = file.read(REQUEST_LIMIT + 1)
        if not data:
            return  # somebody looked whether it listens
        if len(data) > REQUEST_LIMIT:
            raise TooLargeError(f"request has more than {REQUEST_LIMIT} bytes")
    except FormatError as error:
        answer = Answer(code=error.code, reason=str(error))
    else:
        with _within(RULE_SECONDS):
            answer = agent.answer(data)
    with _within(READ_SECONDS):
        connection.sendall(canonical.encode(answer))


def _is_ours(connection: socket.socket) -> bool:
    """Whether a process of this user is on the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    form = struct.Struct("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    _, user, _ = form.unpack(found)
    return bool(user == os.geteuid())


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Bound what is done, even where it waits for a pipe that somebody put in a file's place.

    Raises:
        TimeoutError: It took longer.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def main(home: Path) -> None:
    """Answer for a home's keys until told to stop."""
    keep_memory_private()
    journal.begin()
    signal.signal(signal.SIGALRM, _too_long)
    os.environ.pop(VARIABLE, None)  # it asks nobody: it is the one that is asked
    words = sys.stdin.buffer.read() or None
    end_with_parent()
    serve(Agent(home, words), socket_of(home))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
