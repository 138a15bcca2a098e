"""The one tar that an organ folder has: five regular files, in order, nothing left to choose.

Writing is deterministic (plain ustar, zero times and ids, mode 0644, sorted names, two zero
blocks at the end). Reading accepts only what writing makes: each header must equal, byte for byte,
the header that this module writes for that name and size, so links, folders, ``..``, duplicates,
other names and extensions have no way in. Both run in constant memory.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from not_core.errors import ArchiveError, OrganError
from not_core.trust.signing import SIGNED_FILES

BLOCK = 512
CHUNK = 512 * 1024
"""Bytes read at a time."""

NAMES = tuple(sorted(SIGNED_FILES))
MAX_FILE = 8**11 - 1
"""Largest file that a plain ustar header can name: 8 GiB less one byte."""

_END = bytes(2 * BLOCK)


def pack(folder: Path) -> Iterator[bytes]:
    """Yield a signed organ folder as tar, at most ``CHUNK`` bytes at a time.

    Raises:
        OrganError: A file cannot be read, is larger than ``MAX_FILE``, or changes meanwhile.
    """
    for name in NAMES:
        try:
            handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise OrganError(
                f"{folder / name} cannot be read ({error.strerror}); check path and permissions"
            ) from None
        with os.fdopen(handle, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE:
                raise OrganError(
                    f"{folder / name} has {size} bytes, at most {MAX_FILE} can be sealed; cut a "
                    "shorter span or use a smaller dtype"
                )
            yield _header(name, size)
            left = size
            while left:
                data = file.read(min(left, CHUNK))
                if not data:
                    raise OrganError(
                        f"{folder / name} was cut short while it was being sealed; let nothing "
                        "write there, and seal it again"
                    )
                left -= len(data)
                yield data
            yield bytes(-size % BLOCK)
    yield _END


def unpack(stream: Iterator[bytes], folder: Path, limit: int) -> None:
    """Write the files of a tar into a new, empty folder, mode 0600 each.

    Args:
        stream: The tar in pieces of any size; read to its end, so that whatever produces it can
            make its final check.
        folder: Empty folder that nobody else can write to.
        limit: Largest size of one file, in bytes.

    Raises:
        ArchiveError: Anything but what ``pack`` yields.
    """
    pieces = _Pieces(stream)
    for name in NAMES:
        header = pieces.take(BLOCK)
        size = _size(header)
        if size > limit or header != _header(name, size):
            raise ArchiveError(
                f"sealed organ does not hold {name} as a plain file where it is expected; its "
                "donor did not seal it with organ-exchange, refuse it"
            )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(folder / name, flags, 0o600), "wb") as file:
            left = size
            while left:
                data = pieces.some(left)
                if not data:
                    raise ArchiveError("sealed organ ends inside its archive; refuse it")
                left -= file.write(data)
        if any(pieces.take(-size % BLOCK)):
            raise ArchiveError("sealed organ holds bytes between its files; refuse it")
    if pieces.take(len(_END)) != _END or pieces.some(1):
        raise ArchiveError("sealed organ holds more than its five files; refuse it")


def _header(name: str, size: int) -> bytes:
    facts = tarfile.TarInfo(name)
    facts.size = size
    facts.mode = 0o644
    return facts.tobuf(tarfile.USTAR_FORMAT)


def _size(header: bytes) -> int:
    field = header[124:135]
    if any(digit not in b"01234567" for digit in field):
        raise ArchiveError("sealed organ is not a plain tar; refuse it")
    return int(field, 8)


class _Pieces:
    """Cuts a stream of pieces anew, holding at most one piece."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def some(self, at_most: int) -> memoryview:
        """Between 1 and ``at_most`` bytes; none only at the end of the stream."""
        while not self._rest:
            piece = next(self._stream, None)
            if piece is None:
                return self._rest
            self._rest = memoryview(piece)
        got, self._rest = self._rest[:at_most], self._rest[at_most:]
        return got

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        parts = bytearray()
        while len(parts) < count:
            got = self.some(count - len(parts))
            if not got:
                raise ArchiveError("sealed organ ends inside its archive; refuse it")
            parts += got
        return bytes(parts)
