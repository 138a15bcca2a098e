"""How much of a privacy bound was left after each charge, and the chart of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from not_core.page.figures import moment
from not_core.privacy import accounting
from not_core.privacy.charge import Bound, Charge
from not_core.privacy.composition import worst

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 18, 34
"""Of the chart and its margins."""

MOST_TICKS = 8


@dataclass(frozen=True, slots=True)
class Point:
    """What was left of the bound after a charge, less than nothing where it is passed.

    The first is before any.
    """

    label: str
    left: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the chart, and its words."""

    x: float
    y: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The chart as coordinates.

    Attributes:
        line: Points of the line that falls.
        area: Points of what is below it.
        dots: Each charge.
        across: Labels of epsilon at the left.
        along: Labels below.
    """

    line: str
    area: str
    dots: list[Mark]
    across: list[Mark]
    along: list[Mark]


def points(charges: Sequence[Charge], bound: Bound) -> list[Point]:
    """What was left to the most charged unit after each charge.

    The ledger has composed that when it charged; only at another delta than today's it is composed
    here, which takes seconds a charge.
    """
    found, spent = [Point("", bound.epsilon)], 0.0
    for count, charge in enumerate(charges, start=1):
        if charge.delta == bound.delta:
            spent = max(spent, charge.epsilon)
        else:
            history = [one.mechanism for one in charges[:count]]
            spent = max(spent, worst([history], bound.delta, accounting.epsilon))
        found.append(Point(moment(charge.time), bound.epsilon - spent))
    return found


def chart(found: Sequence[Point], bound: Bound) -> Chart:
    """Lay a burn-down out: each charge is a step down, one beside the other."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    step = width / len(found)

    def y(left: float) -> float:
        return round(TOP + height * (1 - max(0.0, left) / bound.epsilon), 1)

    corners: list[tuple[float, float]] = []
    for index, point in enumerate(found):
        at = y(point.left)
        corners += [(LEFT + index * step, at), (LEFT + (index + 1) * step, at)]
    line = " ".join(f"{x:.1f},{at}" for x, at in corners)
    floor = y(0)
    every = -(-len(found) // MOST_TICKS)
    return Chart(
        line=line,
        area=f"{LEFT},{floor} {line} {WIDTH - RIGHT},{floor}",
        dots=[
            Mark(round(LEFT + index * step, 1), y(point.left), f"{point.left:.3g} left")
            for index, point in enumerate(found)
            if index
        ],
        across=[
            Mark(LEFT - 10, y(bound.epsilon * part / 4), f"{bound.epsilon * part / 4:.3g}")
            for part in range(5)
        ],
        along=[
            Mark(round(LEFT + index * step, 1), HEIGHT - 10, point.label[:10])
            for index, point in enumerate(found)
            if index % every == 0
        ],
    )
