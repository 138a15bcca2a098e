"""What a coordinator does with a reply that it cannot use."""

import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from not_core.errors import BankError, OfferError
from not_core.protocol import Packet, Refusal, pack
from server import dispatch


def test_what_was_wrong_with_a_reply_is_in_the_coordinators_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reply = SimpleNamespace(
        metadata=SimpleNamespace(reply_to_message_id="1"),
        has_error=lambda: False,
        content=pack(Refusal(code="policy")),
    )
    grid = SimpleNamespace(push_messages=lambda _: ["1"], pull_messages=lambda _: [reply])

    def then(packet: Packet) -> None:
        raise OfferError("offer is for another exchange")

    codes: list[str] = []
    sender = dispatch.Dispatch(cast(Any, grid), "spring")
    sender.post(7, "query", Refusal(code="x"), seconds=9, then=then, failed=codes.append)
    with caplog.at_level(logging.WARNING):
        sender.run()
    assert codes == ["offer"]
    assert "refused: offer is for another exchange" in caplog.text
    assert (caplog.records[0].exchange, caplog.records[0].code) == ("spring", "offer")  # type: ignore[attr-defined]


class Grid:
    """A node that is away, or dies over a request, so many times before it answers."""

    def __init__(self, refused: int, died: int) -> None:
        self.refused, self.died, self.pushed = refused, died, 0

    def push_messages(self, messages: object) -> list[str]:
        self.pushed += 1
        return [""] if self.pushed <= self.refused else [str(self.pushed)]

    def pull_messages(self, identifiers: list[str]) -> list[Any]:
        return [
            SimpleNamespace(
                metadata=SimpleNamespace(reply_to_message_id=one),
                has_error=lambda one=one: int(one) <= self.refused + self.died,
                error=SimpleNamespace(reason="node unavailable"),
                content=pack(Refusal(code="policy")),
            )
            for one in identifiers
        ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "Message", lambda *_, **__: None)  # Flower's wants a run
    monkeypatch.setattr(dispatch, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "FIRST_REPEAT_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.001)


def asked(grid: Grid, patience: float, seconds: float = 9) -> tuple[list[str], int]:
    """What one request of eight bytes comes to, and how many bytes were sent for it."""
    said: list[str] = []

    def answered(packet: Packet) -> None:
        assert packet.kind == "Refusal"
        said.append("answered")

    sender = dispatch.Dispatch(cast(Any, grid), "spring", patience=patience)
    sender.post(
        *(7, "query", Refusal(code="x")),
        body=lambda: b"12345678",
        seconds=seconds,
        then=answered,
        failed=said.append,
    )
    sender.run()
    return said, sender.sent_bytes


@pytest.mark.parametrize(
    ("refused", "died", "patience", "pushed", "outcome"),
    [
        (0, 0, 0.0, 1, "answered"),
        (1, 0, 0.0, 1, "unreachable"),
        (0, 1, 0.0, 1, "unreachable"),
        (2, 2, 60.0, 5, "answered"),
        (0, 10**9, 0.05, None, "unreachable"),
    ],
)
def test_a_node_that_is_away_is_asked_again_for_a_while(
    refused: int,
    died: int,
    patience: float,
    pushed: int | None,
    outcome: str,
) -> None:
    grid = Grid(refused, died)
    assert asked(grid, patience)[0] == [outcome]
    assert grid.pushed == pushed if pushed else grid.pushed > 2


def test_patience_is_anew_for_a_node_that_came_back_and_worked() -> None:
    class Working(Grid):
        """Dies at once; then works for longer than anybody waits for one that is away, and dies."""

        def push_messages(self, messages: object) -> list[str]:
            self.asked_at = time.monotonic()
            return super().push_messages(messages)

        def pull_messages(self, identifiers: list[str]) -> list[Any]:
            works = self.pushed == 2 and time.monotonic() < self.asked_at + 0.3
            return [] if works else super().pull_messages(identifiers)

    dispatch.FIRST_REPEAT_SECONDS = 60.0
    assert asked(Working(refused=0, died=2), patience=0.1)[0] == ["answered"]
    late = Working(refused=0, died=10**9)
    assert asked(late, patience=0.1, seconds=0.2)[0] in (["timeout"], ["unreachable"])


def test_a_request_that_was_lost_is_repeated_and_the_first_answer_counts() -> None:
    class Losing(Grid):
        """Loses the first two without a word; then answers what it is asked, the lost ones too."""

        def pull_messages(self, identifiers: list[str]) -> list[Any]:
            return super().pull_messages(identifiers) if self.pushed > 2 else []

    grid = Losing(refused=0, died=0)
    said, sent_bytes = asked(grid, 60.0)
    assert said == ["answered"]
    assert grid.pushed == 3
    assert sent_bytes == 3 * 8


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_request_that_nobody_answers_runs_out_of_time_once(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(refused=0, died=0)
    monkeypatch.setattr(grid, "pull_messages", lambda identifiers: [])
    assert asked(grid, patience, seconds=0.2)[0] == ["timeout"]
    assert (grid.pushed > 2) == bool(patience)


def test_slow_work_of_one_site_holds_up_no_other() -> None:
    answered = threading.Event()
    said: list[str] = []

    def work() -> None:
        assert answered.wait(9), "the other site waited for this one"
        raise OfferError("what was checked is not what was offered")

    def replied(packet: Packet) -> None:
        said.append(packet.kind)
        answered.set()

    sender = dispatch.Dispatch(cast(Any, Grid(0, 0)), "spring")
    sender.aside(work, lambda done: done.result(), said.append)
    sender.aside(lambda: None, lambda done: said.append(f"{done.result()}"), said.append)
    sender.post(7, "query", Refusal(code="x"), seconds=9, then=replied, failed=said.append)
    sender.run()
    assert sorted(said) == ["None", "Refusal", "offer"]
    assert said[-1] == "offer"


def reading(grid: Grid, body: Callable[[], bytes]) -> list[str]:
    """What a request comes to whose body is read so."""
    said: list[str] = []
    sender = dispatch.Dispatch(cast(Any, grid), "spring", patience=60.0)
    sender.post(
        *(7, "query", Refusal(code="x")),
        body=body,
        seconds=9,
        then=lambda packet: said.append("answered"),
        failed=said.append,
    )
    sender.run()
    return said


def test_a_body_is_read_whenever_it_is_sent() -> None:
    reads: list[bytes] = []

    def body() -> bytes:
        reads.append(b"12345678")
        return reads[-1]

    grid = Grid(refused=2, died=1)
    assert reading(grid, body) == ["answered"]
    assert len(reads) == grid.pushed == 4


def test_a_body_that_cannot_be_read_is_said_at_once_and_later_fails_its_request() -> None:
    bodies = iter([b"12345678"])

    def body() -> bytes:
        for one in bodies:
            return one
        raise BankError("the bank has no such body any more")

    assert reading(Grid(refused=1, died=0), body) == ["bank"]
    with pytest.raises(BankError):
        reading(Grid(refused=0, died=0), body)


def test_a_body_that_is_gone_when_a_request_is_repeated_leaves_the_first_under_way() -> None:
    bodies = iter([b"12345678"])

    def body() -> bytes:
        for one in bodies:
            return one
        raise BankError("the bank has no such body any more")

    class Slow(Grid):
        """Answers only after it should have been asked again."""

        looks = 0

        def pull_messages(self, identifiers: list[str]) -> list[Any]:
            self.looks += 1
            return super().pull_messages(identifiers) if self.looks > 40 else []

    grid = Slow(refused=0, died=0)
    assert reading(grid, body) == ["answered"]
    assert grid.pushed == 1


@pytest.mark.parametrize(("waiting", "pause"), [(1, 0.2), (500, 0.5), (5000, 3.0)])
def test_who_waits_for_much_looks_more_seldom(
    waiting: int, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(dispatch.time, "sleep", pauses.append)
    grid, looks = Grid(refused=0, died=0), list[int]()

    def pull(identifiers: list[str]) -> list[Any]:
        return Grid.pull_messages(grid, identifiers) if pauses else []

    monkeypatch.setattr(grid, "pull_messages", pull)
    sender = dispatch.Dispatch(cast(Any, grid), "spring", looked=lambda: looks.append(len(pauses)))
    for node in range(waiting):
        sender.post(
            *(node, "query", Refusal(code="x")),
            seconds=99,
            then=lambda packet: None,
            failed=pytest.fail,
        )
    sender.run()
    assert pauses == [pause]
    assert looks == [0, 1], "once after each look"


class Busy(Grid):
    """Two nodes, of which 7 answers nothing before it is let."""

    def __init__(self) -> None:
        super().__init__(refused=0, died=0)
        self.nodes: list[int] = []
        self.at_work = True

    def push_messages(self, messages: Any) -> list[str]:
        self.nodes.append(messages[0])
        return [f"{len(self.nodes)}"]

    def pull_messages(self, identifiers: list[str]) -> list[Any]:
        mine = [one for one in identifiers if self.nodes[int(one) - 1] != 7 or not self.at_work]
        return super().pull_messages(mine)


def post(sender: dispatch.Dispatch, node: int, name: str, seconds: float, said: list[str]) -> None:
    sender.post(
        *(node, "query", Refusal(code="x")),
        seconds=seconds,
        then=lambda packet: said.append(name),
        failed=lambda code: said.append(f"{name} {code}"),
    )


def test_what_a_busy_node_is_to_do_next_takes_no_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It trains longer than a delivery may take; the delivery comes afterwards."""
    monkeypatch.setattr(dispatch, "Message", lambda *_, dst_node_id, **__: dst_node_id)
    grid, said = Busy(), list[str]()
    sender = dispatch.Dispatch(cast(Any, grid), "spring")
    post(sender, 7, "donate", 60, said)
    post(sender, 7, "deliver", 0.05, said)
    post(sender, 8, "other", 60, said)
    sender.run(lambda: "other" in said)
    time.sleep(0.1)
    assert grid.nodes == [7, 8]
    grid.at_work = False
    sender.run()
    assert said == ["other", "donate", "deliver"]
    assert grid.nodes == [7, 8, 7]


def test_who_leaves_one_request_is_not_asked_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "Message", lambda *_, dst_node_id, **__: dst_node_id)
    grid, said = Busy(), list[str]()
    sender = dispatch.Dispatch(cast(Any, grid), "spring")
    for name in ("first", "second", "third"):
        post(sender, 7, name, 0.05, said)
    sender.run()
    assert said == ["first timeout", "second timeout", "third timeout"]
    assert grid.nodes == [7]
    grid.at_work = False
    post(sender, 7, "later", 60, said)
    sender.run()
    assert said[3:] == ["later"]
