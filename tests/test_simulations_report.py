import copy
import dataclasses
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simulations.federation import report as reports
from simulations.federation.costs import privacy_costs

DOMAINS = {
    "hospital": ("biomedical abstracts", True, 940, 18.9),
    "clinic": ("biomedical abstracts", False, 60, 19.3),
    "law-firm": ("civil-rights cases", True, 808, 16.4),
    "legal-aid": ("civil-rights cases", False, 60, 16.9),
    "security-team": ("software weaknesses", True, 938, 23.7),
}
AFTER = {
    "hospital": (15.4, 15.8, 17.3, 17.6, 24.9),
    "law-firm": (19.8, 20.4, 12.0, 12.6, 25.2),
    "security-team": (19.1, 19.2, 16.9, 17.4, 11.9),
}
MINUS, S = "\N{MINUS SIGN}", "\N{RIGHT SINGLE QUOTATION MARK}s"
HOSTILE = """<script src="http://evil.example/x.js"></script>'"><img src=x onerror=alert(1)>"""


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _evaluation(donor: str, recipient: str, before: float, after: float) -> dict[str, Any]:
    change = after / before - 1
    accepted = change < -0.01
    return {
        "organ": _digest(donor),
        "donor": donor,
        "recipient": recipient,
        "mode": "replace",
        "position": 10,
        "domain_perplexity_before": before,
        "domain_perplexity_after": after,
        "general_perplexity_before": 22.3,
        "general_perplexity_after": 22.6,
        "change": change,
        "interval": [change - 0.027, change + 0.031],
        "general_documents": 12,
        "documents": 20,
        "tokens": 5120,
        "verdict": "accepted" if accepted else "rejected",
        "reason": "own records improve and general English stays within 3.0 %"
        if accepted
        else f"own records change by {100 * change:+.1f} %, needed at most -1.0 %",
    }


@pytest.fixture
def sample() -> dict[str, Any]:
    names = list(DOMAINS)
    donors = [name for name in names if DOMAINS[name][1]]
    return {
        "format": "organ-exchange/report/v1",
        "exchange": "demo",
        "seed": 7,
        "base": {
            "family": "llama",
            "architecture": "LlamaForCausalLM",
            "layers": 30,
            "weights": _digest("base"),
            "name": "SmolLM2-135M-Instruct",
        },
        "sites": [
            {
                "name": name,
                "domain": domain,
                "donates": donates,
                "records": records,
                "held_out": 20,
                "domain_perplexity": perplexity,
                "general_perplexity": 22.3,
                "revealed": [
                    {"what": what, "count": 1, "bytes": count}
                    for what, count in [
                        ("profile", 2_310),
                        *([("offer", 3_120), ("sealed organ", 42_480_640)] if donates else []),
                        ("receipt", 1_204),
                    ]
                ],
            }
            for name, (domain, donates, records, perplexity) in DOMAINS.items()
        ],
        "organs": [
            {
                "digest": _digest(donor),
                "id": f"{donor}/{DOMAINS[donor][0].split()[-1]}",
                "donor": donor,
                "domain": DOMAINS[donor][0],
                "span": "10:13",
                "organ_bytes": 42_471_424,
                "sealed_bytes": 42_480_640,
                "tokens": 16_384,
                "steps": 64,
                "seconds": 151.2,
                "privacy": "none",
                "addressees": [name for name in names if name != donor],
            }
            for donor in donors
        ],
        "evaluations": [
            _evaluation(donor, name, DOMAINS[name][3], after)
            for donor in donors
            for name, after in zip(names, AFTER[donor], strict=True)
            if (donor, name) != ("law-firm", "security-team")
        ],
        "failures": [{"site": "security-team", "step": "transplant", "code": "unseal"}],
        "settings": {"span": "10:13", "tokens": 16_384, "mode": "replace"},
        "resumed": False,
        "bytes": {"uploaded": 127_441_920, "delivered": 509_767_680, "stored": 127_441_920},
        "seconds": {
            "enrol": 4.2,
            "donate": 462.0,
            "deliver": 9.8,
            "transplant": 701.3,
            "witness": 702.8,
            "total": 1188.4,
        },
        "versions": {"torch": "2.9.0", "transformers": "5.20.1", "flwr": "1.41.0"},
    }


