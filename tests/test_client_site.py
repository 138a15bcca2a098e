"""A site's answers that need no training."""

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trust_world import DAY, manifest, organ_folder

from client import donor, recipient
from client import home as site_home
from client.home import Settings, Site
from client.policy import Policy
from not_core.errors import OfferError, OrganError, PolicyError, RevokedError
from not_core.manifest import Span
from not_core.protocol import DeliverRequest, DonateRequest, SegmentRequest, Terms
from not_core.trust import addressees, authority, federation, keys, sealing, signing
from not_core.trust.profile import Profile, read_request, unbase64

TERMS = Terms(span=Span(start=1, stop=3), rank=None, tokens=9, learning_rate=1e-3, seed=0)


class Members:
    """North, which has made an organ, and south, to whom it may go."""

    def __init__(self, place: Path) -> None:
        self.federation = place / "federation"
        authority.create_root(self.federation, "regional")
        home = place / "north"
        settings = Settings(site="north", model="", records="", general="", domain="notes")
        site_home.create(home, settings, Policy(release_organs="always"))
        self.admit(home / "identity", read_request(home / "identity" / keys.REQUEST))
        self.south = self.admit(place / "south", keys.create(place / "south", "south")).profile
        self.north = site_home.load(home)
        facts = replace(manifest(), version=1)
        self.made = donor.Made(organ=facts.digest, tokens=9, steps=1, seconds=0.1)
        folder = organ_folder(self.north.place("organs", "made", facts.digest), facts)
        signing.sign_folder(folder, self.north.identity)

    def admit(self, folder: Path, request: keys.Request) -> keys.Identity:
        profile = authority.admit(self.federation, request)
        return keys.install(folder, profile, federation.load_trust(self.federation))

    def expel(self, site: str) -> None:
        """North hears of it by another way than this exchange."""
        _, revoked = authority.revoke(self.federation, site, "privilege-withdrawn")
        keys.install_list(self.north.identity.folder, revoked)

    def donate(self, *to: Profile) -> None:
        request = DonateRequest(exchange="trial", terms=TERMS, addressees=to)
        donor.donate(self.north, request, b"")


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path)


def test_an_offer_has_room_for_the_donor_itself(members: Members) -> None:
    """Refused before anything is trained, or verified: the donor is the 513th."""
    raw = unbase64(members.south.sealing_key, "x")[2:]
    others = [
        replace(
            members.south,
            site=f"site-{number}",
            sealing_key=base64.b64encode(number.to_bytes(2) + raw).decode(),
        )
        for number in range(512)
    ]
    own = members.north.identity.profile
    addressees.check_number(others[:511], own)
    addressees.check_number([*others[:511], own], own)
    with pytest.raises(OfferError, match="512 addressees given, expected 1 to 512 with the donor"):
        members.donate(*others)
    terms = sealing.Audience(addressees=others, exchange="trial")
    with pytest.raises(OfferError, match="in several offers"):
        donor.seal(members.north, members.made.organ, terms)


def test_an_offer_holds_as_long_as_was_asked(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offered(days: int) -> tuple[int, int]:
        terms = sealing.Audience(
            addressees=[members.south], exchange="trial", lifetime_seconds=days * DAY
        )
        offer = donor.seal(members.north, members.made.organ, terms)[0].offer
        return offer.not_before, (offer.expires - offer.not_before) // DAY

    began, days = offered(20)
    assert days == 20
    assert offered(1)[1] == 1  # an older one would hold for longer than asked
    assert offered(20)[1] == 20  # and this one not half as long
    monkeypatch.setattr("time.time", lambda: began + 9 * DAY)
    assert offered(20)[0] <= began + 5  # the same offer, while more than half of it is left
    monkeypatch.setattr("time.time", lambda: began + 11 * DAY)
    assert offered(20) == (began + 11 * DAY, 20)


def test_a_site_keeps_so_many_deliveries_of_nobodys(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are believed when all are there: until then, and of wrong ones, files are counted."""
    monkeypatch.setattr("client.policy.MOST_FILES", 3)

    def deliver(exchange: str, offset: int = 0) -> int:
        request = DeliverRequest(
            exchange=exchange,
            organ="0" * 64,
            offset=offset,
            sealed_bytes=3,
            sealed_sha256="0" * 64,
        )
        return recipient.deliver(members.north, request, b"a")[0].held

    assert [deliver(f"x{number}") for number in range(3)] == [1, 1, 1]
    with pytest.raises(PolicyError, match="4 sealed organs and parts of some would be kept"):
        deliver("x3")
    assert deliver("x2", 1) == 2  # what has begun can go on
    assert len(list(members.north.folder.glob("organs/in/*"))) == 3


def training(members: Members, meanwhile: Callable[[], None]) -> Callable[[Site, Terms], object]:
    def make(site: Site, terms: Terms) -> donor.Made:
        meanwhile()
        return members.made

    return make


def test_a_site_that_is_expelled_while_a_donor_trains_is_not_addressed(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(donor, "_make", training(members, lambda: None))
    members.donate(members.south)
    monkeypatch.setattr(donor, "_make", training(members, lambda: members.expel("south")))
    with pytest.raises(RevokedError, match="certificate of south was revoked"):
        members.donate(members.south)


def test_bytes_leave_only_as_long_as_an_offer_would(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To addressees that are members and whom the policy names, until the offer's last second."""
    asked = SegmentRequest(exchange="trial", organ=members.made.organ, offset=0, length=99)
    with pytest.raises(OrganError, match="did not offer"):
        donor.segment(members.north, asked, b"")
    assert not (members.north.folder / "organs" / "sealed").exists()
    monkeypatch.setattr(donor, "_make", lambda site, terms: members.made)
    members.donate(members.south)
    assert len(donor.segment(members.north, asked, b"")[1]) == 99
    narrow = replace(members.north.policy, addressees=("east",))
    with pytest.raises(PolicyError, match="south is not one"):
        donor.segment(replace(members.north, policy=narrow), asked, b"")
    with monkeypatch.context() as later:
        year = time.time() + 366 * 86_400
        later.setattr("client.donor.seconds", lambda moment: int(year))
        with pytest.raises(OrganError, match="holds no longer"):
            donor.segment(members.north, asked, b"")
    members.expel("south")
    with pytest.raises(RevokedError):
        donor.segment(site_home.load(members.north.folder), asked, b"")


def test_copies_of_an_organ_take_as_much_room_as_the_policy_gives(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(donor, "_make", lambda site, terms: members.made)
    members.donate(members.south)
    (copy,) = members.north.folder.glob("organs/sealed/trial/*.organ")
    tight = replace(members.north.policy, most_stored_bytes=copy.stat().st_size)
    again = DonateRequest(exchange="another", terms=TERMS, addressees=(members.south,))
    with pytest.raises(PolicyError, match="organ-site forget"):
        donor.donate(replace(members.north, policy=tight), again, b"")
    members.donate(members.south)
    assert len(list(members.north.folder.glob("organs/sealed/*/*"))) == 1
