"""Where fetched and derived files live: one folder outside every checkout."""

import os
import sys
from pathlib import Path

VARIABLE = "ORGAN_EXCHANGE_CACHE"
"""Environment variable that names the cache folder itself."""


def cache_home() -> Path:
    """The cache folder, made on first use.

    It is ``$ORGAN_EXCHANGE_CACHE``, else ``organ-exchange`` in the platform's user cache folder.
    A folder made here is readable by its owner only (0700); one that exists keeps its permissions,
    because it may be shared on purpose.

    Returns:
        An absolute path to an existing folder.

    Source: XDG Base Directory Specification 0.8, for ``XDG_CACHE_HOME``.
    """
    home = cache_place()
    home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700, exist_ok=True)
    return home


def cache_place() -> Path:
    """Where the cache folder is, or will be made."""
    named = os.environ.get(VARIABLE)
    return (Path(named).expanduser() if named else _user_cache() / "organ-exchange").absolute()


def _user_cache() -> Path:
    xdg = os.environ.get("XDG_CACHE_HOME")
    if xdg and Path(xdg).is_absolute():  # the specification ignores relative paths
        return Path(xdg)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path.home() / ".cache"
