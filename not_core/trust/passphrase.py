"""Where a process that nobody watches finds the passphrase of its keys."""

import os
from pathlib import Path

from not_core.errors import KeyFileError
from not_core.trust.keyfile import read_secret

KEYRING, SERVICE = "keyring:", "organ-exchange"
VARIABLE = "ORGAN_PASSPHRASE_FILE"
"""Environment variable that names the file, such as one of systemd's credentials."""


def given() -> bytes | None:
    """The passphrase in the file that ``ORGAN_PASSPHRASE_FILE`` names; None where it is not set.

    Raises:
        KeyFileError: As ``read``.
    """
    path = os.environ.get(VARIABLE)
    return read(Path(path)) if path else None


def read(path: Path) -> bytes:
    """First line of a file that is its owner's alone, or ``keyring:NAME`` of the system's keyring.

    Raises:
        KeyFileError: As ``read_secret``; or the line is empty, or the keyring has no such entry.
    """
    if str(path).startswith(KEYRING):
        return _from_keyring(str(path).removeprefix(KEYRING))
    first = read_secret(path, "passphrase file").split(b"\n", 1)[0].rstrip(b"\r")
    if not first:
        raise KeyFileError(f"passphrase file {path} starts with an empty line; put it there")
    return first


def _from_keyring(name: str) -> bytes:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise KeyFileError(
            "the system's keyring needs the package keyring; install organ-exchange[keys]"
        ) from None
    try:
        found = keyring.get_password(SERVICE, name)
    except KeyringError as error:
        raise KeyFileError(
            f"the system's keyring cannot be asked ({type(error).__name__}); name a file instead"
        ) from None
    if not found:
        raise KeyFileError(
            f"the system's keyring has no entry {name} of {SERVICE}; put it there with "
            f"'keyring set {SERVICE} {name}'"
        )
    return found.encode()
