"""Keys on a token, by a software token where one is installed; passphrases in a keyring."""

import json
from collections.abc import Callable
from pathlib import Path

import keyring
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from keyring.backend import KeyringBackend
from tokens import soft_token
from trust_world import DAY, NOW, World, manifest, organ_folder, public_commands, terms

from client import commands, home, service
from client.policy import Policy
from not_core.errors import KeyFileError
from not_core.trust import authority, keys, passphrase, sealing, signing
from not_core.trust.token import TokenKey, _parsed


@soft_token
def test_a_site_signs_by_a_key_on_a_token(token: str, tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    fed = world.place / "federation"
    request = keys.create(world.place / "clinic", "clinic", token=token)
    assert not list((world.place / "clinic").rglob("signing.key"))
    (kept,) = (world.place / "clinic").rglob("signing.uri")
    assert kept.stat().st_mode & 0o777 == 0o600
    profile = authority.admit(fed, request, now=NOW - DAY)
    clinic = keys.install(world.place / "clinic", profile, world.trust, now=NOW)
    organ = organ_folder(tmp_path / "organ", manifest(donor="clinic"))
    signing.sign_folder(organ, clinic)
    assert signing.verify_folder(organ, world.trust, now=NOW).site == "clinic"
    sealing.seal(organ, clinic, terms(world.south), tmp_path / "x.organ", now=NOW)
    opened = sealing.open_sealed(tmp_path / "x.organ", world.south, tmp_path / "opened", now=NOW)
    assert opened.offer.donor == "clinic"
    world.north = clinic  # the public commands take the key of this one
    assert public_commands(opened.path, world, tmp_path) == (0, 0)


@soft_token
def test_a_key_on_a_token_stays_there(token: str) -> None:
    key = TokenKey(token)
    assert key.key_size == 384
    with pytest.raises(NotImplementedError):
        key.private_numbers()
    with pytest.raises(NotImplementedError):
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    with pytest.raises(NotImplementedError):
        key.exchange(ec.ECDH(), key.public_key())
    signature = key.sign(b"data", ec.ECDSA(hashes.SHA384()))
    key.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA384()))


@soft_token
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("token=organ", "token=other", "cannot be used"),
        ("object=clinic", "object=nobody", "cannot be used"),
        ("object=clinic", "object=small", "not ECDSA P-384"),
        ("libsofthsm", "libnothing", "cannot be used"),
    ],
)
def test_a_token_that_does_not_fit_says_so(token: str, old: str, new: str, words: str) -> None:
    with pytest.raises(KeyFileError, match=words) as caught:
        TokenKey(token.replace(old, new))
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("uri", ["", "file:///x", "pkcs11:", "pkcs11:token=a;object=b"])
def test_a_uri_names_all_that_is_needed(uri: str) -> None:
    with pytest.raises(KeyFileError, match="lacks"):
        _parsed(uri)


def test_uris_are_percent_encoded() -> None:
    found = _parsed("pkcs11:token=my%20token;object=a%3Bb?module-path=/m.so&pin-source=/p%20q")
    assert found == {
        "token": "my token",
        "object": "a;b",
        "module-path": "/m.so",
        "pin-source": "/p q",
    }


class Memory(KeyringBackend):
    """A keyring of one entry."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        return "correct horse" if (service, username) == ("organ-exchange", "clinic") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


def test_a_passphrase_may_lie_in_the_systems_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    try:
        monkeypatch.setenv(passphrase.VARIABLE, "keyring:clinic")
        assert passphrase.given() == b"correct horse"
        monkeypatch.setenv(passphrase.VARIABLE, "keyring:nobody")
        with pytest.raises(KeyFileError, match="keyring set organ-exchange nobody"):
            passphrase.given()
    finally:
        keyring.set_keyring(before)


def protected_home(place: Path) -> tuple[Path, bytes]:
    """An admitted site's home whose keys have a passphrase, and that passphrase."""
    world, folder, words = World(place), place / "home", b"correct horse"
    facts = {"site": "clinic", "model": "m", "records": "r", "general": "g", "domain": "d"}
    request = home.create(folder, home.settings(facts), Policy(), passphrase=words)
    profile = authority.admit(world.place / "federation", request, now=NOW)
    keys.install(folder / "identity", profile, world.trust, now=NOW, passphrase=words)
    return folder, words


