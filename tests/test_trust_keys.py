import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from trust_world import DAY, NOW, World, key_file

from not_core.errors import CertificateError, FormatError, KeyFileError, OutputExistsError
from not_core.trust import authority, keys, passphrase, pkcs8, private_keys
from not_core.trust.keyfile import read_secret, write_secret
from not_core.trust.pkcs8 import SCRYPT_N as IN_EARNEST


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("keys"))


def test_private_files_and_folder_are_the_owners_alone(world: World) -> None:
    folder = world.north.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("signing.key", "sealing.key"):
        assert stat.S_IMODE(key_file(world.north, name).stat().st_mode) == 0o600
    for place in (folder / "keys", key_file(world.north, "signing.key").parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_load_returns_what_install_made(world: World) -> None:
    loaded = keys.load(world.north.folder)
    assert loaded.site == "north"
    assert loaded.profile == world.north.profile
    assert loaded.trust.root == world.trust.root
    assert loaded.trust.revoked.number == 1
    assert loaded.signing_key.public_key() == world.north.signing_key.public_key()


def test_repr_shows_no_private_key(world: World) -> None:
    shown = repr(world.north)
    assert "signing_key=" not in shown
    assert "sealing_keys=" not in shown


def test_request_holds_no_private_key(tmp_path: Path) -> None:
    keys.create(tmp_path / "a", "clinic")
    request = (tmp_path / "a" / "request.json").read_text()
    (sealing,) = (tmp_path / "a").glob("keys/*/sealing.key")
    for line in sealing.read_text().splitlines():
        assert line not in request
    assert "PRIVATE" not in request


def test_create_never_overwrites(world: World) -> None:
    before = key_file(world.north, "signing.key").read_bytes()
    with pytest.raises(OutputExistsError):
        keys.create(world.north.folder, "north")
    assert key_file(world.north, "signing.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", "North", "a_b", "-a", "a" * 64, "a/b", "a\n"])
def test_create_refuses_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="site name"):
        keys.create(tmp_path / "a", name)
    assert not (tmp_path / "a").exists()


