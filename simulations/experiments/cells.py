"""Measurements that are kept: one file each, in a folder; what is there is not measured again.

Every measurement runs in a process of its own, on one thread, so that its memory and time are its
own. What they say together is written when all are there.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.learning.evaluation import read_losses
from not_core.surgery.checkpoint import open_checkpoint
from simulations import charts
from simulations.experiments.intervals import Row
from simulations.experiments.kept import BLOCK_TOKENS, LIBRARIES
from simulations.machine import processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED = 3
"""Raised when the trainer or its rivals come to compute otherwise or at another cost, or are given
other defaults. It stands in what is kept; 0 is what does not say."""
SO_FAR = "-so-far"
SO_FAR_SECONDS = 60.0
"""How old what measurements say may be while others go on."""
Found = TypeVar("Found")


class Measurement(Protocol):
    """A dataclass that says all about one measurement; ``file`` is the name of its result."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def file(self) -> str:
        """Name of its result."""


def run(
    cases: Sequence[Measurement],
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    module: str,
    needs: Sequence[str] = (),
    since: int = 0,
    kept_only: bool = False,
    advance: Callable[..., None] = lambda *units, **how: None,
) -> Iterator[dict[str, Any]]:
    """Measurements of cases, in order: kept ones are read, others made and kept, or left out.

    Args:
        cases: What to measure.
        model: Folder of the base model.
        out: Folder of one file a measurement.
        say: Told of progress.
        module: What is run for each, with the case as JSON and the model; it prints the result.
        needs: Packages that it takes, beside those of a simulation.
        since: What is kept by an earlier ``MEASURED`` is measured anew.
        kept_only: Whether cases that are not kept are left out, and those kept taken as they are.
        advance: Told of each that is there; see ``program.Advance``.

    Raises:
        ExchangeError: A measurement failed, or what is kept is of another model, or a package is
            not installed.
    """
    if not kept_only:
        _prepare(out, needs)
    for case in cases:
        kept = out / case.file
        there = kept.is_file()
        if kept_only and not there:
            continue
        row = json.loads(kept.read_bytes()) if there else {}
        if there and not kept_only:
            if row.get("base") != _base(model):
                raise ExchangeError(f"{kept} is of another base model; choose another --out")
            there = row.get("measured", 0) >= since
        if not there:
            say(f"measuring {kept.stem}")
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", module, json.dumps(asdict(case)), model],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ExchangeError(
                    f"{kept.stem} failed, the same command goes on from there; it said: "
                    f"{done.stderr[-2000:]}"
                )
            row = _about(case, needs) | {"base": _base(model)}
            row |= json.loads(done.stdout.splitlines()[-1])
            atomic.write(kept, json.dumps(row, indent=1).encode())
        advance(1, kept=there)
        yield row


@lru_cache(maxsize=1)
def _base(model: str) -> str:
    """Digest of a model's weights, read once a process: cases are often run one by one."""
    return open_checkpoint(model).weights_digest


def _prepare(out: Path, needs: Sequence[str]) -> None:
    for name in needs:
        if importlib.util.find_spec(name) is None:
            raise ExchangeError(
                f"the package {name} is not installed; install organ-exchange[comparison]"
            )
    out.mkdir(parents=True, exist_ok=True)


def _about(case: Measurement, needs: Sequence[str]) -> dict[str, Any]:
    return {
        "measured": MEASURED,
        "case": json.loads(json.dumps(asdict(case))),
        "machine": processor(),
        "versions": {name: metadata.version(name) for name in (*LIBRARIES, *needs)},
    }


def read(
    model: "PreTrainedModel", tokenizer: Any, texts: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Perplexity and losses on each set of documents, by its name, as results keep them."""
    row: dict[str, Any] = {}
    for name, documents in texts.items():
        reading = read_losses(model, tokenizer, documents, block_tokens=BLOCK_TOKENS)
        row[f"{name}_perplexity"] = round(reading.perplexity, 4)
        row[f"{name}_losses"] = [(round(one.nats, 4), one.tokens) for one in reading.losses]
    return row


def stem(name: str, *of: str, quick: bool = False) -> str:
    """What the results of a part are called, so that they do not pass for those of all."""
    return "-".join([name, *(["quick"] if quick else []), *of])


def tell(
    out: Path,
    name: str,
    rows: Iterable[Row],
    summary: Callable[[Sequence[Row]], Found],
    markdown: Callable[[Found], str],
    chart: Callable[[Found], charts.Chart],
) -> Found:
    """Write what measurements say together: JSON, a page and a chart.

    While they go on, what they say so far is in a file of its own: a page that was made of all of
    them stays until all are there again.

    Args:
        out: Folder.
        name: What the files are called.
        rows: Measurements, as they come.
        summary: What they say, of some or all.
        markdown: The page.
        chart: The chart.

    Raises:
        ExchangeError: There is no measurement.
    """
    measured: list[Row] = []
    so_far, told = out / f"{name}{SO_FAR}.json", time.monotonic()
    for row in rows:
        measured.append(row)
        if time.monotonic() - told > SO_FAR_SECONDS:
            atomic.write(so_far, json.dumps(summary(measured), indent=1).encode())
            told = time.monotonic()
    if not measured:
        raise ExchangeError(f"nothing is measured in {out}; run the same without --kept-only")
    found = summary(measured)
    publish(out, name, found, markdown(found), chart(found))
    so_far.unlink(missing_ok=True)
    return found


def publish(out: Path, name: str, found: Any, page: str, chart: charts.Chart) -> None:
    """Write what was found as JSON, as a page and as a chart."""
    atomic.write(out / f"{name}.json", json.dumps(found, indent=1).encode())
    atomic.write(out / f"{name}.md", page.encode())
    charts.write(chart, out / name)
