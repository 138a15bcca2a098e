"""What a site's operator sees and changes of its policy, and sees and removes of its organs."""

import json
import threading
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tomli_w
from pages import receipt
from test_client_site import Members
from trust_world import manifest, organ_folder

from client import commands, donor, inventory, policy_file, recipient
from client import home as site_home
from client.home import IDENTITY
from client.policy import Policy, check_release
from client.policy_file import listed
from not_core import atomic, canonical
from not_core.errors import ApprovalError, OrganError
from not_core.protocol import RECEIPT_TYPE, DeliverRequest, SegmentRequest
from not_core.trust import keys, sealing, signing
from not_core.trust.statement import sign_statement

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path)


@pytest.fixture
def site(call: Call) -> Callable[..., tuple[int, str]]:
    """Run ``organ-site``: exit code, and what it printed or complained of."""

    def caller(*words: object) -> tuple[int, str]:
        code, out, err = call(*words, app=commands.app)
        return code, out if code == 0 else " ".join(err.split())

    return caller


Site = Callable[..., tuple[int, str]]


def test_every_field_is_shown_with_its_value_and_meaning(members: Members, site: Site) -> None:
    code, out = site("policy", members.north.folder, "--json")
    assert code == 0
    rows = {row["field"]: row for row in json.loads(out)}
    assert list(rows) == [one.name for one in fields(Policy)]
    assert all(len(row["means"].split()) > 2 for row in rows.values())
    assert rows["release_organs"] | {"means": ""} == {
        "field": "release_organs",
        "value": '"always"',
        "default": "set",
        "means": "",
    }
    assert (rows["least_gain"]["value"], rows["least_gain"]["default"]) == ("0.02", "default")
    assert "Smallest fall of domain perplexity" in rows["least_gain"]["means"]
    assert rows["epsilon"]["value"] == "absent"
    shown = listed(Policy(addressees=("a", "b"), epsilon=3.0))
    table = {row.field: row.value for row in shown if not row.default}
    assert tomllib.loads("\n".join(f"{key} = {one}" for key, one in table.items())) == {
        "addressees": ["a", "b"],
        "epsilon": 3.0,
    }


def test_a_field_is_changed_and_the_change_logged_and_comments_kept(
    members: Members, site: Site
) -> None:
    home = members.north.folder
    path = home / "policy.toml"
    path.write_text("# ours\nleast_gain = 0.02  # two per cent\nmost_layers = 8\n# the end")
    path.chmod(0o640)
    words = ("--set", "least_gain=0.05", "--set", "release_organs=always")
    code, out = site("policy", home, *words, "--set", 'addressees=["south"]', "--json")
    assert code == 0
    assert {row["field"]: (row["was"], row["now"]) for row in json.loads(out)} == {
        "least_gain": ("0.02", "0.05"),
        "release_organs": ('"ask"', '"always"'),
        "addressees": ("[]", '["south"]'),
    }
    assert site_home.policy_of(home) == Policy(
        least_gain=0.05, release_organs="always", addressees=("south",)
    )
    text = path.read_text()
    assert text.startswith(
        "# ours\nleast_gain = 0.05  # two per cent\nmost_layers = 8\n# the end\n"
    )
    assert path.stat().st_mode & 0o777 == 0o640
    rows = [one for one in members.north.log.entries() if one.event == "set"]
    assert [one.what for one in rows] == [
        'policy release_organs = "always"',
        "policy least_gain = 0.05",
        'policy addressees = ["south"]',
    ]
    assert {one.digest for one in rows} == {canonical.sha256(path.read_bytes())}

    assert site("policy", home, "--set", "least_gain=", "--set", "addressees=")[0] == 0
    assert site_home.policy_of(home) == Policy(release_organs="always")
    assert "# ours" in path.read_text()
    path.write_text('addressees = [\n  "south",\n  "west",\n]\nmost_layers = 3\n')
    assert site("policy", home, "--set", "addressees=[]")[0] == 0
    assert site_home.policy_of(home) == Policy(most_layers=3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("least_gain=2", "least_gain: Input should be less than 1"),
        ("release_organs=never", "release_organs: Input should be 'ask' or 'always'"),
        ("least_gian=0.05", "a policy has no field least_gian"),
        ("epsilon_per_organ=3.0", "expected an epsilon that bounds all organs"),
        ("least_gain", "expected FIELD=VALUE"),
        ("least_gain=0.1\nmost_layers=900", "least_gain: "),
        ("addressees=south", "addressees: "),
    ],
)
def test_what_is_not_valid_changes_nothing(
    members: Members, site: Site, setting: str, said: str
) -> None:
    home = members.north.folder
    before = (home / "policy.toml").read_bytes()
    code, err = site("policy", home, "--set", "most_layers=2", "--set", setting)
    assert code == 1
    assert said in err
    assert (home / "policy.toml").read_bytes() == before
    assert "set" not in {one.event for one in members.north.log.entries()}


