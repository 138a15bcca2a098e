"""Digests of a checkpoint's tensors, read once and kept while its files stay as they are.

A base of 20 GB takes a minute to hash; whoever cuts ten organs out of it should wait once. What
is kept is bound to each file's device, inode, size and times of change, as git's index is.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from not_core import atomic, canonical
from not_core.cache import cache_home
from not_core.errors import FormatError
from not_core.surgery.tensors import SafetensorsFiles, tensor_digest

if TYPE_CHECKING:
    from not_core.surgery.checkpoint import Checkpoint

SETTLED = 2.0
"""Seconds that a file must have been left alone, so that its time of change tells of the next."""


def read_digest(host: "Checkpoint", name: str) -> str:
    """SHA-256 of one tensor's bytes, read now."""
    if isinstance(host.tensors, SafetensorsFiles):
        return host.tensors.digest(name)
    return tensor_digest(host.tensors.read(name))


def tensor_digests(host: "Checkpoint") -> Mapping[str, str]:
    """SHA-256 of the bytes of each tensor that makes up a model."""
    kept = _place(host)
    if kept is not None:
        try:
            table = canonical.plain(kept.read_bytes(), kept.name)
        except (FormatError, OSError):
            table = None
        if isinstance(table, dict) and table.keys() == set(host.names):
            return table
    table = {name: read_digest(host, name) for name in host.names}
    # Kept only when nothing has changed while it was read.
    if kept is not None and kept == _place(host):
        with suppress(OSError):  # a full disk must not take with it what was asked for
            atomic.write(kept, json.dumps(table).encode(), mode=0o600)
    return table


def _place(host: "Checkpoint") -> Path | None:
    """File that keeps the digests of these files in this state.

    None while they are too fresh, or where no cache folder can be used.
    """
    files = host.tensors.files() if isinstance(host.tensors, SafetensorsFiles) else (host.origin,)
    state: list[list[str]] = [[metadata.version("gguf")]]  # what a GGUF's bytes mean is its doing
    for file in files:
        at = file.stat()
        if time.time() - max(at.st_mtime, at.st_ctime) < SETTLED:
            return None
        numbers = (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
        state.append([str(file.resolve()), *map(str, numbers)])
    try:
        return cache_home() / "digests" / f"{canonical.digest(state)}.json"
    except (OSError, RuntimeError):  # not to be made, or the user has no home
        return None
