"""Federated averaging of LoRA adapters, as Flower's FlowerTune does it, in Flower's own apps.

Each round every site learns from the averaged adapter on, in a fresh AdamW, at a rate that falls as
a cosine over rounds, and sends its adapter; ``FedAvg`` of Flower averages them by the number of
documents of each site. What differs from FlowerTune is what makes the comparison equal: the same
packs of blocks as organs learn from, every site in every round, and a round that is kept.
"""

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.learning import device
from not_core.learning.lessons import Budget, Lessons
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.plan import identity
from simulations.experiments.contest import (
    PARTS,
    Contest,
    Round,
    Setting,
    flat,
    losses,
    perplexities,
)
from simulations.experiments.contestants import Contestant, adapter, step, with_lora
from simulations.federation.engine import play
from simulations.material.sources import Report

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
LEAST = 0.1
"""Learning rate of the last round, as a fraction of the first one's; an organ's falls to it too."""


def rate(setting: Setting, number: int) -> float:
    """Learning rate of a round, constant within it.

    Source: FlowerTune's cosine annealing, flowertune-llm in Flower's examples.
    """
    fall = 0.5 * (1 + math.cos(math.pi * number / setting.rounds))
    return setting.learning_rate * (LEAST + (1 - LEAST) * fall)


def payload(record: ArrayRecord) -> int:
    """Bytes of the tensors in a record, without the hundred of header that each has."""
    return sum(array.numpy().nbytes for array in record.values())


def adapted(host: Checkpoint, setting: Setting) -> Any:
    """The base model with factors beside every linear module; the same at every site."""
    import torch

    torch.manual_seed(setting.seed)
    model: Any = assemble(identity(host.layers), host, {}, dtype=setting.precision)
    return with_lora(model, Contestant(kind="lora", rank=setting.rank))


def factors(model: Any) -> ArrayRecord:
    """What a site sends: PEFT's state of its adapter."""
    return ArrayRecord({name: value.detach() for name, value in adapter(model).items()})


def packs(lessons: Lessons, setting: Setting, number: int) -> list[list[int]]:
    """What a site learns from in a round: the packs after those of the rounds before it."""
    first, last = (setting.round_tokens * count for count in (number - 1, number))
    found, given = [], 0
    budget = Budget(setting.recipe(last), lessons.there, time.monotonic())
    for section in lessons.sections(budget):
        for pack in section:
            if first <= given < last:
                found.append(pack)
            given += lessons.tokens(pack)
    return found


def learn(model: Any, lessons: Lessons, setting: Setting, number: int) -> int:
    """Learn for one round; what learns are the model's factors.

    Returns:
        Tokens learned from.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    import torch

    from not_core.learning.packing import rows_of

    rows = rows_of(model.get_base_model())
    learning = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate(setting, number), weight_decay=0.0, fused=True)
    model.train()
    tokens, clip = 0, setting.recipe(setting.round_tokens).clip
    for pack in packs(lessons, setting, number):
        step(model, optimizer, rows, [lessons.blocks[n] for n in pack], clip)
        tokens += lessons.tokens(pack)
    model.eval()
    return tokens


def site_app(contest: Contest) -> ClientApp:
    """The app of every site; which one it is, ``partition-id`` says."""
    app, setting = ClientApp(), contest.setting

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """Learn from the averaged adapter on, and send the site's own."""
        number, documents = _place(context), contest.documents_of(_name(contest, context))
        _, model = _stand(contest.model, setting)
        lessons = _lessons(contest.model, setting, documents.train)
        began = time.process_time()
        with device.threads(1):
            _load(model, message)
            round_number = message.content[CONFIG]["server-round"]
            tokens = learn(model, lessons, setting, int(str(round_number)))
        metrics: dict[str, Any] = {
            "num-examples": len(documents.train),
            "site": number,
            "tokens": tokens,
            "seconds": time.process_time() - began,
        }
        return _reply(message, {ARRAYS: factors(model), METRICS: MetricRecord(metrics)})

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        """Read the held-out documents with the averaged adapter."""
        documents = contest.documents_of(_name(contest, context))
        host, model = _stand(contest.model, setting)
        metrics: dict[str, Any] = {"num-examples": len(documents.measuring)}
        metrics["site"] = _place(context)
        with device.threads(1):
            _load(model, message)
            for part in PARTS:
                found = losses(model.get_base_model(), host.tokenizer, documents, setting, part)
                metrics[f"{part}-nats"] = [nats for nats, _ in found]
                metrics[f"{part}-tokens"] = [int(tokens) for _, tokens in found]
        return _reply(message, {METRICS: MetricRecord(metrics)})

    return app


@lru_cache(maxsize=1)
def _stand(model: str, setting: Setting) -> tuple[Checkpoint, Any]:
    """The model with factors, made once a process: in a deployment it stays in memory too."""
    host = open_checkpoint(model)
    return host, adapted(host, setting).eval()


@lru_cache(maxsize=8)
def _lessons(model: str, setting: Setting, texts: tuple[str, ...]) -> Lessons:
    """A site's records as tokens, made once a process, too."""
    host, _ = _stand(model, setting)
    return Lessons(host.tokenizer, texts, (), setting.recipe(setting.round_tokens * setting.rounds))


def _place(context: Context) -> int:
    return int(str(context.node_config["partition-id"]))


def _name(contest: Contest, context: Context) -> str:
    return contest.sites[_place(context)]


