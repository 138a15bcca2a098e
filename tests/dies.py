"""A site's app whose process dies once it is told to, between saying that a segment comes and it.

Told by a file that the variable ``DIES`` names.
"""

import os
import signal
from pathlib import Path
from typing import Any

import flwr.supernode.runtime.run_clientapp as run
from flwr.app import Message

from client.app import app
from not_core.protocol import SEGMENT

__all__ = ["app"]

_told = Path(os.environ["DIES"])
_announce = run.push_message


def _push(client: Any, message: Message, context: Any) -> Any:
    if message.metadata.message_type == SEGMENT and _told.exists():
        _told.unlink()
        run.push_objects = lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL)
    return _announce(client, message, context)


run.push_message = _push
