"""Secret and public files on disk: owner-only, bounded reads."""

import os
import stat
from pathlib import Path

from not_core import atomic
from not_core.errors import KeyFileError, TooLargeError

SECRET_LIMIT = 64 * 1024
"""Largest key or passphrase file read, in bytes."""
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd says that a unit's credentials are."""

WRITE_IT = "write it there, mode 0600, or name another file"
MISSING_KEY = (
    "expected a file made by 'organ identity init' or 'organ federation init'; check the folder"
)
"""What to do where there is no password, and where there is no key."""


def write_secret(path: Path, data: bytes) -> None:
    """Write a secret file that only its owner may read, mode 0600, whole or not at all."""
    atomic.write(path, data, mode=0o600)


def read_secret(path: Path, what: str, missing: str = WRITE_IT) -> bytes:
    """Read a secret file after checking, on the open file, that it is its owner's alone.

    One of systemd's credentials (in ``CREDENTIALS_DIRECTORY``) may be root's, and its group's to
    read: there the group's bits are the mask of a list that names the service's user alone.

    Args:
        path: The file; a symbolic link is refused.
        what: Noun for messages, such as ``"signing key"``.
        missing: What to do where there is no such file.

    Raises:
        KeyFileError: Missing, not a regular file, another user's, readable or writable by others,
            or larger than ``SECRET_LIMIT``. Nothing is read before these checks.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(f"no {what} at {path}; {missing}") from None
    except OSError as error:
        raise KeyFileError(
            f"{what} at {path} cannot be opened ({error.strerror}); expected a regular file"
        ) from None
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise KeyFileError(f"{what} at {path} is not a regular file; restore it from a backup")
        mode, folder = stat.S_IMODE(facts.st_mode), os.environ.get(CREDENTIALS)
        credential = bool(folder) and path.parent == Path(str(folder))
        if mode & (0o037 if credential else 0o077):
            raise KeyFileError(
                f"{what} at {path} has mode {mode:04o}, expected 0600; run 'chmod 600' on it, and "
                "make new keys if others may have read it"
            )
        if facts.st_uid != os.geteuid() and not (credential and facts.st_uid == 0):
            raise KeyFileError(f"{what} at {path} belongs to another user; run as its owner")
        data = file.read(SECRET_LIMIT + 1)
    if len(data) > SECRET_LIMIT:
        raise KeyFileError(f"{what} at {path} is larger than {SECRET_LIMIT} bytes; not a key")
    return data


def read_public(path: Path, what: str, limit: int) -> bytes:
    """Read a public file of at most ``limit`` bytes.

    Args:
        path: The file.
        what: Noun for messages, such as ``"profile"``.
        limit: Largest size accepted, in bytes.

    Raises:
        KeyFileError: Missing or unreadable.
        TooLargeError: Larger than ``limit``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise KeyFileError(
            f"no readable {what} at {path} ({error.strerror}); check the path"
        ) from None
    if len(data) > limit:
        raise TooLargeError(f"{what} at {path} is larger than {limit} bytes; get the right file")
    return data
