"""A served exchange whose sites have passphrases: tasks hold no key, and agents may die."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import federation_of_three
from exchanges import left

from client import home as site_home
from client.home import IDENTITY
from client.signing_wire import SOCKET, VARIABLE
from not_core.errors import KeyFileError
from not_core.service import supervisor
from not_core.trust import keys, passphrase
from simulations.federation import exchange as simulation
from simulations.federation.served import Deployment, until

WORDS = b"only the signing agents are told"


@pytest.fixture(scope="module")
def served(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    place = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        make = federation_of_three(place, models["llama"], monkeypatch)
        scenario = make("served")
        simulation.prepare(scenario)
        file = place / "passphrase"
        file.write_bytes(WORDS)
        file.chmod(0o600)
        for site in scenario.federation.sites:
            keys.change_passphrase(scenario.home(site.name) / IDENTITY, None, WORDS)
        monkeypatch.setenv(passphrase.VARIABLE, str(file))
        with Deployment(scenario).serving() as deployment:
            yield deployment


def test_an_exchange_ends_although_agents_are_killed_and_no_task_has_a_key(
    served: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = served.sites["hospital"]
    served.begin("trial")

    def tasks() -> list[dict[str, str]]:
        """Environments of the processes that work on a message, or wait for one."""
        superexec = supervisor.pids(hospital).get("superexec")
        found = psutil.Process(superexec).children(recursive=True) if superexec else []
        environments = []
        for one in found:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if one.ppid() != superexec:
                    environments.append(one.environ())
        return environments

    served_by = [
        psutil.Process(until(lambda: supervisor.pids(hospital).get("superexec"), 120, "superexec"))
    ]
    served_by.append(psutil.Process(supervisor.pids(hospital)["supernode"]))
    for environment in (*until(tasks, 240, "a task"), *(one.environ() for one in served_by)):
        assert passphrase.VARIABLE not in environment
    assert served_by[0].environ()[VARIABLE] == str(hospital.resolve() / SOCKET)

    for name in ("hospital", "clinic"):
        home = served.sites[name]
        before = until(
            lambda home=home: supervisor.pids(home).get("signing-agent"), 60, f"agent of {name}"
        )
        psutil.Process(before).kill()
        until(
            lambda home=home, before=before: (
                supervisor.pids(home).get("signing-agent") not in (None, before)
            ),
            60,
            f"another agent of {name}",
        )
    assert served.waited("trial") == "completed"
    assert left(served.scenario).run["failures"] == []

    monkeypatch.delenv(passphrase.VARIABLE)
    for name, home in served.sites.items():
        with pytest.raises(KeyFileError, match="is encrypted"):
            site_home.load(home)
        log = site_home.read_home(home).log
        log.verify()
        signed = {one.what for one in log.entries() if one.event == "signed"}
        expected = {"enrolment", "cosignature", "receipt on hospital", "receipt on court"}
        if name != "clinic":
            expected |= {"organ", "offer"}
        assert signed == expected, name
