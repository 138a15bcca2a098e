"""What waiting for replies costs Flower's SuperLink: its own state, in a database as it is served.

A look for replies names every message that waits for one, and the state reads them all. Nodes look
for messages, too, whether there are any or not.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager

from not_core.errors import ExchangeError

NODES, LOOKS = 100, 5
HOUR = 3600.0


def looks(place: Path, waiting: Sequence[int]) -> list[dict[str, Any]]:
    """Measure looks for replies that have not come, in a process of its own.

    Args:
        place: Folder for the state.
        waiting: Numbers of messages that wait, ascending.

    Returns:
        Of each number: milliseconds of a processor to take in a message, to look once for replies
        to all, and to look once for messages to a node that has none.

    Raises:
        ExchangeError: Flower does not take a message.
    """
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", __name__, str(place), *map(str, waiting)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ExchangeError(f"measuring Flower's state failed: {done.stderr.strip()[-300:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def _looks(place: Path, waiting: Sequence[int]) -> list[dict[str, Any]]:
    database = str(place / "state.db")
    factory = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database))
    state = factory.state()
    spare, *nodes = [
        state.create_node("bench", "bench", os.urandom(32), HOUR) for _ in range(NODES)
    ]
    for node in (spare, *nodes):
        state.activate_node(node, HOUR)
    run = state.create_run(
        fab_id="bench",
        fab_version="1",
        fab_hash="0" * 64,
        override_config={},
        federation_id=NOOP_FEDERATION_ID,
        federation_config=None,
        flwr_aid=None,
        primary_task_type=TaskType.SERVER_APP,
    )
    # Flower notes the run in globals of the process, without which no message can be made.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, 1
    stored: set[str] = set()
    rows = []
    for number in (1, *waiting):  # the first makes ready what is made once
        before, started = len(stored), time.process_time()
        while len(stored) < number:
            message = Message(
                RecordDict(),
                dst_node_id=nodes[len(stored) % len(nodes)],
                message_type="query",
                ttl=HOUR,
            )
            message.metadata.__dict__["_message_id"] = message.object_id
            identifier = state.store_message_ins(message)
            if identifier is None:
                raise ExchangeError("Flower's state takes no message; see that flwr is 1.41")
            stored.add(identifier)
        taken = (time.process_time() - started) / (len(stored) - before)
        look = _ms(partial(state.get_message_res, stored, run))
        idle = _ms(partial(state.get_message_ins, spare, 1))
        taken = round(1e3 * taken, 2)
        rows.append({"waiting": number, "store_ms": taken, "look_ms": look, "idle_ms": idle})
    return rows[1:]


def _ms(look: Callable[[], object]) -> float:
    """Milliseconds of a processor that a look takes."""
    costs = []
    for _ in range(LOOKS):
        started = time.process_time()
        look()
        costs.append(time.process_time() - started)
    return round(1e3 * statistics.median(costs), 2)


if __name__ == "__main__":
    print(json.dumps(_looks(Path(sys.argv[1]), [int(one) for one in sys.argv[2:]])))
