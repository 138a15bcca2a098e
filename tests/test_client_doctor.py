"""A site's check-up, and what it would send if it were asked now."""

import json
import shutil
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, write_jsonl

from client import commands, service
from client import home as site_home
from client.policy import Policy
from not_core.errors import HomeError
from not_core.service import supervisor, tls
from not_core.surgery.checkpoint import open_checkpoint
from not_core.trust import authority, federation, keys
from not_core.trust.profile import read_request

DAY = 86_400
Call = Callable[..., tuple[int, str, str]]


def make(place: Path, model: Path, now: float | None = None, **more: Any) -> Path:
    """The home of an admitted site."""
    authority.create_root(place / "root", "regional", now=now)
    records = write_jsonl(place / "records.jsonl", sentences(60, 1))
    general = write_jsonl(place / "general.jsonl", sentences(12, 2))
    settings = {"site": "clinic", "model": str(model), "records": str(records), "domain": "care"}
    settings |= {"general": str(general), "licence": "MIT"}
    home = place / "home"
    site_home.create(home, site_home.settings(settings), Policy(), **more)
    request = read_request(home / "identity" / keys.REQUEST)
    profile = authority.admit(place / "root", request, now=now)
    trust = federation.load_trust(place / "root")
    keys.install(home / "identity", profile, trust, now=now, **more)
    return home


@pytest.fixture(scope="module")
def made(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("doctor"), models["llama"])


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home"))


@pytest.fixture
def wrong(call: Call) -> Callable[..., dict[str, str]]:
    """What the doctor finds wrong, by check."""

    def examine(home: Path, *more: object) -> dict[str, str]:
        code, out, err = call("doctor", home, "--json", *more, app=commands.app)
        rows = json.loads(out)
        found = {row["check"]: row["says"] for row in rows if row["found"] != "well"}
        assert code == (1 if found else 0), err
        assert all(row["says"] for row in rows)
        return found

    return examine


def edit(home: Path, **changes: Any) -> None:
    path = home / "site.toml"
    lines = [line for line in path.read_text().splitlines() if line.split(" ")[0] not in changes]
    path.write_text(
        "\n".join([*lines, *(f"{key} = {json.dumps(changes[key])}" for key in changes)])
    )


def test_a_sound_home_is_well_and_left_as_it_is(
    home: Path, wrong: Callable[..., dict[str, str]]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    assert wrong(home) == {}
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}


