"""The coordinator's log: what sites sign of it, and each way in which one might be deceived."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from exchanges import by_hand
from flwr.app import Message
from local_grid import LocalGrid
from pages import receipt
from sqlalchemy.orm import Session

import client.commands
import server.commands
from client import home as site_home
from client import recipient, witness
from client.home import Site
from not_core import atomic, canonical, protocol
from not_core.errors import LogError, NotError, PolicyError
from not_core.protocol import RECEIPT_TYPE, DeliverRequest, WitnessRequest
from not_core.trust.statement import sign_statement
from not_core.trust.tree_head import COSIGNATURE_TYPE, Cosignature
from server import database, log, tables, witnesses
from server import home as coordinator_home
from server.dispatch import Dispatch
from server.home import Coordinator
from simulations.federation import exchange as simulation
from simulations.federation.facts import gather

Call = Callable[..., tuple[int, str, str]]
A, B, C, D = (letter * 64 for letter in "abcd")


@contextmanager
def written(coordinator: Coordinator) -> Iterator[Session]:
    """What a coordinator can do to its own database."""
    engine = database.connect(coordinator_home.catalogue_of(coordinator.folder))
    with database.writing(engine) as session:
        yield session
    engine.dispose()


def append(coordinator: Coordinator, *digests: str) -> None:
    with written(coordinator) as session:
        for digest in digests:
            log.append(session, "offered", site="court", exchange="trial", digest=digest)


def asked(coordinator: Coordinator, site: Site, *digests: str) -> WitnessRequest:
    """What the coordinator asks a site."""
    book, name = coordinator.catalogue.log, site.settings.site
    signed = witnesses.signed_head(coordinator)
    since = min(book.seen_by(name), signed.head.size)
    return witnesses.request(book, "trial", name, digests, signed, since)


def signs(coordinator: Coordinator, site: Site, *digests: str) -> None:
    """A site signs what the log is, as at the end of an exchange."""
    request = asked(coordinator, site, *digests)
    answer, _ = witness.witness(site, request, b"")
    head = witnesses.signed_head(coordinator).head
    assert answer.size == head.size
    coordinator.catalogue.log.witnessed(head, site.identity.profile, answer.envelope.encode())


def refused(site: Site, request: WitnessRequest) -> str:
    """Why a site does not sign."""
    kept = sorted(site.folder.glob("heads/*.json"))
    with pytest.raises(LogError) as found:
        witness.witness(site, request, b"")
    assert sorted(site.folder.glob("heads/*.json")) == kept
    evidence = [path.read_bytes() for path in site.folder.glob("heads/refused/*.json")]
    assert canonical.encode(request) in evidence
    return str(found.value)


def tried(site: Site, exchange: str) -> str:
    """A site keeps a receipt; its digest."""
    said = receipt(exchange, A, "court", site.settings.site, -0.1)
    envelope = sign_statement(canonical.encode(said), RECEIPT_TYPE, site.identity)
    atomic.write(site.place("receipts", exchange, f"{A}-replace-0000.json"), envelope)
    return canonical.sha256(envelope)


def doubt(call: Call, site: Site) -> str:
    """What ``organ-site log verify`` says is wrong; empty where nothing is."""
    code, _, err = call("log", "verify", site.folder, app=client.commands.app)
    assert bool(err) == bool(code)
    return " ".join(err.split())


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have the coordinator sign from now on as if a minute had passed."""

    def passes() -> None:
        clock = SimpleNamespace(time=lambda: time.time() + 60)
        monkeypatch.setattr("server.witnesses.time", clock)

    return passes


