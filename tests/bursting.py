"""A site's app that fails in words that nobody may read: in its work and, once, in handing it over.

``BURST`` of the environment has the words; ``BURST_FILE`` is made when the second has happened.
"""

import os
from pathlib import Path
from typing import Any, NoReturn

import flwr.supernode.runtime.run_clientapp as run

from client import donor
from client.app import app
from not_core.protocol import DONATE

__all__ = ["app"]

_told = Path(os.environ["BURST_FILE"])
_announce = run.push_message


def _burst(*given: object) -> NoReturn:
    raise RuntimeError(os.environ["BURST"])


def _push(client: Any, message: Any, context: Any) -> Any:
    if message.metadata.message_type == DONATE and not _told.exists():
        _told.touch()
        _burst()
    return _announce(client, message, context)


setattr(donor, "donate", _burst)  # noqa: B010 - a name of another module
run.push_message = _push