def test_what_is_broken_is_named_with_what_to_do(
    home: Path, wrong: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    home.chmod(0o755)
    found = wrong(home)
    assert found.keys() == {"home"}
    assert "run 'chmod go-rwx'" in found["home"]
    home.chmod(0o700)

    edit(home, device="nothing", model=str(tmp_path / "none"), records=str(tmp_path / "none.jsonl"))
    found = wrong(home)
    assert found.keys() == {"device", "model", "records"}
    assert "use auto, cpu, cuda or mps" in found["device"]

    (home / "site.toml").write_text("site = 3")
    assert "correct it" in wrong(home)["settings"]
    assert wrong(tmp_path / "nowhere")["home"].endswith("make a home with organ-site init")


def test_too_few_records_are_found(home: Path, wrong: Callable[..., dict[str, str]]) -> None:
    edit(home, held_out=5)
    assert wrong(home)["records"].startswith("5 documents are held out, receipts need 10")
    edit(home, held_out=20, records=str(write_jsonl(home / "few.jsonl", sentences(8, 3))))
    assert "record" in wrong(home)["records"]


def test_a_changed_log_and_a_clock_that_is_behind_are_found(
    home: Path, wrong: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("not_core.trust.log.time.time", lambda: now + 3 * DAY)
        site_home.read_home(home).log.append("created", what="home")
    assert "set it" in wrong(home)["clock"]
    with sqlite3.connect(home / "log.db") as database:
        database.execute("UPDATE entries SET what = 'other' WHERE number = 1")
    database.close()
    assert "does not continue the chain" in wrong(home)["log"]


def test_keys_certificate_and_list_are_checked(
    models: dict[str, Path], wrong: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    then = time.time() - 400 * DAY
    home = make(tmp_path, models["llama"], now=then, passphrase=b"words")
    found = wrong(home)
    assert found.keys() == {"keys", "certificate", "revocation list"}
    assert "is encrypted; name the file" in found["keys"]
    assert "ask the federation for a new one" in found["certificate"]
    assert "get the federation's present federation.crl" in found["revocation list"]
    words = tmp_path / "words"
    words.write_text("words")
    words.chmod(0o600)
    assert "keys" not in wrong(home, "--passphrase-file", words)
    (home / "identity" / keys.PROFILE).unlink()
    assert "not admitted yet" in wrong(home)["keys"]


def test_a_full_disk_is_found(
    home: Path, wrong: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home)._replace(free=2**29)
    monkeypatch.setattr("not_core.checkup.shutil.disk_usage", lambda path: usage)
    assert wrong(home)["disk"].startswith("0.5 GiB are free, 2 are needed; make room")


def test_a_home_that_is_nearly_full_of_deliveries_is_found(
    home: Path, wrong: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home / "organs" / "in" / "spring"
    place.mkdir(parents=True)
    for number in range(9):
        (place / f"{number}.part").write_bytes(b"x")
    assert wrong(home) == {}
    monkeypatch.setattr("client.policy.MOST_FILES", 11)
    said = wrong(home)["deliveries"]
    assert said.startswith("9 of 11 files")
    assert "organ-site forget" in said


@contextmanager
def answering(place: Path) -> Iterator[tuple[str, Path]]:
    """A server that shakes hands by TLS and no more; its address and certificate."""
    tls.create(place / "tls.pem", place / "tls.key", [supervisor.LOOPBACK])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "tls.pem", place / "tls.key")
    with socket.create_server((supervisor.LOOPBACK, 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with plain, suppress(OSError), context.wrap_socket(plain, server_side=True):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{supervisor.LOOPBACK}:{listener.getsockname()[1]}", place / "tls.pem"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_the_coordinator_is_reached_under_its_certificate_only(
    home: Path, wrong: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    tls.create(tmp_path / "other.pem", tmp_path / "other.key", [supervisor.LOOPBACK])
    with answering(tmp_path) as (address, certificate):
        service.connect(site_home.load(home), address, certificate)
        assert wrong(home).keys() == {"admission"}, "it shakes hands, and says nothing more"
        service.connect(site_home.load(home), address, tmp_path / "other.pem")
        assert "another certificate than was given" in wrong(home)["coordinator"]
    assert "cannot be reached" in wrong(home)["coordinator"]


@pytest.mark.parametrize("found", [b"\xff\xfe:1", b"x.example", b"x.example:65536", b"", b"a b:1"])
def test_an_address_that_is_none_is_named_with_what_to_do(
    found: bytes, home: Path, wrong: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    tls.create(tmp_path / "tls.pem", tmp_path / "tls.key", ["x.example"])
    service.connect(site_home.load(home), "x.example:65535", tmp_path / "tls.pem")
    (home / "node" / "coordinator").write_bytes(found)
    said = wrong(home)
    assert said.keys() == {"coordinator", "admission"}
    assert "expected HOST:PORT; run 'organ-site connect'" in said["coordinator"]
    with pytest.raises(HomeError, match="expected HOST:PORT"):
        service.programs(home, 1.0, None, service.Beat(home))


def test_connecting_again_keeps_the_nodes_key_unless_another_is_wanted(
    home: Path, made: Path, tmp_path: Path
) -> None:
    tls.create(tmp_path / "tls.pem", tmp_path / "tls.key", ["x.example", "y.example"])
    admission = service.connect(site_home.load(home), "x.example:1", tmp_path / "tls.pem")
    node = home / "node"
    key, secret, said = ((node / one).read_bytes() for one in ("key", "secret", "admission"))
    service.connect(site_home.load(home), "y.example:2", tmp_path / "tls.pem")
    assert (node / "key").read_bytes() == key
    assert (node / "secret").read_bytes() == secret
    assert (node / "coordinator").read_text() == "y.example:2"
    assert (node / "key").stat().st_mode & 0o777 == 0o600
    assert json.loads(admission.read_bytes())["payload"] == json.loads(said)["payload"]
    service.connect(site_home.load(home), "y.example:2", tmp_path / "tls.pem", new_key=True)
    assert (node / "key").read_bytes() != key


@pytest.mark.parametrize(
    ("host", "found", "said"),
    [
        ("north.example", "tls", ""),
        ("NORTH.example", "tls", ""),
        ("192.0.2.7", "tls", ""),
        ("[2001:DB8:0::7]", "tls", ""),
        ("a.wide.example", "tls", ""),
        ("a.b.wide.example", "tls", "not for a.b.wide.example"),
        ("south.example", "tls", "is for north.example, *.wide.example, 192.0.2.7, 2001:db8::7"),
        ("192.0.2.8", "tls", "not for 192.0.2.8"),
        ("north.example", "root", "names no host"),
        ("north.example", "old", "was valid until"),
        ("north.example", "key", "no PEM file of one"),
        ("north.example", "none", "no readable certificate"),
    ],
)
def test_a_certificate_is_taken_for_the_host_that_it_names_only(
    home: Path, made: Path, call: Call, tmp_path: Path, host: str, found: str, said: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if found == "old":
            patch.setattr(tls, "DAYS", 0)
        hosts = ["north.example", "192.0.2.7", "2001:db8::7", "*.wide.example"]
        tls.create(tmp_path / "tls.pem", tmp_path / "tls.key", hosts)
    files = {"tls": tmp_path / "tls.pem", "old": tmp_path / "tls.pem", "key": tmp_path / "tls.key"}
    files |= {"root": made.parent / "root" / "root.pem", "none": tmp_path / "nowhere"}
    words = ("connect", home, f"{host}:9092", "--certificate", files[found])
    code, _, err = call(*words, app=commands.app)
    assert (code, said in " ".join(err.split())) == (1 if said else 0, True), err
    assert (home / "node").exists() == (not said)


def test_a_rehearsal_says_what_would_leave_and_sends_and_keeps_nothing(
    home: Path, call: Call, models: dict[str, Path]
) -> None:
    before = sorted(home.rglob("*"))
    code, out, err = call("start", home, "--dry-run", "--json", app=commands.app)
    assert code == 0, err
    assert sorted(home.rglob("*")) == before
    rows = {(row["value"], row["field"]): row for row in json.loads(out)}
    host = open_checkpoint(models["llama"])
    profile = site_home.load(home).identity.profile
    for field, now in {
        ("Profile", "site"): "clinic",
        ("Profile", "sealing_key"): f"fingerprint {profile.sealing_fingerprint}",
        ("Enrolment", "base_weights"): host.weights_digest,
        ("Enrolment", "layers"): "6",
        ("Enrolment", "domain"): "care",
        ("Offer", "organ_id"): "clinic/organ",
        ("Receipt", "documents"): "20",
        ("Receipt", "general_documents"): "12",
        ("Receipt", "change"): "",
        ("Manifest", "licence"): "MIT",
        ("Donation", "privacy"): "none",
        ("Revoked", "number"): "1",
    }.items():
        assert rows[field]["now"] == now, field
    assert rows["Receipt", "change"]["rounding"].startswith("to 0.001")
    layer = (
        sum(host.tensors.form(name).bytes for name in host.names if host.anatomy.layer_of(name))
        // 6
    )
    assert rows["Donation", "organ_bytes"]["now"] == f"{layer} a layer; less as factors"
    edit(home, donates=False)
    code, out, _ = call("start", home, "--dry-run", "--json", app=commands.app)
    rows = {(row["value"], row["field"]): row for row in json.loads(out)}
    assert rows["Offer", "organ_id"]["now"] == ""
