"""Options and questions by which commands get the passphrase of a private key."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from not_core.trust.passphrase import VARIABLE

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        envvar=VARIABLE,
        help="File, mode 0600, whose first line encrypts or opens the keys; or keyring:NAME.",
    ),
]
SigningKey = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="pkcs11: URI of a P-384 key that is on a token, instead of a new one in a file.",
    ),
]
Unprotected = Annotated[
    bool,
    typer.Option("--unprotected", help="Without a passphrase: who can read the file has the key."),
]


def new_passphrase(
    file: Path | None, unprotected: bool | None, words: str = "passphrase"
) -> bytes | None:
    """The passphrase that keys get: from a file, or asked for twice; None if none is wanted.

    ``unprotected`` is None where there must be one.

    Raises:
        KeyFileError: The file cannot be used.
        typer.BadParameter: Nobody can be asked.
    """
    from not_core.trust import passphrase

    if unprotected:
        return None
    if file is not None:
        return passphrase.read(file)
    if not sys.stdin.isatty():
        without = "" if unprotected is None else ", or say --unprotected"
        raise typer.BadParameter(
            f"nobody can be asked for a {words}: give --{words.replace(' ', '-')}-file{without}"
        )
    text: str = typer.prompt(words, hide_input=True, confirmation_prompt=True, err=True)
    return text.encode()


def passphrase_of(key: Path, file: Path | None) -> bytes | None:
    """The passphrase of a key that is there: None if it has none.

    Args:
        key: Its file; nothing is asked if it is not encrypted.
        file: The passphrase's.

    Raises:
        KeyFileError: As ``read_secret`` for both files.
    """
    from not_core.trust import passphrase
    from not_core.trust.private_keys import is_encrypted

    if not is_encrypted(key):
        return None
    if file is not None:
        return passphrase.read(file)
    if not sys.stdin.isatty():
        return None  # reading the key then says what is missing
    text: str = typer.prompt("passphrase", hide_input=True, err=True)
    return text.encode()


def identity_passphrase(folder: Path, file: Path | None) -> bytes | None:
    """As ``passphrase_of``, of the keys of an identity folder; None if it is not admitted yet.

    Raises:
        KeyFileError: As ``passphrase_of``.
        FormatError: The profile is damaged.
    """
    from not_core.trust import keys
    from not_core.trust.profile import read_profile

    profile = folder / keys.PROFILE
    if not profile.is_file():
        return None
    return passphrase_of(keys.sealing_key_of(folder, read_profile(profile)), file)
