"""What a contest with federated averaging says, as table, plot and JSON.

Bytes are a site's own, sent and received; both methods' are the tensors' alone. Averaging is
charged one download and one upload a round and the last average's download: a site that reads an
average as it arrives needs no copy of it for reading, which Flower's evaluation sends. Seconds are
of the processor, as if sites worked side by side and nothing was waited for but the slowest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from not_core.learning.evaluation import compare
from simulations import charts, tables
from simulations.charts import Axis, Chart, Look, Panel, Point, Series
from simulations.experiments.contest import Round, Setting, flat, perplexities, reading

FEDAVG, ORGANS, OWN = "FedAvg, LoRA", "organs", "its own organ, unshared"
AIM = 0.1
"""Part of averaging's bytes with which organs should reach what it ends at."""
KINDS: tuple[tuple[str, Look], ...] = (("FedAvg", "band"), ("organs", "marks"))


def summary(
    setting: Setting, rounds: Sequence[Round], exchanges: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Curves, table and comparison.

    Args:
        setting: The contest's.
        rounds: Of averaging, from round 0, the base model.
        exchanges: Of organs, by growing tokens.
    """
    sites = list(rounds[0]["sites"])
    curves = {site: _averaged(site, rounds) for site in sites}
    points = {site: [_exchanged(site, one) for one in exchanges] for site in sites}
    last = exchanges[-1]["sites"]
    # Organs are flat when the last doubling of their tokens changed little.
    series = [
        {site: reading(one["sites"][site]["choosing"]).perplexity for site in sites}
        for one in exchanges
    ]
    table, comparison = [], []
    for site in sites:
        best = min(rounds, key=lambda row: perplexities(row, "choosing")[site])
        start, end, final = curves[site][0], curves[site][best["round"]], curves[site][-1]
        organ = points[site][-1]
        common = {"site": site, "start": start["perplexity"]}
        table.append(
            {
                **common,
                "method": FEDAVG,
                "end": end["perplexity"],
                "last": final["perplexity"],
                "kept": f"round {best['round']}",
                **{name: final[name] for name in ("bytes", "seconds", "tokens")},
                "rounds": len(rounds) - 1,
            }
        )
        table.append(
            {
                **common,
                "method": ORGANS,
                "end": organ["perplexity"],
                "last": organ["perplexity"],
                "kept": last[site]["kept"],
                **{name: organ[name] for name in ("bytes", "seconds", "tokens")},
                "rounds": 1,
            }
        )
        # A site that trains alone would choose how long, too, by its choosing documents.
        alone = min(exchanges, key=lambda one: one["sites"][site]["candidates"][site])
        table.append(
            {
                **common,
                "method": OWN,
                "end": reading(alone["sites"][site]["own"]).perplexity,
                "last": reading(last[site]["own"]).perplexity,
                "kept": f"{site}, {alone['tokens']:,} tokens",
                "bytes": 0,
                "seconds": alone["sites"][site]["seconds"] - alone["sites"][site]["trying"],
                "tokens": alone["sites"][site]["tokens"],
                "rounds": 0,
            }
        )
        change = compare(
            reading(best["sites"][site]["measuring"]), reading(last[site]["measuring"]), seed=0
        )
        comparison.append(
            {
                "site": site,
                "organs over FedAvg": change.change,
                "interval": [change.low, change.high],
                "fedavg ends at": end["perplexity"],
                "organs end at": organ["perplexity"],
                "part of its bytes": organ["bytes"] / final["bytes"],
                **_reached(curves[site], organ),
            }
        )
    return {
        "setting": {**asdict(setting), "shares": list(setting.shares)},  # as JSON reads it
        "flat": {
            FEDAVG: flat([perplexities(row, "choosing") for row in rounds], setting.tolerance),
            ORGANS: flat(series, setting.tolerance, steps=1),
        },
        "table": table,
        "comparison": comparison,
        "curves": curves,
        "organs": points,
    }


def _averaged(site: str, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """A site's perplexity after each round, and what it took up to there."""
    found, wire, seconds, tokens = [], 0, 0.0, 0
    for row in rounds:
        own = row["sites"][site]
        if row["round"]:
            wire += own["down"] + own["up"]
            seconds += max(one["seconds"] for one in row["sites"].values())
            tokens += own["tokens"]
        found.append(
            {
                "round": row["round"],
                "perplexity": reading(own["measuring"]).perplexity,
                "bytes": wire + own["evaluate_down"] if row["round"] else 0,
                "seconds": seconds,
                "tokens": tokens,
            }
        )
    return found


def _exchanged(site: str, exchange: Mapping[str, Any]) -> dict[str, Any]:
    own = exchange["sites"][site]
    return {
        "perplexity": reading(own["measuring"]).perplexity,
        "bytes": own["up"] + own["down"],
        "seconds": own["seconds"],
        "tokens": own["tokens"],
        "kept": own["kept"],
    }


def _reached(curve: Sequence[Mapping[str, Any]], organ: Mapping[str, Any]) -> dict[str, Any]:
    """Where averaging first is as good as organs, in rounds, bytes and seconds, and the ratios."""
    there = next((one for one in curve if one["perplexity"] <= organ["perplexity"]), None)
    if there is None:
        return {"round": None, "bytes": None, "x bytes": None, "seconds": None, "x seconds": None}
    return {
        "round": there["round"],
        **{name: there[name] for name in ("bytes", "seconds")},
        **{f"x {name}": there[name] / organ[name] for name in ("bytes", "seconds")},
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The tables for people; what loses is said as plainly as what wins."""
    setting, flats = found["setting"], found["flat"]
    rounds = max(row["rounds"] for row in found["table"])
    lines = [
        "# Organ exchange against federated averaging",
        "",
        f"{len(found['comparison'])} sites; rank {setting['rank']}, learning rate "
        f"{setting['learning_rate']:g}, {setting['precision']}, seed {setting['seed']}. Averaging: "
        f"{rounds} of at most {setting['rounds']} rounds of {setting['round_tokens']:,} tokens a "
        "site, Flower's FedAvg. Organs: one exchange after as many tokens. A site keeps the round, "
        f"or the organ, that its {setting['choosing']} choosing documents find best; perplexity is "
        f"of {setting['measuring']} others. Bytes are the site's own, sent and received; seconds "
        "are of one core, sites side by side.",
        "",
        tables.table(
            ("site", "method", "start", "end", "kept", "bytes", "seconds", "rounds"),
            [
                (
                    row["site"],
                    row["method"],
                    f"{row['start']:.2f}",
                    f"{row['end']:.2f}",
                    row["kept"],
                    f"{row['bytes']:,}",
                    f"{row['seconds']:,.0f}",
                    str(row["rounds"]),
                )
                for row in found["table"]
            ],
        ),
        "Where FedAvg first is as good as organs. It sends float32; in float16, as organs travel, "
        "its bytes and the ratio would be half. A ratio below 1 is for FedAvg.",
        "",
        tables.table(
            ("site", "round", "bytes", "x organs' bytes", "seconds", "x organs' seconds"),
            [_reach(row, rounds) for row in found["comparison"]],
        ),
        *[f"- {sentence(row)}" for row in found["comparison"]],
        *[f"- {_aim(row)}" for row in found["comparison"]],
        f"- FedAvg is {'' if flats[FEDAVG] else 'not '}flat: less than "
        f"{setting['tolerance']:.1%} of change at every site in each of two rounds.",
        f"- Organs are {'' if flats[ORGANS] else 'not '}flat: less than "
        f"{setting['tolerance']:.1%} of change at every site from half the tokens to all.",
    ]
    return "\n".join(lines) + "\n"


def brief(found: Mapping[str, Any]) -> str:
    """One row a site, for people who have not read how it was measured."""
    by_site = {(row["site"], row["method"]): row for row in found["table"]}
    lines = []
    for row in found["comparison"]:
        site, (low, high) = row["site"], row["interval"]
        organs = by_site[site, ORGANS]
        lines.append(
            (
                site,
                f"{organs['start']:.2f}",
                f"{row['fedavg ends at']:.2f}",
                f"{row['organs end at']:.2f}",
                f"{row['organs over FedAvg']:+.1%} ({low:+.1%} to {high:+.1%})",
                "its own" if organs["kept"] == site else organs["kept"],
                f"{by_site[site, OWN]['end']:.2f}",
                f"{row['part of its bytes']:.1%} ({2 * row['part of its bytes']:.1%})",
                f"{organs['seconds'] / by_site[site, FEDAVG]['seconds']:.2f}",
            )
        )
    names = ("site", "before", "FedAvg ends at", "organs end at", "organs over FedAvg")
    ends = ("organ that it keeps", "its own organ alone", "x bytes (float16)", "x seconds")
    return tables.table((*names, *ends), lines)


def sentence(row: Mapping[str, Any]) -> str:
    """Who is better at a site, and whether that is sure: 95% over documents."""
    low, high = row["interval"]
    change = row["organs over FedAvg"]
    if low > 0:
        verdict = "FedAvg is better"
    elif high < 0:
        verdict = "organs are better"
    else:
        verdict = f"no sure difference, {'FedAvg' if change > 0 else 'organs'} ahead"
    return (
        f"{row['site']}: {verdict}; perplexity with organs is {change:+.1%} [{low:+.1%}, "
        f"{high:+.1%}] of FedAvg's."
    )


def _aim(row: Mapping[str, Any]) -> str:
    """Whether organs reach what averaging ends at with the part of its bytes that is aimed at.

    Averaging could send float16, as organs do: it is judged by half of the bytes that it sent.
    """
    part = 2 * row["part of its bytes"]
    met = row["organs end at"] <= row["fedavg ends at"] and part <= AIM
    sure = "" if row["interval"][0] > 0 or row["interval"][1] < 0 else ", not surely"
    return (
        f"{row['site']}: FedAvg ends at {row['fedavg ends at']:.2f}, organs at "
        f"{row['organs end at']:.2f} with {part:.1%} of its bytes if it sent float16; aimed at: "
        f"no higher with at most {AIM:.0%}: {'yes' if met else '**no**'}{sure}."
    )


def _reach(row: Mapping[str, Any], rounds: int) -> tuple[str, ...]:
    if row["round"] is None:
        return (row["site"], f"not in {rounds}", "", "", "", "")
    return (
        row["site"],
        str(row["round"]),
        f"{row['bytes']:,}",
        f"{row['x bytes']:.2f}",
        f"{row['seconds']:,.0f}",
        f"{row['x seconds']:.2f}",
    )


def chart(found: Mapping[str, Any]) -> Chart:
    """Perplexity over bytes and over seconds: a line a site for averaging, marks for organs.

    Args:
        found: Of ``summary``.
    """
    return Chart(
        title="Organs exchanged once, and federated averaging of LoRA",
        note="one seed. Lines: FedAvg, round by round. Marks: organs, after a part of averaging's "
        "tokens and after all. First point by seconds: the base model.",
        rows=(
            tuple(
                Panel(
                    title=f"over {name}",
                    x=Axis(label=label, log=name == "bytes"),
                    y=Axis(label="perplexity on the site's held-out documents", log=True),
                    series=tuple(_lines(found, name)),
                )
                for name, label in (
                    ("bytes", "MB that the site sends and receives"),
                    ("seconds", "seconds of one core, sites side by side"),
                )
            ),
        ),
        share=True,
    )


def _lines(found: Mapping[str, Any], name: str) -> Iterator[Series]:
    scale = 1e6 if name == "bytes" else 1
    for number, (site, curve) in enumerate(found["curves"].items()):
        hue = number % (len(charts.HUES) - 1)
        # Nothing was sent before the first round, which no logarithm shows.
        line = [one for one in curve if one[name] or name == "seconds"]
        for (kind, look), rows in zip(KINDS, (line, found["organs"][site]), strict=True):
            points = tuple(Point(one[name] / scale, one["perplexity"]) for one in rows)
            yield Series(name=f"{site}: {kind}", points=points, look=look, hue=hue, style=number)
