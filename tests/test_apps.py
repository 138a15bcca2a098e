"""How a deployment tells the two Flower apps where they are at home."""

import json
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

import client.app
import server.app
from not_core.errors import ExchangeError, HomeError
from not_core.manifest import Span
from not_core.trust import authority
from server import home as coordinator_home

CONFIG = {
    "exchange": "trial",
    "sites": 2,
    "span": "2:5",
    "tokens": 100,
    "rank": 0,
    "learning-rate": 0.001,
    "seed": 3,
}


def context(node: dict[str, str], run: dict[str, object]) -> Context:
    return Context(1, 1, node, RecordDict(), run)  # type: ignore[arg-type]


def test_a_site_is_where_its_operator_says() -> None:
    assert client.app.configured_home(context({"home": "/x"}, {"home": "/evil"})) == Path("/x")
    with pytest.raises(HomeError, match="node-config"):
        client.app.configured_home(context({}, {"home": "/evil"}))


def test_a_run_configures_the_exchange(tmp_path: Path) -> None:
    authority.create_root(tmp_path / "root", "trial")
    coordinator_home.create(tmp_path / "home", tmp_path / "root")
    run = {**CONFIG, "home": str(tmp_path / "home")}
    coordinator, settings = server.app.configured(context({}, run))
    coordinator.catalogue.close()
    assert (settings.exchange, settings.sites) == ("trial", 2)
    assert settings.terms.span == Span(start=2, stop=5)
    assert (settings.limits.step_seconds, settings.limits.enrol_seconds) == (6 * 3600, 60)


def test_an_operator_says_how_long_a_run_waits(tmp_path: Path) -> None:
    authority.create_root(tmp_path / "root", "trial")
    coordinator_home.create(tmp_path / "home", tmp_path / "root")
    file = tmp_path / "home" / coordinator_home.SETTINGS
    kept = file.read_text()
    file.write_text(kept.replace("step_seconds = 21600", "step_seconds = 172800"))
    run = {**CONFIG, "home": str(tmp_path / "home")}
    coordinator, settings = server.app.configured(context({}, run))
    coordinator.catalogue.close()
    assert (settings.limits.step_seconds, settings.limits.join_seconds) == (172_800, 120)
    for wrong in ("0", "inf", "'long'", "1e9"):
        file.write_text(kept.replace("step_seconds = 21600", f"step_seconds = {wrong}"))
        with pytest.raises(HomeError, match=r"limits\.step_seconds"):
            coordinator_home.settings_of(tmp_path / "home")
    file.write_text(kept[: kept.index("[limits]")])  # of an earlier version
    assert coordinator_home.settings_of(tmp_path / "home").limits.wire_seconds == 600


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"span": "abc"}, "span is not valid, expected START:STOP"),
        ({"span": "5:2"}, "span is not valid"),
        ({"tokens": "many"}, "tokens is not valid, expected a number from 1"),
        ({"tokens": "9" * 5000}, "tokens is not valid"),
        ({"sites": 10**24}, "sites is not valid, expected a number up to 10000"),
        ({"learning-rate": "0,001"}, "learning-rate is not valid"),
        ({"learning-rate": "nan"}, "learning-rate is not valid"),
        ({"rank": -1}, "rank is not valid"),
        ({"seed": ""}, "seed is not valid"),
        ({"mode": "nonsense"}, "mode is not valid, expected replace or insert"),
        ({"invited": "a b/c"}, "invited is not valid, expected names of sites"),
        ({"exchange": "../up"}, "exchange is not valid, expected a name"),
    ],
)
def test_a_bad_configuration_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ExchangeError, match=words):
        server.app.settings(CONFIG | change)


def test_a_configuration_that_lacks_something_says_what() -> None:
    for name in CONFIG.keys() - {"invited", "mode"}:
        with pytest.raises(ExchangeError, match=f"{name} is missing"):
            server.app.settings({key: one for key, one in CONFIG.items() if key != name})
    with pytest.raises(HomeError, match="names no home"):
        server.app.configured(context({}, {**CONFIG, "home": ""}))


def test_the_bundle_declares_these_apps() -> None:
    import tomllib

    table = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    app = table["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert set(CONFIG) | {"home"} == set(app["config"])


def test_a_strangers_text_writes_no_line_of_the_sites_log(tmp_path: Path) -> None:
    said = "x\n2027 all is well\x1b[2J\u202e\ud800"
    client.app._note(tmp_path, "DonateRequest", "policy", said, "our trace\n")
    (line,) = (tmp_path / "site.log").read_text().splitlines()
    assert line.isprintable()
    found = json.loads(line)
    assert (found["code"], found["says"], found["where"]) == ("policy", said, "our trace\n")
