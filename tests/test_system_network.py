"""A served exchange on a bad network: a slow link, a site that hangs, somebody who listens."""

import os
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from conftest import federation_of_three
from exchanges import MARKS, left
from wire import SlowLink, listening

from not_core.service import supervisor
from server import service
from simulations.federation import exchange as simulation
from simulations.federation.leaks import Needles, search
from simulations.federation.served import Deployment, until

pytestmark = pytest.mark.exhaustive

OTHERS = ("court", "hospital")
FEW_BYTES = 40_000
"""A second: many times slower than the others' links."""


@pytest.fixture
def deployment(
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployment:
    place = tmp_path_factory.mktemp("net")  # by a test's name, sockets' paths would be too long
    scenario = federation_of_three(place, models["llama"], monkeypatch)("served")
    simulation.prepare(scenario)
    return Deployment(scenario)


def receipts(deployment: Deployment) -> Counter[str]:
    """How many receipts each recipient has sent."""
    return Counter(one.recipient for one in left(deployment.scenario).receipts)


def others_are_done(deployment: Deployment) -> bool:
    """Whether hospital and court have each tried both organs."""
    return all(receipts(deployment)[name] == 2 for name in OTHERS)


def test_a_slow_link_holds_up_nobody_and_who_listens_learns_nothing(
    deployment: Deployment, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        link = stack.enter_context(SlowLink(deployment.service.port, FEW_BYTES, 0.1))
        address = deployment.sites["clinic"] / "node" / "coordinator"
        address.write_text(f"127.0.0.1:{link.port}")
        may_listen = True
        try:
            stack.enter_context(listening(tmp_path / "heard"))
        except PermissionError:
            may_listen = False
        stack.enter_context(deployment.serving())
        deployment.begin("trial")
        until(lambda: others_are_done(deployment), 300, "receipts of the others")
        assert receipts(deployment)["clinic"] == 0
        assert deployment.waited("trial") == "completed"
        assert receipts(deployment)["clinic"] == 2
        assert link.passed > 100_000
    if not may_listen:
        pytest.skip("this user may not capture packets; all but the listening was tested")
    homes = deployment.sites.values()
    organs = [path for home in homes for path in home.glob("organs/made/*/organ.safetensors")]
    heard = search([tmp_path / "heard"], Needles(MARKS, organs))
    assert (heard.sentences, heard.organ_blocks) == (0, 0)
    assert heard.bytes > 1_000_000
    # What lies beside it on the same wire is heard: the site's own node and its tasks.
    sealed = next(deployment.coordinator.glob("bank/*")).read_bytes()
    assert any(sealed[5000:5064] in path.read_bytes() for path in (tmp_path / "heard").iterdir())


def test_a_site_that_hangs_holds_up_nobody_and_takes_part_when_it_goes_on(
    deployment: Deployment,
) -> None:
    with deployment.serving():
        clinic = deployment.sites["clinic"]
        control = service.control_of(deployment.coordinator)
        until(lambda: len(control.online()) == len(deployment.sites), 120, "nodes of all sites")
        serving = supervisor.served_by(clinic)
        assert serving is not None
        deployment.begin("trial")
        nodes = [serving, *(one.pid for one in psutil.Process(serving).children(recursive=True))]
        for process in nodes:
            os.kill(process, signal.SIGSTOP)
        try:
            until(lambda: others_are_done(deployment), 300, "receipts of the others")
            assert receipts(deployment)["clinic"] == 0
        finally:
            for process in nodes:
                os.kill(process, signal.SIGCONT)
        assert deployment.waited("trial") == "completed"
        assert receipts(deployment)["clinic"] == 2
