"""A site whose training leaves its layers as they are, and which notes what each message took.

Importing this changes ``client`` for the whole process: only the sites of ``bench-served`` do, by
name.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message

from client import app as site
from client import donor
from not_core.manifest import TrainingFacts
from not_core.protocol import Terms
from simulations.benches.bench_served import COSTS, TOKENS
from simulations.machine import peak_bytes

if TYPE_CHECKING:
    from client.home import Site
    from client.training import Training
    from not_core.learning.training import TrainedOrgan
    from not_core.surgery.checkpoint import Checkpoint


def _answer(
    message: Message, find_home: Callable[[Context], Path], context: Context, *rest: Any
) -> Message:
    """Answer as a site does, and note what it took of this process, which answers once."""
    started = time.monotonic()
    reply = _as_it_is(message, find_home, context, *rest)
    note = {
        "message": message.metadata.message_type.rpartition(".")[2],
        "seconds": time.monotonic() - started,
        "peak_mb": peak_bytes() / 1e6,
    }
    with (find_home(context) / COSTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")
    return reply


def _prepare(site: "Site", host: "Checkpoint", terms: Terms) -> "Training":
    """Training that leaves the base's layers as they are, and reads them when they are written."""
    from client.training import Training
    from not_core.learning.training import TrainedOrgan
    from not_core.surgery.organ import extract

    def train(planted: tuple[str, ...], advance: Callable[[int, float], None]) -> "TrainedOrgan":
        facts = TrainingFacts(
            scaffold="in-situ",
            rank=None,
            tokens=terms.tokens,
            steps=1,
            seed=terms.seed,
            learning_rate=terms.learning_rate,
            block_tokens=TOKENS,
            step_tokens=TOKENS,
            head_sample=None,
            precision="bfloat16",
            device="none",
            threads=1,
            libraries={},
        )
        return TrainedOrgan(extract(host, terms.span), None, facts, (), ())

    return Training(terms.tokens, {}, train)


_as_it_is = site.answer
setattr(site, "answer", _answer)  # noqa: B010 - a name of another module
setattr(donor, "prepare", _prepare)  # noqa: B010
app = site.site_app(site.configured_home)
"""What takes the place of ``client.app:app`` at these sites."""
