"""Who may sign in at the coordinator's page: ``operators.json`` in its home, mode 0600.

Passwords are kept as Argon2id makes of them, with the cost that RFC 9106 recommends where memory
is short. Whoever can read the file still has to guess.
"""

import secrets
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT, Name
from not_core.errors import OperatorError
from not_core.page.sessions import Role, Standing

OPERATORS = "operators.json"
LEAST_CHARACTERS, MOST_BYTES = 12, 1024
PASSES, LANES, KIBIBYTES = 3, 4, 64 * 1024
BUSY_SECONDS = 5.0

_one_at_a_time = threading.Lock()  # each takes 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Operator:
    """Somebody who may sign in; ``password`` is a PHC string of Argon2id."""

    name: Name
    role: Role
    password: Annotated[str, Field(pattern=r"^\$argon2id\$[ -~]{1,300}$")]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Operators:
    """All who may sign in."""

    format: Literal["organ-exchange/operators/v1"] = "organ-exchange/operators/v1"
    operators: tuple[Operator, ...] = ()

    def standing(self, name: str) -> Standing | None:
        """What somebody may do; None for nobody."""
        return next(
            (
                Standing(one.role, canonical.sha256(one.password.encode()))
                for one in self.operators
                if one.name == name
            ),
            None,
        )


def read(home: Path) -> Operators:
    """Who may sign in; nobody where there is no file.

    Raises:
        FormatError: The file is damaged.
    """
    path = home / OPERATORS
    if not path.is_file():
        return Operators()
    return canonical.decode(Operators, canonical.read_bounded(path), OPERATORS)


def add(home: Path, name: str, role: Role, password: bytes) -> None:
    """Let somebody sign in, or give them another role and password, which signs them out.

    Raises:
        OperatorError: The password is too short or too long.
        FormatError: The file is damaged.
    """
    if not LEAST_CHARACTERS <= len(password) <= MOST_BYTES:
        raise OperatorError(
            f"a password of {len(password)} bytes, expected {LEAST_CHARACTERS} to {MOST_BYTES}; "
            "choose another one"
        )
    new = Operator(name=name, role=role, password=_stretched(password))
    with atomic.locked(home):
        others = tuple(one for one in read(home).operators if one.name != name)
        _write(home, Operators(operators=(*others, new)))


def remove(home: Path, name: str) -> None:
    """Let somebody in no longer; a page that is open to them shuts, too.

    Raises:
        OperatorError: There is nobody of that name.
        FormatError: The file is damaged.
    """
    with atomic.locked(home):
        known = read(home)
        if known.standing(name) is None:
            raise OperatorError(f"no operator {name}; see organ-coordinator operator list")
        left = tuple(one for one in known.operators if one.name != name)
        _write(home, replace(known, operators=left))


def check(home: Path, name: str, password: str) -> bool:
    """Whether somebody of that name has that password; a name that is not there takes as long.

    Raises:
        OperatorError: Too many others are signing in.
        FormatError: The file is damaged.
    """
    known = {one.name: one.password for one in read(home).operators}
    if not _one_at_a_time.acquire(timeout=BUSY_SECONDS):
        raise OperatorError("too many are signing in; try again in a minute")
    try:
        wanted = known.get(name) or _stretched(secrets.token_bytes(16))
        Argon2id.verify_phc_encoded(password.encode()[:MOST_BYTES], wanted)
    except InvalidKey:
        return False
    finally:
        _one_at_a_time.release()
    return name in known


def _stretched(password: bytes) -> str:
    made = Argon2id(
        salt=secrets.token_bytes(16),
        length=32,
        iterations=PASSES,
        lanes=LANES,
        memory_cost=KIBIBYTES,
    )
    return str(made.derive_phc_encoded(password))


def _write(home: Path, operators: Operators) -> None:
    atomic.write(home / OPERATORS, canonical.encode(operators), mode=0o600)
