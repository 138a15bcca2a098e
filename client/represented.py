"""A site's identity in a process that holds none of its keys: its signing agent uses them."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from client.signing_wire import ANSWER_LIMIT, Answer, Ask, Open, Sign, text
from not_core import canonical
from not_core.errors import SigningError, UnsealError
from not_core.trust import keys
from not_core.trust.keys import Identity
from not_core.trust.profile import Profile

PATIENCE = 120.0
"""Seconds in which an agent that has died must be back."""
ANSWER_SECONDS = 600.0
"""Longest wait for an answer: an organ of many gigabytes is hashed before it is signed."""
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class AgentSigner:
    """As ``holder.Signer``, by the agent behind a socket."""

    agent: Path
    public: ec.EllipticCurvePublicKey

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """As the site's profile certifies it."""
        return self.public

    def sign(self, payload: bytes, payload_type: str, addressees: Sequence[Profile]) -> bytes:
        """As ``holder.Signer``.

        Raises:
            SigningError: The agent's rules do not let it, or it does not answer.
        """
        return ask(
            self.agent,
            Ask(
                sign=Sign(
                    payload=text(payload),
                    payload_type=payload_type,
                    addressees=tuple(addressees),
                )
            ),
        )


@dataclass(frozen=True, slots=True)
class AgentOpener:
    """As ``holder.Opener``, by the agent behind a socket."""

    agent: Path
    fingerprint: str

    def open(self, wrapped: bytes, info: bytes) -> bytes:
        """As ``holder.Opener``.

        Raises:
            UnsealError: The wrap does not open.
            SigningError: The agent does not answer.
        """
        wanted = Open(fingerprint=self.fingerprint, wrapped=text(wrapped), info=info.hex())
        try:
            return ask(self.agent, Ask(open=wanted))
        except SigningError as error:
            if error.code == UnsealError.code:
                raise UnsealError(str(error)) from None
            raise


def load(folder: Path, agent: Path) -> Identity:
    """Load an admitted site's identity whose keys an agent uses.

    Args:
        folder: The identity folder; no private key in it is read.
        agent: The agent's socket.

    Raises:
        NotError: As ``keys.load_represented``.
    """
    return keys.load_represented(folder, partial(AgentSigner, agent), partial(AgentOpener, agent))


def ask(agent: Path, request: Ask) -> bytes:
    """Ask an agent, and wait for it if it is just being started again.

    Raises:
        SigningError: It refuses, by the code of the rule that does; or it does not answer.
    """
    data = canonical.encode(request)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = canonical.decode(Answer, _exchanged(agent, data), "answer")
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise SigningError(
                    f"no signing agent answers at {agent} ({type(error).__name__}); see "
                    "logs/signing-agent.log in the site's home"
                ) from None
            time.sleep(PAUSE_SECONDS)
    if answer.code is not None:
        raise SigningError(f"the signing agent refuses: {answer.reason}", answer.code)
    return answer.raw


def _exchanged(agent: Path, data: bytes) -> bytes:
    """Send a request and read the answer.

    Raises:
        OSError: Nobody listens, or the agent died before it had answered.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(agent))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            found = file.read(ANSWER_LIMIT)
    if not found:
        raise ConnectionResetError
    return found