@pytest.fixture(scope="module")
def prepared(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> simulation.Scenario:
    from conftest import federation_of_three

    with pytest.MonkeyPatch.context() as patch:
        make = federation_of_three(tmp_path_factory.mktemp("log"), models["llama"], patch)
        scenario = make("homes")
        simulation.prepare(scenario)
    return scenario


@pytest.fixture
def scenario(prepared: simulation.Scenario, tmp_path: Path) -> simulation.Scenario:
    shutil.copytree(prepared.homes, tmp_path / "homes")
    return replace(prepared, homes=tmp_path / "homes")


@pytest.fixture
def coordinator(scenario: simulation.Scenario) -> Iterator[Coordinator]:
    with coordinator_home.opened(scenario.coordinator) as found:
        yield found


@pytest.fixture
def clinic(scenario: simulation.Scenario) -> Site:
    return site_home.load(scenario.home("clinic"))


@pytest.fixture
def court(scenario: simulation.Scenario) -> Site:
    return site_home.load(scenario.home("court"))


def test_sites_sign_a_log_that_grows(
    coordinator: Coordinator, clinic: Site, court: Site, call: Call
) -> None:
    signs(coordinator, clinic)  # of a log without entries
    append(coordinator, A, B)
    signs(coordinator, clinic, A)
    signs(coordinator, court, A, B)
    append(coordinator, C, A)  # A is there already
    signs(coordinator, clinic, C)
    signs(coordinator, clinic)
    shown = witness.verify(clinic)
    assert shown is not None
    assert (shown.head.size, shown.heads, shown.entries, shown.witnesses) == (3, 4, 2, ("court",))
    assert shown.wrong == ""
    code, out, err = call("log", "verify", clinic.folder, "--json", app=client.commands.app)
    assert code == 0, err
    assert json.loads(out)["root"] == shown.head.root
    code, out, err = call("log", coordinator.folder, "--json", app=server.commands.app)
    assert code == 0, err
    told = json.loads(out)
    assert (told["entries"], told["root"], told["log"]) == (3, shown.head.root, shown.head.log)
    assert told["signed"] == {"clinic": 3, "court": 2}
    assert [row["digest"] for row in told["rows"]] == [A, B, C]
    assert ("witnessed", "tree head") in {(one.event, one.what) for one in clinic.log.entries()}


def test_a_log_that_was_rewritten_is_refused(
    coordinator: Coordinator, clinic: Site, call: Call
) -> None:
    append(coordinator, A, B)
    signs(coordinator, clinic)
    with written(coordinator) as session:
        session.execute(sa.delete(tables.LogEntry))
        session.execute(sa.delete(tables.LogNode))
    append(coordinator, A, C, D)
    assert coordinator.catalogue.log.verify()[0] == 3  # in itself it is well
    assert "does not begin with the 2" in refused(clinic, asked(coordinator, clinic))
    code, _, err = call("log", "verify", clinic.folder, app=client.commands.app)
    assert code == 1
    assert "1 tree heads of the coordinator were not believed" in " ".join(err.split())


def test_a_log_that_was_cut_off_is_refused(
    coordinator: Coordinator, clinic: Site, later: Callable[[], None]
) -> None:
    append(coordinator, A, B)
    signs(coordinator, clinic)
    with written(coordinator) as session:
        session.execute(sa.delete(tables.LogEntry).filter_by(number=1))
        session.execute(sa.delete(tables.LogNode).filter(tables.LogNode.number == 1))
    later()
    assert "has 1 entries, it had 2" in refused(clinic, asked(coordinator, clinic))


def test_of_two_exchanges_at_once_either_may_be_heard_first(
    coordinator: Coordinator, clinic: Site, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.dispatch.AGAIN_SECONDS", 0.1)
    grid = LocalGrid({7: clinic.folder})
    grid.gone.add(7)  # both are sent again
    said = []

    def exchange(name: str) -> Dispatch:
        dispatch = Dispatch(grid, name, patience=60)
        witnesses.Witnesses(dispatch, coordinator, name, 60).ask(
            7,
            clinic.identity.profile,
            [],
            witnesses.signed_head(coordinator),
            lambda: said.append(name),
            said.append,
        )
        return dispatch

    append(coordinator, A)
    spring = exchange("spring")
    append(coordinator, B)
    summer = exchange("summer")
    grid.gone.clear()
    summer.run()
    spring.run()
    assert said == ["summer", "spring"]
    assert not list(clinic.folder.glob("heads/refused/*"))
    assert doubt(call, clinic) == ""


def test_an_older_tree_head_of_another_log_is_evidence(
    coordinator: Coordinator, clinic: Site, tmp_path: Path
) -> None:
    shutil.copytree(coordinator.folder, tmp_path / "second")
    with coordinator_home.opened(tmp_path / "second") as second:
        append(second, B)
        early = asked(second, clinic)
    append(coordinator, A)
    signs(coordinator, clinic)
    append(coordinator, C)
    signs(coordinator, clinic)
    assert "does not begin with the 1" in refused(clinic, early)


def test_an_exchange_that_is_never_shown_is_named(
    coordinator: Coordinator, clinic: Site, call: Call
) -> None:
    tried(clinic, "by-hand")
    assert doubt(call, clinic) == ""
    tried(clinic, "spring")
    clinic.log.append("accepted", what="organ", digest=A, exchange="spring")
    assert "no tree head has come" in doubt(call, clinic)
    append(coordinator, A)
    signs(coordinator, clinic)  # in exchange trial
    said = doubt(call, clinic)
    assert "whose offers or receipts this site holds: spring; they are under way" in said
    assert "not believed" not in said
    assert call("log", "reset", clinic.folder, app=client.commands.app)[0] == 0
    witness.witness(clinic, replace(asked(coordinator, clinic), since=0, path=()), b"")
    assert doubt(call, clinic) == ""


@pytest.mark.parametrize(
    "other", [{"event": "expelled"}, {"site": "court"}, {"exchange": "spring"}]
)
def test_an_entry_that_says_something_else_proves_nothing(
    coordinator: Coordinator, clinic: Site, call: Call, other: dict[str, str]
) -> None:
    digest = tried(clinic, "trial")
    said = {"event": "received", "site": "clinic", "exchange": "trial", "digest": digest}
    with written(coordinator) as session:
        log.append(session, **said | other)
    signs(coordinator, clinic, digest)
    assert "receipt on organ aaaaaaaaaaaa in exchange trial" in doubt(call, clinic)


def test_what_was_delivered_and_cannot_be_read_is_named_and_the_rest_judged(
    coordinator: Coordinator, clinic: Site, call: Call
) -> None:
    tried(clinic, "trial")
    signs(coordinator, clinic)
    data = b"garbage"
    request = DeliverRequest(
        exchange="trial",
        organ=B,
        offset=0,
        sealed_bytes=len(data),
        sealed_sha256=canonical.sha256(data),
    )
    recipient.deliver(clinic, request, data)
    code, out, err = call("log", "verify", clinic.folder, "--json", app=client.commands.app)
    assert code == 1
    assert "receipt on organ aaaaaaaaaaaa" in " ".join(err.split())
    assert json.loads(out)["cannot be read"] == [f"organs/in/trial/{B}.organ"]


def test_sites_that_are_shown_two_logs_find_out(
    coordinator: Coordinator, clinic: Site, court: Site, tmp_path: Path
) -> None:
    append(coordinator, A)
    shutil.copytree(coordinator.folder, tmp_path / "second")
    with coordinator_home.opened(tmp_path / "second") as second:
        append(coordinator, B)
        append(second, C, D)
        signs(coordinator, court)
        signs(second, clinic)  # as long as the coordinator hides what the other has signed
        (of_court,) = coordinator.catalogue.log.witnesses()
        with written(second) as session:
            row = {"site": "court", "size": of_court.size, "time": 0}
            row |= {"profile": canonical.encode(of_court.profile), "envelope": of_court.envelope}
            session.merge(tables.Witness(**row))
        assert "court has signed what is not in this log" in refused(clinic, asked(second, clinic))


def test_a_cosignature_that_nobody_vouches_for_says_nothing(
    coordinator: Coordinator, clinic: Site, court: Site
) -> None:
    append(coordinator, A)
    signs(coordinator, court)
    request = asked(coordinator, clinic)
    (one,) = request.cosigned
    head = witnesses.signed_head(coordinator).head
    by_clinic = sign_statement(
        canonical.encode(Cosignature(site="court", head=head)), COSIGNATURE_TYPE, clinic.identity
    )
    for profile, envelope in [
        (clinic.identity.profile, one.envelope),
        (one.profile, by_clinic.decode()),
        (clinic.identity.profile, by_clinic.decode()),
        (one.profile, "{}"),
    ]:
        forged = replace(one, profile=profile, envelope=envelope)
        witness.witness(clinic, replace(request, cosigned=(forged,)), b"")
        shown = witness.verify(clinic)
        assert shown is not None
        assert shown.witnesses == ()
        assert all(b'"cosigned":[]' in one.read_bytes() for one in clinic.folder.glob("heads/*"))
        request = replace(request, since=1)


def test_another_log_is_refused(coordinator: Coordinator, clinic: Site) -> None:
    append(coordinator, A)
    signs(coordinator, clinic)
    (coordinator.folder / coordinator_home.LOG_KEY).unlink()
    coordinator_home.make_log_key(coordinator.folder)
    with coordinator_home.opened(coordinator.folder) as other:
        assert "another log" in refused(clinic, asked(other, clinic))


def test_an_operator_believes_another_log_by_a_word(
    coordinator: Coordinator, clinic: Site, call: Call, later: Callable[[], None]
) -> None:
    append(coordinator, A, B)
    signs(coordinator, clinic)
    later()
    with written(coordinator) as session:  # put back from an old copy
        for table in (tables.LogEntry, tables.LogNode, tables.Witness):
            session.execute(sa.delete(table))
    assert "has 0 entries, it had 2" in refused(clinic, asked(coordinator, clinic))
    code, out, _ = call("log", "reset", clinic.folder, "--json", app=client.commands.app)
    assert code == 0
    assert Path(json.loads(out)["set aside"]).is_dir()
    signs(coordinator, clinic)
    assert call("log", "verify", clinic.folder, app=client.commands.app)[0] == 0
    assert "set aside" in {one.event for one in clinic.log.entries()}


def test_an_entry_that_is_not_there_is_not_believed(coordinator: Coordinator, clinic: Site) -> None:
    append(coordinator, A, B, C)
    request = asked(coordinator, clinic, B)
    (one,) = request.logged
    for changes in (
        {"index": 0},
        {"entry": replace(one.entry, digest=D)},
        {"entry": replace(one.entry, event="received")},
        {"path": one.path[1:]},
        {"path": ()},
    ):
        changed = replace(request, logged=(replace(one, **changes),))  # type: ignore[arg-type]
        assert "no proof" in refused(clinic, changed)


def test_a_head_that_the_logs_key_has_not_signed_is_refused(
    coordinator: Coordinator, clinic: Site, court: Site
) -> None:
    append(coordinator, A)
    request = asked(coordinator, clinic)
    signed = json.loads(request.head)
    by_court = sign_statement(
        b"{}", "application/vnd.organ-exchange.tree-head.v1+json", court.identity
    )
    signed["signatures"] = json.loads(by_court)["signatures"]
    for head in (canonical.encode(signed).decode(), by_court.decode(), "{}"):
        with pytest.raises(NotError):
            witness.witness(clinic, replace(request, head=head), b"")
    assert witness.verify(clinic) is None


def test_a_coordinator_cannot_fill_a_sites_disk_with_heads(
    coordinator: Coordinator,
    clinic: Site,
    call: Call,
    later: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append(coordinator, A)
    signs(coordinator, clinic)
    (kept,) = clinic.folder.glob("heads/*.json")
    narrow = replace(clinic, policy=replace(clinic.policy, most_heads_bytes=kept.stat().st_size))
    with pytest.raises(PolicyError, match="tree heads would be kept"):
        witness.witness(narrow, asked(coordinator, clinic), b"")
    assert list(clinic.folder.glob("heads/**/*.json")) == [kept]
    assert "not kept, for want of room" in doubt(call, clinic)
    signs(coordinator, clinic)
    assert doubt(call, clinic) == ""

    # A log that was rewritten is found out all the same, and what shows it is kept.
    with written(coordinator) as session:
        session.execute(sa.delete(tables.LogEntry))
        session.execute(sa.delete(tables.LogNode))
    append(coordinator, B, C)
    request = asked(coordinator, clinic)
    refused(narrow, request)
    monkeypatch.setattr(witness, "RESERVE", 4000)
    later()
    large = asked(coordinator, clinic, B, C)
    with pytest.raises(LogError):
        witness.witness(narrow, large, b"")
    evidence = {path.read_bytes() for path in clinic.folder.glob("heads/refused/*")}
    assert evidence == {canonical.encode(request), canonical.encode(replace(large, logged=()))}
    assert "2 tree heads of the coordinator were not believed" in doubt(call, clinic)
    monkeypatch.setattr(witness, "RESERVE", 0)
    with pytest.raises(LogError):
        witness.witness(narrow, replace(large, logged=large.logged[1:]), b"")
    assert len(list(clinic.folder.glob("heads/refused/*"))) == 2


def test_a_site_that_was_put_back_is_asked_from_what_it_knows(
    coordinator: Coordinator, clinic: Site
) -> None:
    append(coordinator, A)
    signs(coordinator, clinic)
    append(coordinator, B)
    signs(coordinator, clinic)
    (clinic.folder / "heads" / "000002.json").unlink()
    request = asked(coordinator, clinic)
    answer, _ = witness.witness(clinic, request, b"")
    assert (answer.size, answer.envelope) == (1, "")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log_entries SET digest = 'x' WHERE number = 1",
        "UPDATE log_entries SET number = 9 WHERE number = 2",
        "DELETE FROM log_entries WHERE number = 0",
        "DELETE FROM log_nodes WHERE level = 1 AND number = 0",
        "UPDATE log_nodes SET hash = zeroblob(32) WHERE level = 0 AND number = 2",
        "UPDATE log_entries SET leaf = (SELECT leaf FROM log_entries WHERE number = 0)",
    ],
)
def test_a_log_that_is_damaged_is_reported(
    coordinator: Coordinator, call: Call, change: str
) -> None:
    append(coordinator, A, B, C)
    assert call("log", coordinator.folder, app=server.commands.app)[0] == 0
    with written(coordinator) as session:
        session.execute(sa.text(change))
    code, _, err = call("log", coordinator.folder, app=server.commands.app)
    assert code == 1
    assert "put back the newest copy" in " ".join(err.split())


def test_an_exchange_ends_with_what_all_sites_sign(
    scenario: simulation.Scenario, call: Call
) -> None:
    hidden: list[str] = []

    def hides(message: Message) -> Message:
        """A coordinator that shows the clinic nothing of what the clinic was given."""
        if message.metadata.message_type == protocol.WITNESS:
            request = protocol.read(protocol.unpack(message.content), WitnessRequest)
            if any(one.entry.site == "clinic" for one in request.logged):
                hidden.extend(one.entry.event for one in request.logged)
                message.content = protocol.pack(replace(request, logged=()))
        return message

    by_hand(scenario, on_request=hides)
    assert sorted(hidden) == ["offered", "offered", "received", "received"]
    assert gather(scenario)["failures"] == []
    for name in ("hospital", "court"):
        shown = witness.verify(site_home.read_home(scenario.home(name)))
        assert shown is not None
        # Both offers, and its receipts on both organs.
        assert (shown.entries, shown.wrong) == (4, "")
    clinic = scenario.home("clinic")
    code, _, err = call("log", "verify", clinic, app=client.commands.app)
    words = " ".join(err.split())
    assert code == 1
    assert words.count("offer of organ") == words.count("receipt on organ") == 2

    by_hand(scenario)  # shows it
    code, out, err = call("log", "verify", clinic, "--json", app=client.commands.app)
    assert code == 0, err
    facts: dict[str, Any] = json.loads(out)
    assert facts["signed by others"] == ["court", "hospital"]
    assert (facts["tree heads"], facts["proven to hold"]) == (2, 4)
