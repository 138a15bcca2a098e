"""What processes of a service say: one JSON object a line, on standard error, for ``logs/``.

Each has ``time``, ``level``, ``from`` and ``says``; facts such as ``exchange`` and ``site`` are
fields of their own. ``where`` is an exception's traceback.
"""

import logging

from pythonjsonlogger.json import JsonFormatter

OURS = ("client", "not_core", "server", "flwr")
"""Loggers that are heard from ``INFO`` on; all others from ``WARNING``."""


def begin() -> None:
    """Let this process say what it has to say as JSON lines, and in no other way."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={
                "levelname": "level",
                "name": "from",
                "message": "says",
                "exc_info": "where",
            },
            timestamp="time",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)
