"""What can be found out about its records from an organ alone: membership, and a bound on epsilon.

The control comes first: with no noise, an audit must refute the claims that it can test, or it
could not find fault with anything. Measurements are kept as in ``compare``.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from not_core import canonical
from not_core.commands.program import progress
from not_core.learning import audit
from not_core.learning.guard import Guard
from not_core.learning.private import Private, train_privately
from not_core.learning.recipe import Recipe
from not_core.learning.records import record_units
from not_core.learning.training import TrainedOrgan, train
from not_core.manifest import Span
from not_core.privacy.account import Uncharged
from not_core.privacy.canaries import Canaries, make, words_of
from not_core.privacy.membership import Estimate, curve, membership
from not_core.privacy.report import DELTA, AuditReport, Claim, Observed, conclude
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.organ import Label, Organ, describe
from simulations import charts, tables
from simulations.charts import Axis, Chart, Panel, Point, Series
from simulations.experiments.cells import run, stem, tell
from simulations.experiments.documents import shuffled
from simulations.experiments.kept import recipe_facts

DOMAIN = "abstracts"
CLAIMS = (1.0, 4.0, 8.0)
LAYERS = 6
"""Of the organ: the base's topmost, which learn by heart at the least cost."""
UNITS_PER_STEP = 32
"""Of training with a guard: few large steps, as many passes as without."""
CHARACTERS = 200
"""Read of each record."""
HUES = {"canaries": charts.BLUE, "records": charts.ORANGE}
CHANCE = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Parts at which nothing but luck is drawn; the first is where the axes begin."""
NO_NOISE = "no noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One organ, trained and searched.

    Attributes:
        epsilon: That training is to keep; None for no noise.
        canaries: Made; a coin plants each or not.
        records: Learned; as many others are not.
        passes: Over records and canaries.
        seed: Of coins and training.
    """

    epsilon: float | None = None
    canaries: int = 400
    records: int = 150
    passes: float = 4.0
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """How the organ is trained."""
        return Recipe(epochs=self.passes, scale=1.0, seed=self.seed, threads=1, device="cpu")

    @property
    def guard(self) -> Guard | None:
        """What keeps its epsilon."""
        if self.epsilon is None:
            return None
        return Guard(epsilon=self.epsilon, delta=DELTA, units_per_step=UNITS_PER_STEP)

    @property
    def setting(self) -> str:
        """What protects the records, in words."""
        return NO_NOISE if self.epsilon is None else f"epsilon {self.epsilon:g}"

    @property
    def file(self) -> str:
        """Name of its result."""
        decides: list[Any] = [asdict(self), recipe_facts(self.recipe), LAYERS, CHARACTERS]
        if self.guard:
            decides.append(asdict(self.guard))
        words = self.setting.replace(" ", "-")
        return f"{words}-{self.canaries}-seed{self.seed}-{canonical.digest(decides)[:8]}.json"


def attacks(claims: Sequence[float], *, quick: bool) -> Iterator[Attack]:
    """The organs to train: the control without noise, and one for each claim."""
    size: dict[str, Any] = {"canaries": 120, "records": 100, "passes": 3.0} if quick else {}
    for epsilon in (None, *claims):
        yield Attack(epsilon=epsilon, **size)


def fitted(attack: Attack, host: Checkpoint, span: Span, texts: Sequence[str]) -> TrainedOrgan:
    """Train an organ."""
    if attack.guard is None:
        return train(host, span, texts, attack.recipe)
    private = Private(record_units(texts), attack.guard, Uncharged())
    return train_privately(host, span, private, replace(attack.recipe, head_sample=None))


