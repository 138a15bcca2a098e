"""What both methods of the comparison with federated averaging are given, and what they leave.

The same documents at the same sites, the same tokens; results of one contest lie under a digest of
all that decides them, so that another contest never goes on with them.
"""

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from not_core import atomic, canonical
from not_core.learning.device import Precision
from not_core.learning.evaluation import DocumentLoss, Reading, read_losses
from not_core.learning.recipe import Recipe
from not_core.learning.records import read_records, split
from not_core.surgery.checkpoint import open_checkpoint
from simulations.federation.sites import Federation, materialise
from simulations.machine import processor
from simulations.material.sources import Report

PARTS = ("choosing", "measuring")
"""Held-out documents: those by which a site chooses what to keep, and those reported on."""


Round = Mapping[str, Any]
"""One finished round as it is kept: number, learning rate and, by site, what it took and gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What decides the course of a contest, beside model and documents.

    Attributes:
        rank: Of the factors, in both methods.
        learning_rate: Peak, in both methods.
        round_tokens: Training tokens a site and round of averaging.
        rounds: Most rounds; the cosine over rounds ends there.
        choosing: Documents by which a site chooses.
        measuring: Documents to report on.
        tolerance: Relative change of perplexity below which a round changed nothing.
        block_tokens: Longest block, in tokens.
        precision: Type that models compute in, in both methods.
        seed: Of splits, orders and first values.
        shares: Organs learn from all tokens that averaging took, divided by each of these: the
            difference shows whether more would still have helped.
    """

    rank: int = 16
    learning_rate: float = 2e-3
    round_tokens: int = 2048
    rounds: int = 24
    choosing: int = 12
    measuring: int = 20
    tolerance: float = 0.005
    block_tokens: int = 256
    precision: Precision = "float32"
    seed: int = 0
    shares: tuple[int, ...] = (4, 2, 1)

    def __post_init__(self) -> None:
        least = min(self.rank, self.rounds, self.choosing, self.measuring, *self.shares)
        if least < 1 or not 0 < self.tolerance < 1 or self.shares[-1:] != (1,):
            raise ValueError(
                "expected rank, rounds, choosing and measuring >= 1, 0 < tolerance < 1, "
                "shares that end with 1"
            )
        if self.round_tokens < self.block_tokens:  # a step's room: a round may else be empty
            raise ValueError("expected round_tokens >= block_tokens")

    def recipe(self, tokens: int) -> Recipe:
        """How sites learn, by either method, from so many tokens."""
        return Recipe(
            rank=self.rank,
            tokens=tokens,
            learning_rate=self.learning_rate,
            block_tokens=self.block_tokens,
            step_tokens=self.block_tokens,
            precision=self.precision,
            scale=1.0,  # no average is scaled, either
            seed=self.seed,
            threads=1,
            device="cpu",
        )


@dataclass(frozen=True, slots=True)
class Documents:
    """A site's: to learn from, to choose by, to report on; near-duplicates share a part."""

    train: tuple[str, ...]
    choosing: tuple[str, ...]
    measuring: tuple[str, ...]


@dataclass(frozen=True)
class Contest:
    """One contest, ready to be carried out.

    Attributes:
        setting: What decides its course.
        model: Folder of the base model.
        sites: Their names; a site's place is its ``partition-id``.
        cells: Folder of results, one JSON file each.
        work: Private folder of documents and tensors.
    """

    setting: Setting
    model: str
    sites: tuple[str, ...]
    cells: Path
    work: Path

    @cached_property
    def documents(self) -> Mapping[str, Documents]:
        """Every site's documents; a site's app reads its own and no other's."""
        return {site: self.documents_of(site) for site in self.sites}

    def documents_of(self, site: str) -> Documents:
        """One site's documents, read anew."""
        found = json.loads((self.work / "sites" / f"{site}.json").read_bytes())
        return Documents(**{name: tuple(texts) for name, texts in found.items()})

    def kept(self, name: str) -> dict[str, Any] | None:
        """A result that an earlier run left."""
        path = self.cells / f"{name}.json"
        return dict(json.loads(path.read_bytes())) if path.is_file() else None

    def keep(self, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write a result, whole or not at all, and return it as it will be read.

        With the processor that it was measured on; what else decides it is in the folder's name.
        """
        text = json.dumps({"machine": processor(), **row}, indent=1)
        atomic.write(self.cells / f"{name}.json", text.encode())
        return dict(json.loads(text))


def prepare(
    setting: Setting, federation: Federation, model: str, out: Path, report: Report
) -> Contest:
    """Deal out and split the sites' documents.

    Args:
        setting: What decides the course.
        federation: Sites and what they hold; how much they hold out is the setting's.
        model: Folder of the base model.
        out: Gets ``cells``, and ``work``, which git ignores because records and tensors lie there.
        report: Told what is being fetched.

    Raises:
        RecordsError: A site holds too few documents.
        SourceError: Text cannot be fetched.
    """
    found: dict[str, Documents] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = materialise(federation, Path(folder), report)
        for site in federation.sites:
            texts = read_records(paths[site.name], site.text_field)
            parts = split(texts, setting.choosing + setting.measuring, setting.seed)
            held = split(parts.held_out, setting.measuring, setting.seed)
            found[site.name] = Documents(parts.train, held.train, held.held_out)
    host = open_checkpoint(model)
    key = canonical.digest(
        {
            "setting": {name: str(value) for name, value in asdict(setting).items()},
            "model": [host.weights_digest, host.tokenizer_digest],
            "documents": canonical.sha256(repr(found).encode()),
            "libraries": [metadata.version(one) for one in ("torch", "transformers", "peft")],
        }
    )[:12]
    work = (out / "work").resolve()
    atomic.write(work / ".gitignore", b"*\n")
    for name, documents in found.items():
        atomic.write(
            work / key / "sites" / f"{name}.json", json.dumps(asdict(documents)).encode(), 0o600
        )
    return Contest(setting, model, tuple(found), (out / "cells" / key).resolve(), work / key)


def losses(
    model: Any, tokenizer: Any, documents: Documents, setting: Setting, part: str
) -> list[list[float]]:
    """A model's losses on one of ``PARTS``: nats and tokens of each document."""
    texts: Sequence[str] = getattr(documents, part)
    found = read_losses(model, tokenizer, texts, block_tokens=setting.block_tokens)
    return [[one.nats, one.tokens] for one in found.losses]


def reading(rows: Sequence[Sequence[float]]) -> Reading:
    """Losses as they are kept, as a reading."""
    return Reading(tuple(DocumentLoss(nats, int(tokens)) for nats, tokens in rows))


def flat(series: Sequence[Mapping[str, float]], tolerance: float, steps: int = 2) -> bool:
    """Whether no site's perplexity changed by ``tolerance`` or more in any of the last steps.

    Args:
        series: Perplexity by site, in order.
        tolerance: Relative change.
        steps: How many.
    """
    last = series[-steps - 1 :]
    return len(last) == steps + 1 and all(
        abs(after[site] / before[site] - 1) < tolerance
        for before, after in itertools.pairwise(last)
        for site in after
    )


def perplexities(row: Round, part: str) -> dict[str, float]:
    """Perplexity by site after a round."""
    return {name: reading(site[part]).perplexity for name, site in row["sites"].items()}