class Tags(HTMLParser):
    """Collects what a page would load or run, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def _printed(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    reports.print_matrix(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_round_trips_in_a_stable_order(sample: dict[str, Any], tmp_path: Path) -> None:
    reports.write_json(sample, tmp_path / "a.json")
    reports.write_json(dict(reversed(sample.items())), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == sample


def test_json_has_null_for_what_is_not_finite(sample: dict[str, Any], tmp_path: Path) -> None:
    sample["evaluations"][0]["domain_perplexity_after"] = math.inf
    sample["evaluations"][0]["interval"] = [math.nan, 1.0]
    reports.write_json(sample, tmp_path / "a.json")
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read["evaluations"][0]["domain_perplexity_after"] is None
    assert read["evaluations"][0]["interval"] == [None, 1.0]


def test_page_says_the_numbers_and_loads_nothing(sample: dict[str, Any]) -> None:
    page = reports.render_html(sample)
    tags = Tags(page)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", page)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(tags.tags)
    assert "not tried" in tags.text
    assert "\N{MINUS SIGN}49.8\u00a0%" in tags.text
    assert reports.NO_PRIVACY in tags.text
    assert "needed at most -1.0\u00a0%" in tags.text
    assert ("title", _digest("hospital")) in tags.attributes
    assert tags.tags.count("h1") == 1
    scopes = [value for name, value in tags.attributes if name == "scope"]
    assert len(scopes) == tags.tags.count("th")


def test_privacy_has_its_own_section_and_its_cost_is_said(sample: dict[str, Any]) -> None:
    assert "what it cost" not in reports.render_html(sample)
    for organ in sample["organs"]:
        organ["privacy"] = "epsilon 8 at delta 1e-06 a record"
        organ["statement"] = {
            "mechanism": "dp-sgd",
            "noise_multiplier": 1.25,
            "clip": 1.0,
            "sampling_probability": 0.0442,
            "steps": 3,
            "accountant": f"PLD {HOSTILE}",
        }
    sample["without_privacy"] = [
        {"donor": "hospital", "recipient": name, "change": -0.5} for name in ("hospital", "clinic")
    ]
    costs = privacy_costs(sample)
    assert [(cost.recipient, cost.same) for cost in costs] == [
        ("hospital", False),
        ("clinic", True),
    ]
    change = 15.8 / 19.3 - 1
    assert costs[1].higher == pytest.approx((1 + change) / 0.5 - 1)
    assert math.isinf(dataclasses.replace(costs[0], without=-1.0).higher)
    tags = Tags(reports.render_html(sample))
    assert "script" not in tags.tags
    assert reports.percent(costs[1].higher) in tags.text
    assert tags.text.count("other held-out records") == 1


def test_headline_takes_the_best_accepted_organ_of_another_site(sample: dict[str, Any]) -> None:
    title, more = reports.headline(sample)
    assert title == (
        f"With law-firm{S} organ, legal-aid{S} perplexity on its own records fell 25.4\u00a0%, "
        "from 16.9 to 12.6."
    )
    assert "3 sites of 5 donated 3 organs; 2 of 11 transplants" in more[1]


def test_headline_without_any_gain(sample: dict[str, Any]) -> None:
    for row in sample["evaluations"]:
        row["verdict"] = "rejected"
    assert reports.headline(sample)[0] == f"No site accepted another site{S} organ."
    sample["evaluations"], sample["organs"] = [], []
    assert reports.headline(sample)[0] == "No organ was tried at another site."
    assert "No site donated an organ." in reports.render_html(sample)


def test_page_escapes_hostile_text_everywhere(sample: dict[str, Any]) -> None:
    clean = Tags(reports.render_html(sample))

    def poison(value: Any) -> Any:
        if isinstance(value, str) and value not in ("accepted", "rejected"):
            return value + HOSTILE
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        return [poison(item) for item in value] if isinstance(value, list) else value

    page = reports.render_html(poison(sample))
    tags = Tags(page)
    assert tags.tags == clean.tags
    assert {name for name, _ in tags.attributes} == {name for name, _ in clean.attributes}
    assert HOSTILE in tags.text
    assert "<script" not in page


def test_page_survives_numbers_that_are_not_finite(sample: dict[str, Any]) -> None:
    for value in (math.inf, math.nan, None):
        report = copy.deepcopy(sample)
        row = report["evaluations"][1]
        row |= {"domain_perplexity_after": value, "change": value, "interval": [value, value]}
        assert "not finite" in Tags(reports.render_html(report)).text
        assert "not finite" in _printed(report)
        assert "clinic" not in reports.headline(report)[0]


def test_picture_is_a_png_that_depends_on_the_report(
    sample: dict[str, Any], tmp_path: Path
) -> None:
    reports.draw_png(sample, tmp_path / "a.png")
    sample["evaluations"][0]["change"] = 0.4
    sample["sites"][0]["domain"] = "costs $5 and $6"
    sample["sites"][0]["name"] = "$5 and $6"
    reports.draw_png(sample, tmp_path / "b.png")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(first) > 20_000
    assert first != second


def test_picture_of_an_empty_exchange(sample: dict[str, Any], tmp_path: Path) -> None:
    sample |= {"organs": [], "evaluations": [], "failures": []}
    sample["seconds"] = dict.fromkeys(sample["seconds"], 0.0)
    sample["bytes"] = dict.fromkeys(sample["bytes"], 0)
    reports.draw_png(sample, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000
    assert "0 B" in reports.render_html(sample)


def test_terminal_shows_verdicts_and_numbered_reasons(sample: dict[str, Any]) -> None:
    text = _printed(sample)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("✓") == 5 + 1  # and the legend
    assert "18.9 → 15.4" in text
    assert re.search("\N{MINUS SIGN}18[.]5\\s% ✓ own", text)
    assert re.search(r"✗ 1\b", text)
    rejected = [row for row in sample["evaluations"] if row["verdict"] == "rejected"]
    for index, row in enumerate(rejected, start=1):
        assert f"{index}  {row['donor']} → {row['recipient']}: {row['reason']}" in text


def test_terminal_gets_no_control_characters_or_markup(sample: dict[str, Any]) -> None:
    sample["evaluations"][2]["reason"] = "\x1b[2Jgone\nnew line [bold]plain[/bold]"
    text = _printed(sample)
    assert "\x1b" not in text
    assert "[bold]plain[/bold]" in text
    assert "gone�new line" in text


def test_terminal_splits_many_sites_into_tables(sample: dict[str, Any]) -> None:
    extra = [sample["sites"][1] | {"name": f"site-with-a-long-name-{n}"} for n in range(4)]
    sample["sites"] += extra
    text = _printed(sample)
    assert text.count("organ of") == 2
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.1849, "\N{MINUS SIGN}18.5\u00a0%"),
        (0.2, "+20.0\u00a0%"),
        (-0.0001, "0.0\u00a0%"),
        (None, "not finite"),
    ],
)
def test_percent(value: float | None, text: str) -> None:
    assert reports.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(999, "999 B"), (42_480_640, "42.5 MB"), (0, "0 B")])
def test_size(value: int, text: str) -> None:
    assert reports.size(value) == text