def test_a_home_is_opened_by_the_passphrase_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = protected_home(tmp_path)
    monkeypatch.delenv(passphrase.VARIABLE, raising=False)
    with pytest.raises(KeyFileError, match="encrypted"):
        home.load(folder)
    secret = tmp_path / "secret"
    secret.write_bytes(words + b"\n")
    monkeypatch.setenv(passphrase.VARIABLE, str(secret))
    secret.chmod(0o644)
    with pytest.raises(KeyFileError, match="0600"):
        home.load(folder)
    secret.chmod(0o600)
    assert home.load(folder).identity.site == "clinic"
    secret.write_text("another\n")
    with pytest.raises(KeyFileError, match="passphrase"):
        home.load(folder)
    secret.write_text("\n")
    with pytest.raises(KeyFileError, match="empty line"):
        home.load(folder)


def test_the_commands_of_a_protected_home(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    """Looking and deciding need no key; the others say how to give its passphrase."""
    monkeypatch.delenv(passphrase.VARIABLE, raising=False)
    folder, words = protected_home(tmp_path)
    for command in ("status", "pending", "ledger", "reveals", "log show", "log verify"):
        code, out, err = call(*command.split(), folder, "--json", app=commands.app)
        assert code == 0, err
        json.loads(out)
    for command in ("approve", "reject"):
        code, _, err = call(command, folder, "3f", app=commands.app)
        assert f"0 organs that {folder} made begin with 3f" in " ".join(err.split())
    secret, tls, carried = tmp_path / "secret", tmp_path / "tls.pem", tmp_path / "x.organ"
    secret.write_bytes(words)
    secret.chmod(0o600)
    tls.write_text("certificate")
    profile = folder / "identity" / "site.profile"
    for arguments, opened in (
        (("connect", folder, "localhost:9092", "--certificate", tls), "admission"),
        (("offer", folder, "3f", "--to", profile, "--out", carried), "0 organs"),
        (("receive", folder, carried), "carried"),
    ):
        code, _, err = call(*arguments, app=commands.app)
        assert code == 1
        assert f"--passphrase-file or {passphrase.VARIABLE}" in " ".join(err.split())
        code, out, err = call(*arguments, "--passphrase-file", secret, app=commands.app)
        assert "passphrase" not in err
        assert opened in out + err or code == 1


def test_only_the_signing_agent_is_given_the_passphrase(tmp_path: Path) -> None:
    folder, words = protected_home(tmp_path)
    (folder / "node").mkdir()
    for name in ("coordinator", "admission"):
        (folder / "node" / name).write_text("localhost:9092")
    agent, *others = service.programs(folder, 1.0, words, service.Beat(folder))
    assert (agent.name, agent.secret) == ("signing-agent", words)
    assert len(others) == 2
    for one in (agent, *others):
        said = " ".join([*one.command, *one.environment, *one.environment.values()])
        assert words.decode() not in said
        assert passphrase.VARIABLE not in said
    assert not any(one.secret for one in others)


def test_a_home_takes_in_a_list_without_its_keys(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    folder, _ = protected_home(tmp_path)
    fed = tmp_path / "federation"
    old = (fed / "federation.crl").read_bytes()
    authority.revoke(fed, "south", "privilege-withdrawn", now=NOW)
    for _ in range(2):  # again does no harm, and is no news
        code, out, _ = call("crl", folder, fed / "federation.crl", "--json", app=commands.app)
        assert (code, json.loads(out)["revocation_list"], json.loads(out)["revoked"]) == (0, 2, 1)
    rows = home.read_home(folder).log.entries()
    assert [one.what for one in rows if one.event == "installed"] == ["revocation list 2"]
    (fed / "federation.crl").write_bytes(old)
    code, _, err = call("crl", folder, fed / "federation.crl", app=commands.app)
    assert (code, "may hide a revocation" in " ".join(err.split())) == (1, True)
