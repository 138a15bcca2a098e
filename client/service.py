"""A site's processes: its signing agent; Flower's node, which asks for work; and what does it.

All connections go out; nothing listens but on loopback and on the agent's socket. Only the agent is
given what opens the keys. What a node is served with lies in

    node/key           private key of the node, OpenSSH form, for Flower alone
    node/admission     what the coordinator's operator is given: the node's key, signed by the site
    node/coordinator, node/coordinator.pem  the coordinator's address and TLS certificate
    node/secret           between the node and what does its work
    run/, logs/        what runs now, and what it said
The node's key only lets the node in. What the site says is signed with the site's own key.
"""

import json
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import signing_wire, witness
from client.home import Site
from client.signing_agent import check_path
from not_core import atomic, canonical
from not_core.errors import HomeError, KeyFileError
from not_core.protocol import ADMISSION_TYPE, Admission
from not_core.service import tls
from not_core.service.flower import CLIENT, command
from not_core.service.supervisor import (
    LOOPBACK,
    Program,
    answers,
    free_port,
    listens,
    python,
)
from not_core.trust.keyfile import read_public, read_secret, write_secret
from not_core.trust.statement import sign_statement

NODE, ADMISSION = "node", "admission"
NEW_KEY = "make another with 'organ-site connect --new-key'"
CERTIFICATE_LIMIT = 64 * 1024
APP = "client.app:app"
STALL_SECONDS = 180.0
"""Longest that a node may do nothing; the slowest transfer of one piece takes less."""
PAUSE_SECONDS = 20.0
"""A supervisor that has not asked for so long has had nothing to ask of: a node that is started
is left alone for longer."""


def connect(site: Site, coordinator: str, certificate: Path, *, new_key: bool = False) -> Path:
    """Make a node's key and have the site vouch for it; again, the same key by its present profile.

    Args:
        site: Admitted.
        coordinator: Address, as ``host:port``.
        certificate: The coordinator's TLS certificate, by another way than the network.
        new_key: Whether the node gets another key: Flower lets none in that was once taken back.

    Returns:
        What the coordinator's operator is given.

    Raises:
        HomeError: Not an address.
        KeyFileError: The certificate cannot be read, or the node's key is not one.
        CertificateError: It is not one that a server of that name can have.
    """
    if not _is_address(coordinator):
        raise HomeError(f"{coordinator} is not an address; expected HOST:PORT")
    place = site.folder / NODE
    pem = read_public(certificate, "certificate of the coordinator", CERTIFICATE_LIMIT)
    tls.check_serves(pem, coordinator.rpartition(":")[0])
    place.mkdir(mode=0o700, exist_ok=True)
    key = place / "key"
    if new_key or not key.is_file():
        write_secret(key, node_key())
    if not (place / "secret").is_file():
        write_secret(place / "secret", secrets.token_bytes(32))
    known = place / "coordinator.pem"
    if known.is_file() and known.read_bytes() != pem:  # another coordinator has another log
        witness.set_aside(site)
    atomic.write(place / "coordinator", coordinator.encode())
    atomic.write(place / "coordinator.pem", pem)
    admission = Admission(profile=site.identity.profile, node_key=_public(key))
    envelope = sign_statement(canonical.encode(admission), ADMISSION_TYPE, site.identity)
    atomic.write(place / ADMISSION, envelope)
    return place / ADMISSION


