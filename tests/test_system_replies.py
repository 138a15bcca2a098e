"""Replies that a site begins and never ends, and replies that are none: its own affair."""

import os
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict

from not_core.protocol import DELIVER, SEGMENT_BYTES, Refusal, pack
from server.catalogue import Happened
from server.home import Coordinator
from simulations.bare_sites import names
from simulations.served import until
from tests.played import Line, begin, made, played, started

SITES, DONORS = 5, 2
SILENT, NONSENSE, HUGE = 2, 3, 4
"""Sites that take part and spoil what they answer to a delivery."""


def test_a_spoilt_reply_is_its_senders_affair(tmp_path: Path) -> None:
    """While one reply never comes whole, the donors' organs go from hand to hand."""
    announced: list[Line] = []

    def silent(line: Line, request: Message) -> bool:
        if request.metadata.message_type != DELIVER:
            return False
        line.announce(Message(pack(Refusal(code="policy")), reply_to=request))
        announced.append(line)
        return True

    def nonsense(line: Line, request: Message) -> bool:
        if request.metadata.message_type != DELIVER:
            return False
        line.announce(Message(RecordDict(), reply_to=request), ConfigRecord({"a": 1}))()
        return True

    def huge(line: Line, request: Message) -> bool:
        if request.metadata.message_type != DELIVER:
            return False
        body = os.urandom(SEGMENT_BYTES + 2 * 1024 * 1024)
        line.announce(Message(pack(Refusal(code="policy"), body), reply_to=request))()
        return True

    def failures() -> set[tuple[str, str]]:
        return {(one.site, one.code) for one in events(coordinator) if one.code}

    with (
        made(tmp_path, SITES) as coordinator,
        started(coordinator),
        played(coordinator, SITES, DONORS, {SILENT: silent, NONSENSE: nonsense, HUGE: huge}),
    ):
        begin(coordinator, SITES)
        until(lambda: len(coordinator.catalogue.receipts("bench")) == 4, 100, "four receipts")
        assert announced, "the reply that never comes was begun"
        spoilt = {(names(SITES)[number], "format") for number in (NONSENSE, HUGE)}
        until(lambda: spoilt <= failures(), 60, "what was spoilt is named")
        silent_one = names(SITES)[SILENT]
        assert not [one for one in failures() if one[0] == silent_one], "which is still awaited"
        [begun] = coordinator.catalogue.begun()
        assert (begun.state, begun.runs) == ("running", 1)


def events(coordinator: Coordinator) -> list[Happened]:
    return list(coordinator.catalogue.events("bench", 1000))