def measure(attack: Attack, model: str) -> dict[str, Any]:
    """Train and attack; in this process, which should do nothing else."""
    host = open_checkpoint(model)
    texts = [group[0][:CHARACTERS] for group in shuffled(DOMAIN)]
    members, others = texts[: attack.records], texts[attack.records : 2 * attack.records]
    canaries = _canaries(attack, words_of(host.tokenizer))
    span = Span(start=host.layers - LAYERS, stop=host.layers)
    began = time.process_time()
    made = fitted(attack, host, span, [*members, *canaries.to_plant])
    trained = time.process_time()
    label = Label(name="organ")
    manifest = describe(host, span, made.tensors, label, training=made.facts, privacy=made.privacy)
    organ, claim = Organ(manifest, made.tensors), audit.claimed(manifest)
    seen = audit.observe(host, organ, canaries)
    return {
        "organ": audit.tensors_digest(manifest),
        "claim": None if claim is None else asdict(claim),
        "tokens": made.facts.tokens,
        "steps": made.facts.steps,
        "losses": [round(made.losses[0], 3), round(made.losses[-1], 3)],
        "planted": list(canaries.planted),
        "scores": [round(one, 4) for one in seen.scores],
        "recited": list(seen.recited),
        "before": list(seen.before),
        "members": [round(one, 6) for one in audit.score_records(host, organ, members)],
        "others": [round(one, 6) for one in audit.score_records(host, organ, others)],
        "train_cpu_seconds": round(trained - began, 1),
        "attack_cpu_seconds": round(time.process_time() - trained, 1),
    }


def _canaries(attack: Attack, words: Sequence[str]) -> Canaries:
    # A seed that all may know: the records here are public, and the attack should be repeatable.
    seed = canonical.sha256(f"attack {attack.seed}".encode()).encode()
    return make(words, attack.canaries, seed)


def experiment(
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    claims: Sequence[float] = CLAIMS,
    quick: bool = False,
) -> list[dict[str, Any]]:
    """Attack what is not attacked yet, and write what all says together.

    Args:
        model: Folder of the base model.
        out: Folder of table, plot and ``cells``, which holds one file a measurement.
        say: Told of progress.
        claims: Epsilons to put to the test: an organ's own, and each of them for the control.
        quick: Fewer canaries, records and passes.

    Returns:
        Rows of the table.
    """
    wanted = list(attacks(claims, quick=quick))

    def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found = dict(zip(wanted, rows, strict=False))
        return {
            "table": [row for attack, cell in found.items() for row in _rows(attack, cell, claims)],
            "curves": {
                attack.setting: {kind: _roc(cell, kind) for kind in HUES}
                for attack, cell in found.items()
            },
        }

    with progress("attacking", len(wanted), "cells") as bar:
        rows = run(wanted, model, out / "cells", say, module=__name__, advance=bar)
        name = stem("attack", quick=quick)
        whole = tell(out, name, rows, summary, lambda found: markdown(found["table"]), chart)
    table: list[dict[str, Any]] = whole["table"]
    return table


def _rows(
    attack: Attack, cell: Mapping[str, Any], claims: Sequence[float]
) -> Iterator[dict[str, Any]]:
    own = cell["claim"]
    tested = [Claim(epsilon=one, delta=DELTA) for one in claims] if own is None else [Claim(**own)]
    records = membership(cell["members"], cell["others"])
    for claim in tested:
        report = concluded(cell, claim)
        yield {
            "setting": attack.setting,
            "claim": round(claim.epsilon, 3),
            "epsilon at least": report.epsilon,
            "could have shown": report.most,
            "guesses": f"{report.right}/{report.guesses}",
            "verdict": report.verdict,
            "canaries, area": _word(report.membership.area),
            "canaries, found at 1%": _word(report.membership.true_positives),
            "records, area": _word(records.area),
            "records, found at 1%": _word(records.true_positives),
            "recited, planted": _word(report.recited.planted),
            "recited, others": _word(report.recited.others),
            "recited, planted, before": _word(report.recited.planted_before),
            "cpu seconds": round(cell["train_cpu_seconds"] + cell["attack_cpu_seconds"]),
        }


