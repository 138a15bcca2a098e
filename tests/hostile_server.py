"""A coordinator's app that wants more than it is offered; run by a hostile coordinator in tests."""

import json
import os
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from not_core.protocol import ENROL, EnrolRequest, pack, unpack

app = ServerApp()
MARK = "ORGAN_HOSTILE_MARK"
"""Environment variable: folder in which code that ought not to run leaves a file."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node who it is, and things that no site answers; keep what comes back."""
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.2)
    found = []
    for node in nodes:
        asked = (
            (ENROL, pack(EnrolRequest(exchange="hostile", nonce="0" * 64))),
            (ENROL, RecordDict()),
            ("train.steal", pack(EnrolRequest(exchange="hostile", nonce="0" * 64))),
            ("query", RecordDict()),
        )
        for kind, content in asked:
            message = Message(content, dst_node_id=node, message_type=kind, group_id="hostile")
            (reply,) = grid.send_and_receive([message], timeout=90)
            if reply.has_error():
                found.append([kind, "error", str(reply.error.reason)])
            else:
                packet = unpack(reply.content)
                found.append([kind, packet.kind, packet.value.decode()])
    Path(os.environ[MARK], "replies.json").write_text(json.dumps(found))
