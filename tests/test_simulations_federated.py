"""Organ exchange against federated averaging, on a small model; once on Flower's engine."""

import gc
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, sentences, write_jsonl
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import load_file

from not_core.errors import ExchangeError
from simulations import commands
from simulations.experiments import (
    averaging,
    contest,
    federated,
    federated_results,
    one_shot,
)
from simulations.experiments.contest import Contest, Setting
from simulations.federation.sites import load_sites

SETTING = Setting(
    rank=2, round_tokens=480, rounds=2, choosing=3, measuring=4, block_tokens=32, learning_rate=2e-2
)
SITES = """
[[site]]
name = "hospital"
domain = "medicine"
donates = true
records = "hospital.jsonl"
[[site]]
name = "clinic"
domain = "medicine, few"
donates = false
records = "clinic.jsonl"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("federated") / "m", "llama", 6, width=16))


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "hospital.jsonl", sentences(40, 1, (0, 20)))
    write_jsonl(tmp_path / "clinic.jsonl", sentences(15, 2, (0, 20)))
    (tmp_path / "sites.toml").write_text(SITES)
    return tmp_path / "sites.toml"


@pytest.fixture
def ready(model: str, sites: Path, tmp_path: Path) -> Contest:
    federation = load_sites(sites, None, 0)
    return contest.prepare(SETTING, federation, model, tmp_path / "out", lambda line: None)


class DirectGrid:
    """Flower's grid without Flower's network, to the real app of every site."""

    def __init__(self, given: Contest) -> None:
        # Flower notes the run in globals of the process, without which no message can be made.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.app = averaging.site_app(given)
        self.nodes = {place + 5: place for place in range(len(given.sites))}
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self.failing: int | None = None

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message]) -> list[Message]:
        found = []
        for message in messages:
            self.requests.append(message)
            node = message.metadata.dst_node_id
            context = Context(1, node, {"partition-id": self.nodes[node]}, RecordDict(), {})
            reply = (
                Message(Error(1, "broken"), reply_to=message)
                if node == self.failing
                else self.app(message, context)
            )
            found.append(reply)
        self.replies += found
        return found


def averaged(given: Contest) -> DirectGrid:
    grid = DirectGrid(given)
    averaging.average(given, grid, lambda line: None)  # type: ignore[arg-type]
    return grid


def adapter(given: Contest, number: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(
        given.work / "adapters" / f"round-{number:03d}.safetensors"
    )
    return found


def trained(grid: DirectGrid, number: int) -> list[Message]:
    """What sites sent in a round, by site: Flower asks them in an order of its own."""
    found = [
        reply
        for request, reply in zip(grid.requests, grid.replies, strict=True)
        if request.metadata.message_type == "train"
        and request.content["config"]["server-round"] == number
    ]
    return sorted(found, key=lambda reply: int(reply.content["metrics"]["site"]))


def test_the_average_is_weighted_by_documents(ready: Contest) -> None:
    grid = averaged(ready)
    one, two = trained(grid, 2)
    weights = [len(ready.documents[site].train) for site in ready.sites]
    assert weights == [33, 8]
    states = [reply.content["arrays"].to_torch_state_dict() for reply in (one, two)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name, value in adapter(ready, 2).items():
        mean = (33 * states[0][name] + 8 * states[1][name]) / 41
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-7)
        assert value.dtype == torch.float32
    first, *_, last = averaging.finished(ready)
    before, after = (contest.perplexities(row, "measuring") for row in (first, last))
    assert all(after[site] < before[site] for site in ready.sites)


def test_bytes_are_those_of_the_tensors_that_travelled(ready: Contest) -> None:
    grid = averaged(ready)
    size = sum(value.nbytes for value in adapter(ready, 2).values())
    parameters = sum(value.numel() for value in adapter(ready, 2).values())
    assert size == 4 * parameters > 0
    sent = [averaging.payload(one.content["arrays"]) for one in grid.requests]
    assert sent == [size] * (2 + 2 * 4)  # two sites: read, then learn and read in two rounds
    first, *rounds = averaging.finished(ready)
    assert "down" not in first["sites"]["clinic"]
    for row in rounds:
        for site in row["sites"].values():
            assert (site["down"], site["up"], site["evaluate_down"]) == (size,) * 3
    # Serialised they are hardly larger.
    (reply, _) = trained(grid, 1)
    record: ArrayRecord = reply.content["arrays"]
    serialised = sum(len(array.data) for array in record.values())
    assert 0 < serialised - size <= 256 * len(record)


def test_rounds_go_on_where_they_stopped(ready: Contest, sites: Path, tmp_path: Path) -> None:
    grid = DirectGrid(ready)
    real = grid.send_and_receive

    def broken(messages: Iterable[Message]) -> list[Message]:
        if len(averaging.finished(ready)) == 2:
            grid.failing = 6
        return real(messages)

    grid.send_and_receive = broken  # type: ignore[method-assign]
    with pytest.raises(ExchangeError, match="a site failed"):
        averaging.average(ready, grid, lambda line: None)  # type: ignore[arg-type]
    assert len(averaging.finished(ready)) == 2
    kept = {path: path.stat().st_mtime_ns for path in ready.cells.iterdir()}

    again = averaged(ready)
    assert len(again.requests) == 4  # one round of two sites, and no reading of the base model
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert averaged(ready).requests == []
    whole = contest.prepare(
        SETTING, load_sites(sites, None, 0), ready.model, tmp_path / "whole", lambda line: None
    )
    averaged(whole)
    for name, value in adapter(whole, 2).items():
        assert torch.equal(value, adapter(ready, 2)[name])
    assert [path.name for path in (ready.work / "adapters").iterdir()] == ["round-002.safetensors"]

    (ready.cells / "round-002.json").unlink()
    (ready.work / "adapters" / "round-002.safetensors").unlink()
    with pytest.raises(ExchangeError, match="is gone"):
        averaged(ready)


def test_rounds_learn_from_one_pack_after_another_at_a_falling_rate(ready: Contest) -> None:
    from not_core.learning.lessons import Lessons
    from not_core.surgery.checkpoint import open_checkpoint

    host, texts = open_checkpoint(ready.model), ready.documents["hospital"].train

    def lessons() -> Lessons:
        return Lessons(host.tokenizer, texts, (), SETTING.recipe(960))

    first, second = (averaging.packs(lessons(), SETTING, number) for number in (1, 2))
    both = lessons()
    double = Setting(**{**_fields(SETTING), "round_tokens": 960})
    assert first + second == averaging.packs(both, double, 1)
    assert sum(map(both.tokens, first)) >= 480
    rates = [averaging.rate(SETTING, number) for number in (0, 1, 2)]
    assert rates == pytest.approx([2e-2, 1.1e-2, 2e-3])


def _fields(setting: Setting) -> dict[str, Any]:
    return {name: getattr(setting, name) for name in Setting.__dataclass_fields__}


def test_averaging_ends_when_it_is_flat() -> None:
    def series(*values: float) -> list[dict[str, float]]:
        return [{"a": value, "b": 20.0} for value in values]

    assert contest.flat(series(30, 20, 20.05, 20), 0.005)
    assert not contest.flat(series(30, 20, 20.05), 0.005)
    assert not contest.flat(series(20, 20), 0.005)
    assert not contest.flat(series(20, 20, 20.2), 0.005)  # one site still changes
    assert not contest.flat(series(20, 20.2, 20.2), 0.005)
    assert not contest.flat([], 0.005)


def test_a_site_keeps_the_organ_that_its_choosing_documents_find_best(ready: Contest) -> None:
    averaged(ready)
    start = averaging.finished(ready)[0]["sites"]
    said: list[str] = []
    found = one_shot.run(ready, 960, start, said.append)
    assert [line for line in said if "trains" in line] == [
        f"{site} trains an organ on 960 tokens" for site in ready.sites
    ]
    size = json.loads((ready.cells / "organ-clinic-960.json").read_bytes())["bytes"]
    factors = load_file(ready.work / "organs" / "clinic-960.safetensors")
    assert size == sum(value.nbytes for value in factors.values())
    assert {value.dtype for value in factors.values()} == {torch.float16}
    for row in found.values():
        assert (row["up"], row["down"]) == (size, size)  # one other site
        assert row["candidates"][row["kept"]] == min(row["candidates"].values())
        assert {"nothing", "hospital", "clinic"} <= set(row["candidates"])
        assert row["tokens"] >= 960
    assert found["clinic"]["kept"] != "nothing"
    own = contest.reading(found["clinic"]["own"]).perplexity
    assert contest.reading(found["clinic"]["measuring"]).perplexity != own, "another's was kept"
    reading = contest.reading(found["clinic"]["measuring"])
    assert reading.perplexity < contest.reading(start["clinic"]["measuring"]).perplexity
    # A second call does nothing again; one that was cut off trains nothing again.
    assert one_shot.run(ready, 960, start, said.append) == found
    (ready.cells / "organs-960.json").unlink()
    said.clear()
    assert one_shot.run(ready, 960, start, said.append) == found
    assert said == []


@pytest.fixture
def made() -> Callable[[float, float], dict[str, Any]]:
    """A summary of a contest whose perplexities are given: of the last round, and with organs."""

    def losses(perplexity: float) -> list[list[float]]:
        nats = float(torch.tensor(perplexity, dtype=torch.float64).log())
        return [[nats * tokens, tokens] for tokens in (100, 90, 110, 80)]

    def site(perplexity: float, **more: Any) -> dict[str, Any]:
        return {"choosing": losses(perplexity), "measuring": losses(perplexity), **more}

    def summary(average: float, organs: float) -> dict[str, Any]:
        learned = {"down": 400, "up": 400, "evaluate_down": 400, "seconds": 7.0, "tokens": 96}
        rounds = [
            {"round": 0, "sites": {"clinic": site(30, evaluate_down=400)}},
            {"round": 1, "sites": {"clinic": site(25, **learned)}},
            {"round": 2, "sites": {"clinic": site(average, **learned)}},
        ]
        kept = {"kept": "hospital", "seconds": 10.0, "up": 100, "down": 300, "tokens": 192}
        kept |= {"trying": 4.0}
        alone = {4: 29, 2: 27, 1: 31}  # the longest training is too long
        exchanges = []
        for share, own in alone.items():
            more = {**kept, "own": losses(own), "candidates": {"clinic": own}}
            exchanges.append({"tokens": 192 // share, "sites": {"clinic": site(organs, **more)}})
        return federated_results.summary(SETTING, rounds, exchanges)

    return summary


def test_the_tables_say_when_fedavg_is_better(
    made: Callable[[float, float], dict[str, Any]],
) -> None:
    text = federated_results.markdown(made(20, 26))
    assert "clinic: FedAvg is better; perplexity with organs is +30.0% [+30.0%, +30.0%]" in text
    # After round 1: one download, one upload, and the average; 1,200 of 400 bytes, 7 of 10 s.
    assert "| clinic | 1 | 1,200 | 3.00 | 7 | 0.70 |" in text
    assert "| clinic | FedAvg, LoRA | 30.00 | 20.00 | round 2 | 2,000 | 14 | 2 |" in text
    assert "| clinic | organs | 30.00 | 26.00 | hospital | 400 | 10 | 1 |" in text
    assert (
        "| clinic | its own organ, unshared | 30.00 | 27.00 | clinic, 96 tokens | 0 | 6 | 0 |"
        in text
    )
    assert "at 20.00, organs at 26.00 with 40.0% of its bytes if it sent float16; aimed" in text
    assert "- FedAvg is not flat" in text
    assert "- Organs are flat" in text
    by_bytes, by_seconds = federated_results.chart(made(20, 26)).rows[0]
    fedavg, organs = by_bytes.series
    assert [one.x for one in fedavg.points] == pytest.approx([0.0012, 0.002])
    assert [one.y for one in fedavg.points] == pytest.approx([25, 20])
    assert [one.x for one in organs.points] == pytest.approx([0.0004] * 3)
    assert [one.x for one in by_seconds.series[0].points] == [0, 7, 14]


def test_the_tables_say_when_organs_are_better(
    made: Callable[[float, float], dict[str, Any]],
) -> None:
    text = federated_results.markdown(made(20, 15))
    assert "clinic: organs are better; perplexity with organs is -25.0%" in text
    assert "| clinic | not in 2 |" in text
    assert "no higher with at most 10%: **no**" in text, "as low, but with a fifth of the bytes"
    # Organs that gain nothing are reached before anything is sent.
    assert "| clinic | 0 | 0 | 0.00 | 0 | 0.00 |" in federated_results.markdown(made(20, 30))
    assert "no sure difference" in federated_results.markdown(made(20, 20))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_contest_on_flowers_engine(model: str, sites: Path, tmp_path: Path) -> None:
    """One real run, and a second that finds all of it done."""
    said: list[str] = []
    given = (SETTING, load_sites(sites, None, 0), model, tmp_path / "out", said.append)
    found = federated.experiment(*given)
    gc.collect()  # what Ray left open ends here, under this test's filter
    assert [line for line in said if line.startswith("round")] == [
        f"round {number} of at most 2" for number in range(3)
    ]
    assert {(row["site"], row["method"]) for row in found["table"]} == {
        (site, method)
        for site in ("hospital", "clinic")
        for method in (federated_results.FEDAVG, federated_results.ORGANS, federated_results.OWN)
    }
    for row in found["table"]:
        assert (row["bytes"] > 0) == (row["method"] != federated_results.OWN)
        assert row["seconds"] > 0
        assert row["end"] < row["start"]
    assert json.loads((tmp_path / "out" / "federated.json").read_bytes()) == found
    assert "| clinic | organs |" in (tmp_path / "out" / "federated.md").read_text()
    assert (tmp_path / "out" / "federated.png").is_file()
    said.clear()
    assert federated.experiment(*given) == found
    assert said == []


def test_a_site_that_nobody_is_called_is_named(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    words = ("federated", "--only", "clinic,nobody", "--model", tmp_path, "--out", tmp_path / "out")
    code, _, err = call(*words, app=commands.app)
    assert code == 1
    assert "no site is called nobody; expected some of hospital, clinic, " in err
    assert not (tmp_path / "out").exists()
