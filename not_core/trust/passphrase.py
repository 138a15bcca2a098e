"""Where a process that nobody watches finds the passphrase of its keys."""

import os
from pathlib import Path

from not_core.errors import KeyFileError
from not_core.trust.keyfile import read_secret

VARIABLE = "ORGAN_PASSPHRASE_FILE"
"""Environment variable that names the file; systemd's credentials are such files."""


def given() -> bytes | None:
    """The passphrase in the file that ``ORGAN_PASSPHRASE_FILE`` names; None where it is not set.

    Raises:
        KeyFileError: As ``read``.
    """
    path = os.environ.get(VARIABLE)
    return read(Path(path)) if path else None


def read(path: Path) -> bytes:
    """First line of a file that is its owner's alone.

    Raises:
        KeyFileError: As ``read_secret``; or the line is empty.
    """
    first = read_secret(path, "passphrase file").split(b"\n", 1)[0].rstrip(b"\r")
    if not first:
        raise KeyFileError(f"passphrase file {path} starts with an empty line; put it there")
    return first