def test_load_before_admission_says_what_to_do(tmp_path: Path) -> None:
    keys.create(tmp_path / "a", "clinic")
    with pytest.raises(KeyFileError, match="not admitted yet"):
        keys.load(tmp_path / "a")


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no identity folder"):
        keys.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["signing.key", "sealing.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_load_refuses_keys_open_to_others(tmp_path: Path, name: str, mode: int) -> None:
    site = World(tmp_path).north
    key_file(site, name).chmod(mode)
    with pytest.raises(KeyFileError, match="expected 0600"):
        keys.load(site.folder)


def test_load_refuses_an_open_folder_a_link_and_a_missing_key(tmp_path: Path) -> None:
    site = World(tmp_path).north
    site.folder.chmod(0o755)
    with pytest.raises(KeyFileError, match="expected 0700"):
        keys.load(site.folder)
    site.folder.chmod(0o700)
    sealing = key_file(site, "sealing.key")
    sealing.rename(tmp_path / "moved")
    with pytest.raises(CertificateError, match="another sealing key"):
        keys.load(site.folder)
    sealing.symlink_to(tmp_path / "moved")
    with pytest.raises(KeyFileError, match="cannot be opened"):
        keys.load(site.folder)


def test_load_refuses_damaged_and_foreign_keys(tmp_path: Path) -> None:
    world = World(tmp_path)
    north, south = world.north, world.south
    sealing = key_file(north, "sealing.key")
    whole = sealing.read_text()
    for damaged in (whole[:-5], whole[: len(whole) // 3], whole.replace("A", "!", 1), whole * 2):
        sealing.write_text(damaged)
        with pytest.raises(KeyFileError, match="restore") as caught:
            keys.load(north.folder)
        assert whole.splitlines()[1] not in str(caught.value)
    sealing.write_bytes(key_file(south, "sealing.key").read_bytes())
    with pytest.raises(CertificateError, match="another sealing key"):
        keys.load(north.folder)
    sealing.write_text(whole)
    key_file(north, "signing.key").write_bytes(key_file(south, "signing.key").read_bytes())
    with pytest.raises(CertificateError, match="another signing key"):
        keys.load(north.folder)


def test_load_refuses_another_curve(tmp_path: Path) -> None:
    site = World(tmp_path).north
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key_file(site, "signing.key").write_bytes(other)
    with pytest.raises(KeyFileError, match="P-384"):
        keys.load(site.folder)


def test_install_refuses_anothers_profile_and_another_root(tmp_path: Path) -> None:
    world = World(tmp_path)
    fresh = keys.create(tmp_path / "fresh", "fresh")
    with pytest.raises(CertificateError, match="this identity is fresh"):
        keys.install(tmp_path / "fresh", world.south.profile, world.trust, now=NOW)
    twin = world.admit("fresh", folder="twin").profile
    with pytest.raises(CertificateError, match="for other keys"):
        keys.install(tmp_path / "fresh", twin, world.trust, now=NOW)
    authority.create_root(tmp_path / "other", "regional", now=NOW - DAY)
    mine = authority.admit(tmp_path / "other", fresh, now=NOW)
    with pytest.raises(CertificateError, match="does not chain"):
        keys.install(tmp_path / "fresh", mine, world.trust, now=NOW)
    assert not (tmp_path / "fresh" / "site.profile").exists()


@pytest.mark.parametrize(("old", "new"), [(b"old", b"new"), (b"old", None), (None, b"new")])
def test_keys_have_one_passphrase_which_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None, new: bytes | None
) -> None:
    world, home = World(tmp_path), tmp_path / "clinic"
    request = keys.create(home, "clinic", passphrase=old)
    profile = authority.admit(tmp_path / "federation", request, now=NOW)
    first = keys.install(home, profile, world.trust, now=NOW, passphrase=old)
    with pytest.raises(KeyFileError, match="'organ identity passphrase' changes for all"):
        keys.rotate(home, passphrase=new)
    keys.rotate(home, passphrase=old)
    with pytest.raises(KeyFileError, match="key at"):
        keys.change_passphrase(home, b"wrong", b"x")
    rename, steps = Path.rename, iter(())

    def killed_at(path: Path, to: Path) -> Path:
        if path.parent == home and next(steps, None) == "kill":
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", killed_at)
    for whole, holds in ((0, old), (1, old), (2, new)):
        steps = iter(["go on"] * whole + ["kill"])
        with pytest.raises(KeyboardInterrupt):
            keys.change_passphrase(home, old, new)
        found = keys.load(home, passphrase=holds)
        assert len(found.sealing_keys) == 2
    assert keys.change_passphrase(home, new, old) == 2
    assert {one.name for one in home.iterdir() if "keys" in one.name} == {"keys"}
    assert {stat.S_IMODE(one.stat().st_mode) for one in home.rglob("*.key")} == {0o600}
    last = keys.load(home, passphrase=old)
    assert last.signing_key.public_key() == first.signing_key.public_key()


def scheme_of(block: bytes) -> pkcs8.Scheme:
    der = base64.b64decode(b"".join(block.splitlines()[1:-1]))
    return asn1.decode_der(pkcs8.EncryptedKey, der).scheme


def test_passphrases_are_stretched_by_scrypt(tmp_path: Path) -> None:
    keys.create(tmp_path / "a", "clinic", passphrase=b"correct horse")
    files = [path.read_bytes() for path in sorted(tmp_path.rglob("*.key"))]
    blocks = [b"-----BEGIN" + one for data in files for one in data.split(b"-----BEGIN")[1:]]
    found = [scheme_of(block).parameters.derivation for block in blocks]
    assert [one.algorithm.dotted_string for one in found] == ["1.3.6.1.4.1.11591.4.11"] * 3
    assert {(one.parameters.n, one.parameters.r, one.parameters.p) for one in found} == {(2, 8, 1)}
    assert {len(one.parameters.salt) for one in found} == {16}
    assert len({one.parameters.salt for one in found}) == 3
    assert IN_EARNEST == 2**17


@pytest.mark.exhaustive
def test_a_key_that_is_stretched_in_earnest_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pkcs8, "SCRYPT_N", IN_EARNEST)
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(tmp_path / "key", private_keys.signing_key_pem(key, b"correct horse"))
    read = private_keys.read_signing_key(tmp_path / "key", "key", b"correct horse")
    assert read.private_numbers() == key.private_numbers()


def test_profile_survives_writing_and_reading(world: World, tmp_path: Path) -> None:
    keys.write_profile(world.west.profile, tmp_path / "p")
    assert keys.read_profile(tmp_path / "p") == world.west.profile
    text = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(text + b"\n")
    with pytest.raises(FormatError, match="canonical"):
        keys.read_profile(tmp_path / "p")


def test_a_missing_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no passphrase file at .*; write it there, mode 0600"):
        passphrase.read(tmp_path / "words")
    with pytest.raises(KeyFileError, match=r"no catalogue's password at .*; write it there"):
        read_secret(tmp_path / "words", "catalogue's password")
    request = keys.create(tmp_path / "site", "site")
    key = keys.sealing_key_of(tmp_path / "site", request)
    key.unlink()
    with pytest.raises(KeyFileError, match="expected a file made by 'organ identity init'"):
        private_keys.read_sealing_key(key, None)


def test_a_secret_is_its_owners_alone_or_a_credential_of_systemds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a unit with ``User=`` it is root's, and its group's bits are the mask of a list."""
    secret = tmp_path / "passphrase"
    secret.write_bytes(b"quiet words\n")
    secret.chmod(0o440)
    with pytest.raises(KeyFileError, match="has mode 0440, expected 0600"):
        passphrase.read(secret)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "elsewhere"))
    with pytest.raises(KeyFileError, match="has mode 0440"):
        passphrase.read(secret)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert passphrase.read(secret) == b"quiet words"
    for open_to_others in (0o444, 0o460):
        secret.chmod(open_to_others)
        with pytest.raises(KeyFileError, match="expected 0600"):
            passphrase.read(secret)