def concluded(cell: Mapping[str, Any], claim: Claim) -> AuditReport:
    """The report of a kept measurement."""
    planted = tuple(cell["planted"])
    seen = Observed(tuple(cell["scores"]), tuple(cell["recited"]), tuple(cell["before"]))
    texts = tuple(map(str, range(len(planted))))
    return conclude(seen, Canaries(texts, planted), organ=cell["organ"], claim=claim)


def _word(part: Estimate | None) -> str:
    return "cannot tell" if part is None else f"{part.value:.2f} [{part.low:.2f}, {part.high:.2f}]"


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    names = list(table[0])
    return tables.table(names, [[tables.word(row[name]) for name in names] for row in table])


def chart(found: Mapping[str, Any]) -> Chart:
    """Who is found at which cost in false positives, and what is shown of each claim.

    Args:
        found: What attack.json holds.
    """
    table, curves = found["table"], found["curves"]
    top = round(1.1 * max(max(row["claim"], row["could have shown"]) for row in table), 3)
    roc = [
        Series(
            name=f"{setting}, {kind}",
            points=tuple(Point(*one) for one in points),
            look="steps",
            hue=HUES[kind],
            style=number,
        )
        for number, (setting, kinds) in enumerate(curves.items())
        for kind, points in kinds.items()
    ]
    chance = Series(
        name="chance", points=tuple(Point(x, x) for x in CHANCE), look="band", hue=charts.GREY
    )
    claimed = Series(
        name="contradicts the claim",
        points=(Point(0, 0), Point(top, top)),
        look="region",
        hue=charts.ORANGE,
    )
    return Chart(
        title="What an organ tells of its records",
        note="one seed; steps: one organ each. Shown: the audit's lower bound, 95% confidence; a "
        "claim below it is contradicted.",
        rows=(
            (
                Panel(
                    title="membership",
                    x=_part("part of the others taken for members"),
                    y=_part("part of the members found"),
                    series=(*roc, chance),
                ),
                Panel(
                    title="audit",
                    x=Axis(label="epsilon claimed", limits=(0, top)),
                    y=Axis(label="epsilon, at least", limits=(-0.03 * top, top)),
                    series=(claimed, *_shown(table, list(curves))),
                ),
            ),
        ),
    )


def _part(label: str) -> Axis:
    return Axis(label=label, log=True, limits=(CHANCE[0], 1.1))


def _shown(table: Sequence[Mapping[str, Any]], settings: Sequence[str]) -> Iterator[Series]:
    """What was shown of each claim, and what could have been."""
    for number, setting in enumerate(settings):
        rows = [row for row in table if row["setting"] == setting]
        for key, word in (
            ("epsilon at least", "shown"),
            ("could have shown", "could have been shown"),
        ):
            yield Series(
                name=f"{setting}: {word}",
                points=tuple(Point(row["claim"], row[key]) for row in rows),
                look="marks",
                hue=charts.GREEN,
                style=number,
                hollow=word != "shown",
            )


def _roc(cell: Mapping[str, Any], kind: str) -> list[tuple[float, float]]:
    """The corners of the steps of the curve, rounded."""
    points = [(round(x, 4), round(y, 4)) for x, y in curve(*_sides(cell, kind))]
    ends = [
        one
        for before, one, after in zip(points, points[1:], points[2:], strict=False)
        if not (before[0] == one[0] == after[0] or before[1] == one[1] == after[1])
    ]
    return [points[0], *ends, points[-1]]


def _sides(cell: Mapping[str, Any], kind: str) -> tuple[list[float], list[float]]:
    """Scores of members and of others."""
    if kind == "records":
        return cell["members"], cell["others"]
    pairs = list(zip(cell["scores"], cell["planted"], strict=True))
    return [one for one, coin in pairs if coin], [one for one, coin in pairs if not coin]


if __name__ == "__main__":
    print(json.dumps(measure(Attack(**json.loads(sys.argv[1])), sys.argv[2])))