def node_key() -> bytes:
    """A new private key of the kind and in the form (OpenSSH's) that Flower takes."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def node_key_of(key: Path) -> ec.EllipticCurvePrivateKey:
    """Read a node's private key.

    Raises:
        KeyFileError: It is missing, too open, or none.
    """
    try:
        private = serialization.load_ssh_private_key(read_secret(key, "node's key", NEW_KEY), None)
    except ValueError:
        raise KeyFileError(f"{key} is not a node's key; {NEW_KEY}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{key} is not a node's key; {NEW_KEY}")
    return private


def address_of(home: Path) -> str:
    """The coordinator's address, as ``host:port``.

    Raises:
        HomeError: What is kept is none.
    """
    path = home / NODE / "coordinator"
    found = path.read_bytes().decode("utf-8", "replace")
    if not _is_address(found):
        raise HomeError(
            f"{path} holds {found[:60]!r}, expected HOST:PORT; run 'organ-site connect' with the "
            "coordinator's address and certificate again"
        )
    return found


def _is_address(text: str) -> bool:
    """Whether it is ``host:port``; what was no text has U+FFFD in it."""
    found = re.fullmatch(r"[^\s\ufffd]+:([0-9]{1,5})", text)
    return found is not None and int(found[1]) < 2**16


def _public(key: Path) -> str:
    """The public half of a node's key, in PEM."""
    return (
        node_key_of(key)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


class Beat:
    """When a site's node was last seen to look for messages, by a clock that nobody sets.

    Args:
        home: Of the site.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "run" / "supernode.beat"
        self._found: int | None = None
        self._changed = self._since = self._asked = time.monotonic()

    def begin(self) -> None:
        """Forget the beat of a node that ran before; the next has all its time to its first."""
        self.path.unlink(missing_ok=True)

    def still(self) -> bool:
        """Whether no node has looked for messages lately, or yet, however often one was started."""
        now = self._look()
        return self._found is None or now - self._changed > STALL_SECONDS

    def stalled(self) -> bool:
        """Whether a node has stopped to; asked all the time while it runs and has had time to."""
        now = self._look()
        if now - self._asked > PAUSE_SECONDS:  # it was ended meanwhile, and another has begun
            self._since = now
        self._asked = now
        return self._found is not None and now - max(self._since, self._changed) > STALL_SECONDS

    def _look(self) -> float:
        """See whether there is another beat; what time it is."""
        now, found = time.monotonic(), None
        with suppress(FileNotFoundError):
            found = self.path.stat().st_mtime_ns
        if found != self._found:
            self._found, self._changed = found, now
        return now


def programs(home: Path, pause: float, passphrase: bytes | None, beat: Beat) -> list[Program]:
    """What to keep running, in order.

    Args:
        home: Of a site that has a node.
        beat: Of that node.
        pause: Seconds between two looks for messages at the coordinator.
        passphrase: Of the site's keys, for the signing agent alone; None where they have none.

    Raises:
        HomeError: The site has no node, no address for it, or a path too long for a socket.
    """
    home = home.resolve()
    node, agent = home / NODE, signing_wire.socket_of(home)
    if not (node / ADMISSION).is_file():
        raise HomeError(
            f"{home} knows no coordinator; run 'organ-site connect' with its address and "
            "certificate"
        )
    check_path(agent)
    port = free_port()
    beat.begin()
    environment = {"FLWR_HOME": str(home / "work" / "flower")}
    secret = ("--superexec-auth-secret-file", str(node / "secret"))
    return [
        Program(
            name="signing-agent",
            command=python("client.signing_agent", str(home)),
            secret=passphrase,
            ready=lambda: listens(agent),
        ),
        Program(
            name="supernode",
            command=command(
                "supernode",
                *(str(beat.path.resolve()), str(pause)),
                *("--superlink", address_of(home)),
                *("--root-certificates", str(node / "coordinator.pem")),
                *("--auth-supernode-private-key", str(node / "key")),
                *("--node-config", f"home={json.dumps(str(home))}"),
                *("--isolation", "process", "--host", LOOPBACK, "--port", str(port)),
                *secret,
            ),
            environment=environment,
            ready=lambda: answers(LOOPBACK, port),
            stalled=beat.stalled,
        ),
        Program(
            name="superexec",
            command=command(
                "superexec",
                *(CLIENT, APP, "torch,transformers.modeling_utils"),
                *("--runtime-api-address", f"{LOOPBACK}:{port}", "--insecure"),
                *secret,
            ),
            environment=environment | {signing_wire.VARIABLE: str(agent)},
        ),
    ]
