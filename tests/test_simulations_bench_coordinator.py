"""The coordinator's bench on three sites: its figures agree with the protocol and each other."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from not_core.errors import ExchangeError, OfferError
from not_core.protocol import (
    DELIVER,
    TRANSPLANT,
    DeliverRequest,
    Packet,
    Refusal,
    TransplantRequest,
    pack,
    unpack,
)
from not_core.trust import keys, sealing
from server import holdings, home
from server.exchange import Exchange
from simulations.benches import bench_coordinator, bench_coordinator_results, superlink
from simulations.benches.bare_sites import FEDERATION, BareSites, found, names
from simulations.benches.bench_coordinator import measure
from simulations.benches.clock import Clock
from simulations.benches.pipe_grid import PipeGrid

SITES, DONORS, SIZE = 3, 1, 5_000


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("scale")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_coordinator, "WAITING_MESSAGES", (2, 40))
        return out, measure(out, [(SITES, DONORS)], SIZE, 1, lambda text: None)


def test_messages_bytes_and_what_is_kept_follow_from_the_protocol(
    measured: tuple[Path, dict[str, Any]],
) -> None:
    (run,) = measured[1]["runs"]
    messages = {
        "query.revoke": SITES,
        "query.enrol": SITES,
        "train.donate": DONORS,
        "query.segment": 2 * DONORS,  # header and body
        "query.deliver": 2 * DONORS * (SITES - 1),
        "evaluate.transplant": DONORS * SITES,
        "query.witness": SITES,
    }
    assert run["messages"] == run["at_sites"]["answered"] == messages
    assert run["receipts"] == DONORS * SITES
    assert run["witnesses"] == SITES
    assert run["log_entries"] == DONORS + DONORS * SITES
    # Every site is shown the offer and its own receipt of each organ.
    assert run["at_sites"]["proven"] == 2 * DONORS * SITES
    assert run["failures"] == []
    body = run["bank_bytes"]
    assert SIZE < body < SIZE + 20_000
    sealed = run["header_bytes"] + body
    assert run["delivered_bytes"] == DONORS * (SITES - 1) * sealed
    assert run["sent_bytes"]["query.deliver"] > run["delivered_bytes"]
    assert run["received_bytes"]["query.segment"] > DONORS * sealed
    assert run["header_bytes"] > SITES * 1168 * 4 / 3


def test_seconds_are_shared_out_among_steps(measured: tuple[Path, dict[str, Any]]) -> None:
    (run,) = measured[1]["runs"]
    for shares in (run["steps"], run["parts"]):
        total = sum(share["cpu_seconds"] for share in shares.values())
        assert total == pytest.approx(run["cpu_seconds"], rel=0.2, abs=0.1)
    steps = set(bench_coordinator_results.DRIVERS)
    assert set(run["steps"]) == steps | {"pipe", "waiting"}
    assert all(run["steps"][step]["cpu_seconds"] > 0 for step in steps)
    assert 20 < run["idle_mb"] <= run["peak_mb"] < 400


def test_results_are_written_and_the_homes_are_gone(
    measured: tuple[Path, dict[str, Any]],
) -> None:
    out, result = measured
    kept = ["bench-coordinator.json", "bench-coordinator.md"]
    assert sorted(one.name for one in out.iterdir()) == kept
    assert json.loads((out / kept[0]).read_bytes()) == json.loads(json.dumps(result))
    text = (out / kept[1]).read_text()
    assert "| 3 | 1 |" in text
    few, many = result["superlink"]
    assert (few["waiting"], many["waiting"]) == (2, 40)


class Direct:
    """Sites that answer in this process, at once."""

    def __init__(self, sites: BareSites) -> None:
        self._sites, self._replies = sites, dict[str, Any]()
        self.steps = Clock("test")

    def send(self, asked: tuple[str, int, str, Any]) -> None:
        identifier, node, what, content = asked
        self._replies[identifier] = pack(*self._sites.answer(node, what, unpack(content)))

    def poll(self) -> bool:
        return bool(self._replies)

    def recv(self) -> tuple[str, Any]:
        return self._replies.popitem()


def test_what_such_sites_seal_others_can_open_and_they_refuse_as_sites_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.dispatch.POLL_SECONDS", 0.0)
    found(tmp_path, SITES)
    home.create(tmp_path / "home", tmp_path / FEDERATION)
    coordinator = home.load(tmp_path / "home")
    sites = BareSites(tmp_path, work(tmp_path, "work"), SITES, DONORS, SIZE)
    direct: Any = Direct(sites)
    grid = PipeGrid(direct, SITES, direct.steps)
    settings = bench_coordinator.settings(SITES)
    Exchange(grid, coordinator, settings).run()
    asked = settings.asked
    (kept,) = coordinator.catalogue.organs(asked.exchange)
    copy = tmp_path / "copy.organ"
    holdings.export(coordinator, kept.organ, asked.exchange, copy)
    reader = keys.load(tmp_path / names(SITES)[-1])
    opened = sealing.open_sealed(copy, reader, tmp_path / "opened")
    assert opened.manifest.digest == kept.organ
    assert (opened.path / "organ.safetensors").stat().st_size == SIZE
    deliver = DeliverRequest(
        exchange=asked.exchange,
        organ="00" * 32,
        offset=0,
        sealed_bytes=4,
        sealed_sha256="00" * 32,
    )
    assert refusal(sites, DELIVER, deliver, b"true") == OfferError.code
    fresh = BareSites(tmp_path, work(tmp_path, "fresh"), SITES, DONORS, SIZE)
    early = TransplantRequest(exchange=asked.exchange, organ=kept.organ, mode="replace")
    assert refusal(fresh, TRANSPLANT, early) == OfferError.code


def work(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


def refusal(sites: BareSites, what: str, request: object, body: bytes = b"") -> str:
    """The code by which the last site refuses a request."""
    packet: Packet = unpack(pack(request, body))
    answer, _ = sites.answer(SITES, what, packet)
    assert isinstance(answer, Refusal)
    return answer.code


def run(sites: int, donors: int) -> dict[str, Any]:
    """A measurement that follows a model exactly."""
    drivers = bench_coordinator_results.DRIVERS
    steps = {
        step: {"cpu_seconds": sum(0.002 * number(sites, donors) for number in each.values())}
        for step, each in drivers.items()
    }
    header = 3000 + 1700 * sites
    return {
        "sites": sites,
        "donors": donors,
        "steps": steps | {"pipe": {"cpu_seconds": 99.0}},
        "header_bytes": header,
        "bank_bytes": donors * 10**6,
        "delivered_bytes": donors * (sites - 1) * (header + 10**6),
    }


def test_the_model_finds_what_costs_grow_with() -> None:
    runs = [run(10, 10), run(50, 10), run(50, 50), run(200, 10)]
    model = bench_coordinator_results.model(runs)
    assert model["steps"] == {
        step: dict.fromkeys(each, 2.0) for step, each in bench_coordinator_results.DRIVERS.items()
    }
    assert model["header_bytes"] == {"fixed": 3000, "each": 1700}
    assert {row["error"] for row in model["checked"]} == {0}
    wrong = [*runs[:3], run(200, 10) | {"header_bytes": 2 * (3000 + 1700 * 200)}]
    errors = Counter(row["error"] for row in bench_coordinator_results.model(wrong)["checked"])
    assert errors == {0: 7, -0.5: 1}
    assert bench_coordinator_results.model(runs[:1]) == {}


def test_looks_cost_more_the_more_waits(tmp_path: Path) -> None:
    few, many = superlink.looks(tmp_path, (2, 150))
    assert few["look_ms"] < many["look_ms"]


def test_a_process_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "simulations.benches.bare_sites.found", lambda place, count: found(place, count - 1)
    )
    with pytest.raises(ExchangeError, match="a process of the bench failed"):
        measure(tmp_path, [(2, 1)], SIZE, 1, lambda text: None)
    assert list(tmp_path.iterdir()) == []
