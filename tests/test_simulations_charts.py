"""Charts: the CSV holds what is drawn, what is kept is drawn anew, pictures agree with results."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from simulations import charts, commands
from simulations.charts import Axis, Chart, Panel, Point, Series
from simulations.plots import CHARTS

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Call = Callable[..., tuple[int, str, str]]


def chart(**more: object) -> Chart:
    looks = (
        Series(name="line", points=(Point(1, 2.5, 2, 3), Point(2, 3))),
        Series(name="band", points=(Point(1, 2, 1.5, 3), Point(2, 3, 2, 4)), look="band"),
        Series(name="marks", points=(Point(1, 2, 1, 3),), look="marks", hollow=True),
        Series(name="steps", points=(Point(0, 1), Point(1, 2)), look="steps"),
        Series(name="level", points=(Point(0, 2.25),), look="level"),
        Series(name="region", points=(Point(0, 1), Point(2, 2)), look="region"),
    )
    bars = Series(name="bars", points=(Point(0, 4, word="a, b"), Point(1, 5)), look="bars")
    plain = Panel(
        title="plain", x=Axis(label="x, MB", log=True), y=Axis(label="y", limits=(0, 9)),
        series=looks,
    )  # fmt: skip
    places = Panel(
        title="places", x=Axis(label="", places=("one", "two")), y=Axis(label="s"), series=(bars,)
    )
    return Chart(title="all looks", note="one seed", rows=((plain, places),), **more)  # type: ignore[arg-type]


def source(picture: Path) -> str:
    """Digest of the chart that a picture was drawn of."""
    with Image.open(picture) as opened:
        return str(opened.info["Source"])


def test_the_csv_holds_every_number_that_is_drawn(tmp_path: Path) -> None:
    charts.write(chart(), tmp_path / "v1.5")
    assert (tmp_path / "v1.5.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "v1.5.csv").read_text())))
    drawn = [
        (series.name, point)
        for panel in chart().rows[0]
        for series in panel.series
        for point in series.points
    ]
    assert [row["series"] for row in rows] == [name for name, _ in drawn]
    assert [float(row["y"]) for row in rows] == [point.y for _, point in drawn]
    for row, (_, point) in zip(rows, drawn, strict=True):
        assert row["low"] == ("" if point.low is None else str(point.low))
    by_name = {row["series"]: row for row in rows}
    assert by_name["bars"]["x"] == "two", "a place is named"
    assert by_name["level"]["x"] == "", "a level is everywhere"
    assert rows[0]["x axis"] == "x, MB"
    assert [row["note"] for row in rows if row["series"] == "bars"] == ["a, b", ""]


def test_a_picture_is_of_its_numbers_and_of_nothing_else(tmp_path: Path) -> None:
    def bars(height: float) -> Chart:
        series = Series(name="bars", points=(Point(0, height),), look="bars")
        axes = Axis(label="", places=("one",)), Axis(label="s", limits=(0, 9))
        panel = Panel(title="costs", x=axes[0], y=axes[1], series=(series,))
        return Chart(title="one bar", note="one seed", rows=((panel,),))

    for name, height in (("a", 4), ("b", 4), ("c", 4.5)):
        charts.write(bars(height), tmp_path / name)
    first, again, other = (tmp_path / f"{name}.png" for name in "abc")
    assert first.read_bytes() == again.read_bytes()
    with Image.open(first) as one, Image.open(other) as two:
        assert one.size == two.size
        assert one.tobytes() != two.tobytes()


def test_a_picture_names_its_chart(tmp_path: Path) -> None:
    charts.write(chart(), tmp_path / "a")
    assert source(tmp_path / "a.png") == charts.digest(chart())
    named = {charts.digest(replace(chart(), **one)) for one in ({}, {"note": "two"}, {"rows": ()})}
    assert len(named) == 3


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([1, 1], "one seed, so no spread is shown"),
        ([3, 3], "3 seeds; bars: 95% over seeds, by Student's t"),
        ([1, 2], "1 to 2 seeds; bars: 95% over seeds, by Student's t, none where there is one"),
    ],
)
def test_the_note_says_how_many_seeds(counts: list[int], said: str) -> None:
    assert charts.over_seeds(iter(counts)).startswith(said)


@pytest.mark.parametrize(
    "name",
    [
        "attack/attack",
        "clinic/clinic",
        "compose/compose",
        "federated/federated",
        "positions/positions",
        "privacy/bench-dp",
        "quality/quality",
        "transfer/transfer",
    ],
)
def test_pictures_in_the_documents_are_of_the_results_beside_them(name: str) -> None:
    """After new results: organ-simulate plot."""
    results = json.loads((RESULTS / f"{name}.json").read_bytes())
    drawn = charts.numbers(CHARTS[Path(name).name](results))
    assert (RESULTS / f"{name}.csv").read_text() == drawn
    assert source(RESULTS / f"{name}.png") == charts.digest(CHARTS[Path(name).name](results))


def test_what_is_kept_is_drawn_without_measuring(tmp_path: Path, call: Call) -> None:
    names = ("bench-dp", "bench-dp-quick")
    for name in (*names, "bench-dp-so-far"):
        shutil.copy(RESULTS / "privacy" / "bench-dp.json", tmp_path / f"{name}.json")
    code, out, err = call("plot", tmp_path, "--json", app=commands.app)
    assert code == 0, err
    assert json.loads(out) == {"drawn": [str(tmp_path / f"{name}.png") for name in names]}
    kept = (RESULTS / "privacy" / "bench-dp.csv").read_text()
    for name in names:
        assert (tmp_path / f"{name}.csv").read_text() == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "expected one of attack.json, bench-dp.json"),
        ("[]", "is not of the form that is drawn today"),
        ("{", "is not of the form that is drawn today"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    text: str | None, said: str, tmp_path: Path, call: Call
) -> None:
    if text is not None:
        (tmp_path / "attack.json").write_text(text)
    code, _, err = call("plot", tmp_path, app=commands.app)
    assert code == 1
    assert said in " ".join(err.split())
    assert not list(tmp_path.glob("*.png"))