class Kept:
    """North has offered an organ in two exchanges, and taken in organs of south's."""

    def __init__(self, place: Path) -> None:
        members = Members(place)
        self.home = members.north.folder
        self.own = members.made.organ
        north = site_home.load(self.home)
        (self.home / "organs" / "made" / "note.json").write_bytes(canonical.encode(members.made))
        for exchange in ("spring", "autumn"):
            audience = sealing.Audience(addressees=[members.south], exchange=exchange)
            donor.seal(north, self.own, audience)
        south = place / "south"
        self.identity = keys.load(south)
        self.organs: list[str] = []
        for number, exchanges in enumerate((("spring",), ("spring", "autumn"), ("autumn",)), 1):
            facts = manifest(donor="south", version=number)
            folder = organ_folder(place / f"of-south-{number}", facts)
            signing.sign_folder(folder, self.identity)
            self.organs.append(facts.digest)
            for exchange in exchanges:
                audience = sealing.Audience(addressees=[north.identity.profile], exchange=exchange)
                sealed = place / f"{number}-{exchange}.organ"
                sealing.seal(folder, self.identity, audience, sealed)
                self._deliver(north, sealed, facts.digest, exchange)
        for number, change in ((0, -0.09), (1, -0.05)):
            said = receipt("spring", self.organs[number], "south", "north", change)
            envelope = sign_statement(canonical.encode(said), RECEIPT_TYPE, north.identity)
            north.place("receipts", "spring", f"{number}.json").write_bytes(envelope)
            opened = north.place("organs", "opened", self.organs[number])
            opened.mkdir()
            (opened / "organ.safetensors").write_bytes(b"1234")

    def _deliver(self, north: site_home.Site, path: Path, organ: str, exchange: str) -> None:
        data = path.read_bytes()
        request = DeliverRequest(
            exchange=exchange,
            organ=organ,
            offset=0,
            sealed_bytes=len(data),
            sealed_sha256=canonical.sha256(data),
        )
        recipient.deliver(north, request, data)

    def places(self) -> set[str]:
        """What is there, by its place, but for receipts."""
        names = {one: f"south-{number}" for number, one in enumerate(self.organs)}
        names[self.own] = "own"
        found = set()
        for path in (self.home / "organs").glob("*/*"):
            for one in [path] if path.parent.name in {"made", "opened"} else path.iterdir():
                place = str(one.relative_to(self.home / "organs"))
                for digest, name in names.items():
                    place = place.replace(digest, name)
                found.add(place)
        return found


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_organs_lists_what_was_made_and_what_came(kept: Kept, site: Site) -> None:
    code, out = site("organs", kept.home, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["made"] == [
        {
            "organ": kept.own,
            "id": "north/notes",
            "word": "unasked",
            "privacy": "none",
            "bytes": 108,
            "exchanges": ["autumn", "spring"],
        }
    ]
    rows = [
        (one["exchange"], kept.organs.index(one["organ"]), one["verdict"], one["gain"])
        for one in found["taken in"]
    ]
    assert sorted(rows) == [
        ("autumn", 1, "untried", None),
        ("autumn", 2, "untried", None),
        ("spring", 0, "accepted", 0.09),
        ("spring", 1, "accepted", 0.05),
    ]
    assert {one["donor"] for one in found["taken in"]} == {"south"}
    sealed = kept.home / "organs" / "in" / "spring" / f"{kept.organs[0]}.organ"
    (first,) = [one for one in found["taken in"] if one["organ"] == kept.organs[0]]
    assert (first["bytes"], first["opened"]) == (sealed.stat().st_size, True)
    assert site("policy", kept.home, "--set", "release_organs=ask")[0] == 0
    assert json.loads(site("organs", kept.home, "--json")[1])["made"][0]["word"] == "pending"
    assert site("approve", kept.home, kept.own[:9])[0] == 0
    assert json.loads(site("organs", kept.home, "--json")[1])["made"][0]["word"] == "approved"
    text = site("organs", kept.home)[1]
    assert "taken in:" in text
    assert "9.0%" in text


def test_an_exchange_is_forgotten_and_what_another_needs_stays(kept: Kept, site: Site) -> None:
    before = sum(one.stat().st_size for one in kept.home.glob("organs/**/*") if one.is_file())
    code, out = site("forget", kept.home, "spring", "--json")
    assert code == 0
    assert kept.places() == {
        "made/note.json",
        "made/own",
        "in/autumn/south-1.organ",
        "in/autumn/south-2.organ",
        "opened/south-1",
        "sealed/autumn/own.organ",
    }
    after = sum(one.stat().st_size for one in kept.home.glob("organs/**/*") if one.is_file())
    assert json.loads(out) == {"removed": 4, "bytes": before - after}
    logged = [one for one in site_home.read_home(kept.home).log.entries()]
    rows = [(one.what, one.digest, one.exchange) for one in logged if one.event == "forgotten"]
    assert sorted(rows) == sorted(
        [
            ("opened organ", kept.organs[0], "spring"),
            ("sealed organ", kept.organs[0], "spring"),
            ("sealed organ", kept.organs[1], "spring"),
            ("sealed organ", kept.own, "spring"),
        ]
    )
    assert len(list(kept.home.glob("receipts/spring/*"))) == 2
    assert "no organ of exchange spring is kept" in site("forget", kept.home, "spring")[1]
    assert "no name of an exchange" in site("forget", kept.home, "../made")[1]
    assert site("organs", kept.home)[0] == 0


def test_organs_of_the_sites_own_go_only_if_asked_and_never_one_that_waits(
    kept: Kept, site: Site
) -> None:
    assert site("forget", kept.home, "spring", "--made")[0] == 0
    assert "made/own" in kept.places(), "it was offered in autumn, too"
    assert site("policy", kept.home, "--set", "release_organs=ask")[0] == 0
    assert site("forget", kept.home, "autumn", "--made")[0] == 0
    waits = {"made/own", "made/note.json", "sealed/autumn/own.organ"}
    assert kept.places() == waits, "it waits for approval"

    home = site_home.load(kept.home)
    home.log.append("approved", what="organ", digest=kept.own)
    assert site("forget", kept.home, "autumn")[0] == 0
    assert kept.places() == waits, "a last sealed copy stays with its organ"
    assert site("forget", kept.home, "autumn", "--made")[0] == 0, "in this order, too"
    assert kept.places() == set()
    assert json.loads(site("organs", kept.home, "--json")[1])["made"] == []


def test_no_other_body_is_sealed_after_an_exchange_was_forgotten(kept: Kept, site: Site) -> None:
    def body(exchange: str) -> str:
        audience = sealing.Audience(addressees=[kept.identity.profile], exchange=exchange)
        signed, _ = donor.seal(site_home.load(kept.home), kept.own, audience)
        return signed.offer.body_sha256

    before = body("spring")
    for exchange in ("spring", "autumn"):
        assert site("forget", kept.home, exchange)[0] == 0
    assert body("winter") == before
    assert site("forget", kept.home, "autumn")[0] == 0
    assert "sealed/autumn/own.organ" not in kept.places(), "winter has one now"


def test_the_last_word_on_an_organ_counts(kept: Kept, site: Site) -> None:
    """An approval can be taken back, and so can a rejection; one that is said again is one."""

    def asks() -> None:
        home = site_home.load(kept.home)
        asked = SegmentRequest(exchange="spring", organ=kept.own, offset=0, length=9)
        donor.segment(home, asked, b"")

    def may_leave() -> None:
        with pytest.raises(OrganError, match="did not offer"):  # as far as it can, here
            asks()

    start = kept.own[:9]
    for release in ("ask", "always"):
        assert site("policy", kept.home, "--set", f"release_organs={release}")[0] == 0
        assert site("approve", kept.home, start)[0] == 0
        may_leave()
        code, out = site("reject", kept.home, start, "--json")
        said = json.loads(out)
        assert (code, said["rejected"]) == (0, kept.own)
        assert said["what was offered before has left"] == ["autumn", "spring"]
        home = site_home.read_home(kept.home)
        with pytest.raises(ApprovalError, match=rf"rejected .* organ-site approve HOME {start}"):
            check_release(home.policy, home.log, kept.own)
        with pytest.raises(ApprovalError, match="rejected"):
            asks()
        assert site("reject", kept.home, start)[0] == 0
        assert json.loads(site("organs", kept.home, "--json")[1])["made"][0]["word"] == "rejected"
        assert json.loads(site("pending", kept.home, "--json")[1]) == []
    assert site("approve", kept.home, start)[0] == 0
    may_leave()
    entries = site_home.read_home(kept.home).log.entries()
    words = [one.event for one in entries if one.what == "organ"]
    assert words == ["approved", "rejected", "approved", "rejected", "approved"]
    assert "0 organs that" in site("reject", kept.home, kept.organs[0])[1]


def test_an_organ_of_the_sites_own_is_forgotten_by_its_digest(kept: Kept, site: Site) -> None:
    """Wherever it was offered, but never while it waits."""
    before = kept.places()
    assert site("policy", kept.home, "--set", "release_organs=ask")[0] == 0
    code, err = site("forget", kept.home, "--organ", kept.own[:9])
    assert (code, "waits for approval" in err) == (1, True)
    for words in ((), ("spring", "--organ", kept.own), ("--made", "--organ", kept.own)):
        assert site("forget", kept.home, *words)[0] == 2
    assert kept.places() == before
    assert site("reject", kept.home, kept.own[:9])[0] == 0
    with atomic.locked(kept.home):
        assert "a task" in site("forget", kept.home, "--organ", kept.own[:9])[1]
    code, out = site("forget", kept.home, "--organ", kept.own[:9], "--json")
    assert (code, json.loads(out)["removed"]) == (0, 3)
    assert kept.places() == {one for one in before if one.startswith(("in/", "opened/"))}
    rows = [one for one in site_home.read_home(kept.home).log.entries() if one.event == "forgotten"]
    assert [(one.what, one.digest, one.exchange) for one in rows] == [
        ("sealed organ", kept.own, "autumn"),
        ("sealed organ", kept.own, "spring"),
        ("organ", kept.own, ""),
    ]
    assert "0 organs that" in site("forget", kept.home, "--organ", kept.own[:9])[1]


def test_an_organ_that_was_never_offered_is_forgotten(members: Members, site: Site) -> None:
    home = members.north.folder
    assert site("policy", home, "--set", "release_organs=ask")[0] == 0
    assert site("reject", home, members.made.organ[:9])[0] == 0
    assert site("forget", home, "--organ", members.made.organ[:9])[0] == 0
    assert not list(home.glob("organs/made/*"))


def test_a_forget_that_is_killed_leaves_no_half_organ(
    kept: Kept, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.is_dir():  # what an earlier attempt left is not there
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt

    home = site_home.read_home(kept.home)
    monkeypatch.setattr(inventory.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        inventory.forget_organ(home, kept.own)
    monkeypatch.undo()
    assert not (kept.home / "organs" / "made" / kept.own).exists()
    assert list(donor.notes_of(kept.home, kept.own)) == []
    assert site("organs", kept.home)[0] == 0


def test_two_changes_of_a_policy_follow_each_other(members: Members) -> None:
    home = site_home.read_home(members.north.folder)
    other = threading.Thread(target=policy_file.change, args=(home, ["least_gain=0.5"]))
    with atomic.locked(home.folder / IDENTITY):
        other.start()
        other.join(0.3)
        assert other.is_alive(), "it waits"
        path = home.folder / "policy.toml"
        table = tomllib.loads(path.read_text()) | {"most_trials": 7}
        path.write_text(tomli_w.dumps(table))
    other.join(10)
    policy = site_home.policy_of(home.folder)
    assert (policy.least_gain, policy.most_trials) == (0.5, 7)


def test_what_is_no_home_is_not_stopped(tmp_path: Path, site: Site) -> None:
    code, err = site("stop", tmp_path / "nowhere")
    assert (code, "nowhere is no site's home; check the path" in err) == (1, True)


def test_nothing_is_forgotten_while_a_task_works(kept: Kept, site: Site) -> None:
    before = kept.places()
    with atomic.locked(kept.home):
        code, err = site("forget", kept.home, "spring")
    assert (code, "a task of the site is at work" in err) == (1, True)
    assert kept.places() == before
    assert site("forget", kept.home, "spring")[0] == 0


def test_room_is_told_before_deliveries_are_refused(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy()
    found = inventory.stored(kept.home, policy)
    assert (found.files, found.most_files, found.full) == (4, 1000, False)
    assert found.bytes == sum(one.stat().st_size for one in kept.home.glob("organs/in/*/*"))
    for most, full in ((5, False), (4, True)):
        monkeypatch.setattr("client.policy.MOST_FILES", most)
        assert inventory.stored(kept.home, policy).full is full
    monkeypatch.undo()
    for most, full in ((found.bytes * 2, False), (found.bytes * 10 // 9, True)):
        tight = replace(policy, most_stored_bytes=most)
        assert inventory.stored(kept.home, tight).full is full
