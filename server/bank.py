"""The organ bank: sealed bodies by their SHA-256, in a folder or wherever fsspec reaches.

A body appears whole or not at all, and only after it was verified. It is read by ranges, so memory
does not grow with it. Credentials come from where the store's own library looks for them.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from not_core import atomic
from not_core.errors import BankError

CHUNK = 8 * 1024 * 1024
"""Bytes in memory at once, of a body that is put or read through; a part of an S3 upload."""


class Bank(Protocol):
    """Where sealed bodies lie."""

    def put(self, body: str, part: Path) -> None:
        """Take in a verified file, which is gone afterwards; one that is there is replaced.

        Raises:
            BankError: It cannot be stored.
        """

    def size(self, body: str) -> int | None:
        """Bytes of a body; None where it is not there.

        Raises:
            BankError: The store cannot be read.
        """

    def read(self, body: str, offset: int, length: int) -> bytes:
        """Bytes of a body from ``offset`` on, at most ``length``.

        Raises:
            BankError: It is not there, or cannot be read.
        """

    def remove(self, body: str) -> None:
        """Remove a body, if it is there.

        Raises:
            BankError: It cannot be removed.
        """


def is_url(place: str) -> bool:
    """Whether a place is a URL, not a folder."""
    return re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


def open_bank(place: str, home: Path) -> Bank:
    """The bank at a place.

    Args:
        place: A folder, if need be within ``home``, or a URL that fsspec knows.
        home: The coordinator's home.

    Raises:
        BankError: The URL is not one, holds a password, or needs a library that is absent.
    """
    if not is_url(place):
        return FolderBank(home / place)
    if "@" in place.split("://", 1)[1].partition("/")[0]:
        raise BankError(
            "the bank's URL holds a user or password; leave them out, and give credentials in the "
            "environment or the store's own configuration, such as AWS_ACCESS_KEY_ID"
        )
    return RemoteBank(place)


def make_bank(place: str, home: Path) -> None:
    """Make the bank's folder, where it is one, and see that the bank can be used.

    Raises:
        BankError: As ``open_bank``, or it cannot be used.
    """
    if not is_url(place):
        folder = home / place
        with _reported(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check(open_bank(place, home))


def check(bank: Bank) -> None:
    """See that the store answers.

    Raises:
        BankError: It does not.
    """
    bank.size("0" * 64)


def chunks(bank: Bank, body: str) -> Iterator[bytes]:
    """All of a body, piece by piece.

    Raises:
        BankError: It is not there, or cannot be read.
    """
    offset = 0
    while piece := bank.read(body, offset, CHUNK):
        yield piece
        offset += len(piece)


class FolderBank:
    """Bodies in a folder, which is not made anew where it is away: a disk may not be mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, body: str, part: Path) -> None:
        """See ``Bank``."""
        with self._reported():
            atomic.moved(part, self._place(body), mode=0o600)

    def size(self, body: str) -> int | None:
        """See ``Bank``."""
        with self._reported():
            place = self._place(body)
            return place.stat().st_size if place.is_file() else None

    def read(self, body: str, offset: int, length: int) -> bytes:
        """See ``Bank``."""
        with self._reported(), self._place(body).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def remove(self, body: str) -> None:
        """See ``Bank``."""
        with self._reported():
            self._place(body).unlink(missing_ok=True)

    def _place(self, body: str) -> Path:
        return self._folder / f"{body}.body"

    @contextmanager
    def _reported(self) -> Iterator[None]:
        with _reported(self._folder):
            if not self._folder.is_dir():
                raise BankError(
                    f"the bank's folder {self._folder} is away; mount it, or put it back; where it "
                    "is lost, make an empty one, and donors are asked for its organs again"
                )
            yield


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BankError(
            f"the bank in {folder} failed ({error.strerror}); check disk and permissions"
        ) from None


class RemoteBank:
    """Bodies behind a URL, such as ``s3://bucket/folder``."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            with self._reported("open"):
                # What others have put there since must be seen.
                found: tuple[Any, str] = url_to_fs(url, use_listings_cache=False)
        except ImportError:
            raise BankError(
                f"no library for {url.partition(':')[0]}:// is installed here; run "
                "pip install 'organ-exchange[s3]', or install the fsspec library for it"
            ) from None
        self._store, self._root = found

    def put(self, body: str, part: Path) -> None:
        """See ``Bank``."""
        with self._reported("put"), part.open("rb") as source:
            # Not committed by itself: closing a file that was cut off would make it appear.
            target = self._store.open(self._place(body), "wb", block_size=CHUNK, autocommit=False)
            try:
                with target:
                    shutil.copyfileobj(source, target, CHUNK)
                target.commit()
            except BaseException:
                with suppress(Exception):
                    target.discard()
                raise
        if self.size(body) != part.stat().st_size:
            raise BankError("the bank has another size of a body than was put; check the store")
        part.unlink()

    def size(self, body: str) -> int | None:
        """See ``Bank``."""
        with self._reported("look"):
            try:
                return int(self._store.info(self._place(body))["size"])
            except FileNotFoundError:
                return None

    def read(self, body: str, offset: int, length: int) -> bytes:
        """See ``Bank``."""
        size = self.size(body)
        if size is None:
            raise BankError("the bank has no such body any more; ask its donor again")
        stop = min(offset + length, size)
        if offset >= stop:  # which no server has a range for
            return b""
        with self._reported("read"):
            return bytes(self._store.cat_file(self._place(body), start=offset, end=stop))

    def remove(self, body: str) -> None:
        """See ``Bank``."""
        with self._reported("remove"), suppress(FileNotFoundError):
            self._store.rm_file(self._place(body))

    def _place(self, body: str) -> str:
        return f"{self._root.rstrip('/')}/{body}.body"

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except ImportError:
            raise
        except Exception as error:  # of whatever library: their errors have no common base
            raise BankError(
                f"the bank's store failed to {what} ({type(error).__name__}); check its URL, its "
                "server, and the credentials in the environment"
            ) from error
