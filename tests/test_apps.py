"""How a deployment tells the two Flower apps where they are at home."""

import json
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from pages import WORDS, Members, asked

import client.app
import server.app
from not_core.errors import ExchangeError, HomeError
from not_core.manifest import Span
from not_core.trust import authority
from server import home as coordinator_home
from server.asked import read


def context(node: dict[str, str], run: dict[str, object]) -> Context:
    return Context(1, 1, node, RecordDict(), run)  # type: ignore[arg-type]


def test_a_site_is_where_its_operator_says() -> None:
    assert client.app.configured_home(context({"home": "/x"}, {"home": "/evil"})) == Path("/x")
    with pytest.raises(HomeError, match="node-config"):
        client.app.configured_home(context({}, {"home": "/evil"}))


def test_a_run_is_of_an_exchange_as_it_was_asked_for(tmp_path: Path) -> None:
    coordinator = Members(tmp_path).coordinator
    coordinator.catalogue.schedule.begin(asked(span="2:5"))
    file = coordinator.folder / coordinator_home.SETTINGS
    kept = file.read_text()
    file.write_text(kept.replace("step_seconds = 21600", "step_seconds = 172800"))
    run = {"home": str(coordinator.folder), "exchange": "spring"}
    found, settings = server.app.configured(context({}, run))
    found.catalogue.close()
    assert (settings.asked, settings.asked.terms.span) == (asked(span="2:5"), Span(start=2, stop=5))
    limits = settings.limits
    assert (limits.step_seconds, limits.join_seconds, limits.enrol_seconds) == (172_800, 120, 60)
    for wrong in ("0", "inf", "'long'", "1e9"):
        file.write_text(kept.replace("step_seconds = 21600", f"step_seconds = {wrong}"))
        with pytest.raises(HomeError, match=r"limits\.step_seconds"):
            coordinator_home.settings_of(coordinator.folder)
    file.write_text(kept[: kept.index("[limits]")])  # of an earlier version
    assert coordinator_home.settings_of(coordinator.folder).limits.wire_seconds == 600
    with pytest.raises(ExchangeError, match="no exchange 'summer' was asked for"):
        server.app.configured(context({}, run | {"exchange": "summer"}))
    with pytest.raises(HomeError, match="names no home"):
        server.app.configured(context({}, run | {"home": ""}))
    coordinator.catalogue.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"span": "abc"}, "span: .*expected START:STOP, the first below the second, not 'abc'"),
        ({"span": "5:2"}, "span: .*START:STOP"),
        ({"tokens": "many"}, "tokens: .*valid integer.*, not 'many'; correct it"),
        ({"tokens": "9" * 5000}, "tokens: .*exceeded maximum size, not '9{59};"),
        ({"tokens": 2**53}, "tokens: .*less than"),
        ({"sites": 10**24}, "sites: .*less than or equal to 10000, not 10"),
        ({"learning-rate": "0,001"}, "learning-rate: .*valid number.*, not '0,001'"),
        ({"learning-rate": "nan"}, "learning-rate: .*less than 1, not 'nan'"),
        ({"rank": -1}, "rank: .*, not -1"),
        ({"seed": ""}, "seed: .*, not ''"),
        ({"mode": "nonsense"}, "mode: .*'replace' or 'insert', not 'nonsense'"),
        ({"invited": "a b/c"}, "invited.1: .*pattern.*, not 'b/c'"),
        ({"exchange": "../up"}, "exchange: .*pattern.*, not '../up'"),
        ({"token": 1}, "token: Unexpected"),
    ],
)
def test_what_is_asked_for_badly_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ExchangeError, match=words):
        asked(**change)


def test_whoever_asks_for_less_is_told_of_what() -> None:
    for name in WORDS.keys() - {"sites"}:
        with pytest.raises(ExchangeError, match=f"{name}: Field required; correct it"):
            read({key: one for key, one in WORDS.items() if key != name})


def test_words_and_numbers_say_the_same() -> None:
    words = WORDS | {"rank": "8", "invited": "b, a b", "mode": "insert"}
    found = read({key: str(one) for key, one in words.items()})
    assert found == read(found.words)
    assert found.words == WORDS | {"rank": 8, "invited": "a,b", "mode": "insert"}


def test_the_bundle_declares_these_apps() -> None:
    import tomllib

    table = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    app = table["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert set(app["config"]) == {"home", "exchange"}


def test_a_strangers_text_writes_no_line_of_the_sites_log(tmp_path: Path) -> None:
    said = "x\n2027 all is well\x1b[2J\u202e\ud800"
    client.app._note(tmp_path, "DonateRequest", "policy", said, "our trace\n")
    (line,) = (tmp_path / "site.log").read_text().splitlines()
    assert line.isprintable()
    found = json.loads(line)
    assert (found["code"], found["says"], found["where"]) == ("policy", said, "our trace\n")


def test_a_long_log_of_the_sites_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("not_core.service.supervisor.LOG_BYTES", 300)
    for number in range(9):
        client.app._note(tmp_path, "DonateRequest", "policy", f"no {number}")
    said = [json.loads(line)["says"] for line in (tmp_path / "site.log").read_text().splitlines()]
    before = (tmp_path / "site.log.1").read_text()
    assert said[-1] == "no 8"
    assert 0 < len(said) < 9
    assert f"no {8 - len(said)}" in before


def test_what_a_field_of_no_name_holds_is_not_repeated(tmp_path: Path) -> None:
    """Somebody may have put a password there."""
    authority.create_root(tmp_path / "root", "trial")
    coordinator_home.create(tmp_path / "home", tmp_path / "root")
    file = tmp_path / "home" / coordinator_home.SETTINGS
    for content, said in (
        ('password = "hunter2"', r"password: .*; correct it"),
        ("most_organs = 0", r"most_organs: .*, not 0; correct it"),
    ):
        file.write_text(content)
        with pytest.raises(HomeError, match=said) as refused:
            coordinator_home.settings_of(tmp_path / "home")
        assert "hunter2" not in str(refused.value)