def _load(model: Any, message: Message) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, message.content.array_records[ARRAYS].to_torch_state_dict())


def _reply(message: Message, content: dict[str, Any]) -> Message:
    return Message(content=RecordDict(content), reply_to=message)


def finished(contest: Contest) -> list[Round]:
    """Rounds that are kept, in order; round 0 is the base model."""
    found: list[Round] = []
    while row := contest.kept(f"round-{len(found):03d}"):
        found.append(row)
    return found


def settled(rounds: Sequence[Round], setting: Setting) -> bool:
    """Whether perplexity on the choosing documents has become flat at all sites."""
    return flat([perplexities(row, "choosing") for row in rounds], setting.tolerance)


def average(contest: Contest, grid: Grid, report: Report) -> None:
    """Average round by round until perplexity is flat or the rounds are used up.

    Each round and its adapter are kept; the next call goes on after the last one.

    Raises:
        ExchangeError: A site gave no answer, or the adapter to go on from is gone.
    """
    setting, sites = contest.setting, len(contest.sites)
    strategy = FedAvg(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites)
    rounds = finished(contest)
    arrays = _adapter(contest, rounds)
    while len(rounds) <= setting.rounds and not settled(rounds, setting):
        number = len(rounds)
        report(f"round {number} of at most {setting.rounds}")
        rows: dict[str, dict[str, Any]] = {name: {} for name in contest.sites}
        if number:
            config = ConfigRecord()
            requests = list(strategy.configure_train(number, arrays, config, grid))
            down = _sizes(requests)
            replies = _answers(grid, requests, sites)
            for reply in replies:
                metrics = reply.content.metric_records[METRICS]
                rows[contest.sites[_site(reply)]] |= {
                    "tokens": metrics["tokens"],
                    "seconds": metrics["seconds"],
                    "down": down[reply.metadata.src_node_id],
                    "up": payload(reply.content.array_records[ARRAYS]),
                }
            averaged, _ = strategy.aggregate_train(number, replies)
            if averaged is None:
                raise ExchangeError(f"nothing was averaged in round {number}")
            arrays = averaged
        requests = list(strategy.configure_evaluate(number, arrays, ConfigRecord(), grid))
        down = _sizes(requests)
        for reply in _answers(grid, requests, sites):
            metrics = reply.content.metric_records[METRICS]
            row = rows[contest.sites[_site(reply)]]
            row["evaluate_down"] = down[reply.metadata.src_node_id]
            for part in PARTS:
                nats, tokens = (metrics[f"{part}-{what}"] for what in ("nats", "tokens"))
                row[part] = list(map(list, zip(nats, tokens, strict=True)))  # type: ignore[arg-type]
        # The adapter first: a round that is kept can be gone on from.
        _save(_path(contest, number), arrays)
        rate_then = rate(setting, number) if number else None
        rounds.append(
            contest.keep(
                f"round-{number:03d}", {"round": number, "learning_rate": rate_then, "sites": rows}
            )
        )
        if number:
            _path(contest, number - 1).unlink(missing_ok=True)


def run(contest: Contest, report: Report) -> list[Round]:
    """Average on Flower's simulation engine, unless that was done before.

    Returns:
        The rounds, from round 0 on.

    Raises:
        ExchangeError: It could not be carried out.
    """
    rounds = finished(contest)
    if len(rounds) > contest.setting.rounds or settled(rounds, contest.setting):
        return rounds
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        average(contest, grid, report)

    play(app, site_app(contest), len(contest.sites), threads=1, parallel=1)
    return finished(contest)


def _answers(grid: Grid, requests: Sequence[Message], sites: int) -> list[Message]:
    """Every site's reply, in the order of the sites: sums of floats follow the order of adding.

    Raises:
        ExchangeError: One is missing; an average over fewer sites is another experiment.
    """
    replies = list(grid.send_and_receive(requests))
    if failed := [reply for reply in replies if reply.has_error()]:
        raise ExchangeError(
            f"a site failed: {failed[0].error.reason}; mend that, and run it again to go on"
        )
    if len(replies) != sites:
        raise ExchangeError(f"{len(replies)} of {sites} sites answered; run it again to go on")
    return sorted(replies, key=_site)


def _site(reply: Message) -> int:
    return int(str(reply.content.metric_records[METRICS]["site"]))


def _sizes(requests: Sequence[Message]) -> dict[int, int]:
    return {
        one.metadata.dst_node_id: payload(one.content.array_records[ARRAYS]) for one in requests
    }


def _path(contest: Contest, number: int) -> Path:
    return contest.work / "adapters" / f"round-{number:03d}.safetensors"


def _adapter(contest: Contest, rounds: Sequence[Round]) -> ArrayRecord:
    """The adapter after the last round; before any, one that changes nothing yet."""
    from safetensors.torch import load_file

    if not rounds:
        return factors(adapted(open_checkpoint(contest.model), contest.setting))
    path = _path(contest, len(rounds) - 1)
    if not path.is_file():
        raise ExchangeError(
            f"{path.name} is gone, so round {len(rounds)} cannot begin; "
            f"remove {contest.cells} to begin anew"
        )
    return ArrayRecord(load_file(path))


def _save(path: Path, arrays: ArrayRecord) -> None:
    from safetensors.torch import save_file

    with atomic.file(path) as work:
        save_file(arrays.to_torch_state_dict(), work)
