"""A site's signing agent, the real process: what it signs for whoever asks, and what not."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tokens import soft_token
from trust_world import manifest

from client import donor, represented, signing_agent, signing_wire
from client import home as site_home
from client.home import Settings, Site
from client.policy import Policy
from client.signing_wire import Ask, Sign, text
from not_core import atomic, canonical
from not_core.errors import ApprovalError, HomeError, SigningError, UnsealError
from not_core.learning.evaluation import Change
from not_core.learning.verdict import Tolerance, explains, judge
from not_core.manifest import Manifest
from not_core.protocol import (
    ADMISSION_TYPE,
    ENROLMENT_TYPE,
    RECEIPT_TYPE,
    Admission,
    Enrolment,
    Receipt,
    WitnessRequest,
)
from not_core.service.supervisor import keep_memory_private, listens, python
from not_core.surgery.card import card
from not_core.trust import addressees, authority, federation, keys, merkle, sealing, signing
from not_core.trust.holder import HeldSigner
from not_core.trust.offer import OFFER_TYPE, Offer
from not_core.trust.profile import Profile, read_request
from not_core.trust.statement import sign_statement, verify_statement
from not_core.trust.tree_head import (
    COSIGNATURE_TYPE,
    Cosignature,
    TreeHead,
    public,
    sign_head,
)
from simulations.federation.served import until

WORDS = b"a passphrase that no task is told"
POLICY = Policy(least_documents=10, most_trials=2)


class Members:
    """North, whose keys have a passphrase and which has made an organ; south and west."""

    def __init__(self, place: Path, token: str | None = None) -> None:
        self.federation = place / "federation"
        authority.create_root(self.federation, "regional")
        self.home = place / "north"
        settings = Settings(
            site="north", model="", records="", general="", domain="notes", licence="MIT"
        )
        site_home.create(self.home, settings, POLICY, passphrase=WORDS, token=token)
        request = read_request(self.home / "identity" / keys.REQUEST)
        self.profile = self.admit(self.home / "identity", request, WORDS).profile
        self.south = self.admit(place / "south", keys.create(place / "south", "south"))
        self.west = self.admit(place / "west", keys.create(place / "west", "west"))
        self.log = site_home.read_home(self.home).log
        self.organ = self.made()

    def admit(self, folder: Path, request: Any, words: bytes | None = None) -> keys.Identity:
        profile = authority.admit(self.federation, request)
        trust = federation.load_trust(self.federation)
        return keys.install(folder, profile, trust, passphrase=words)

    def made(self, **changes: Any) -> Manifest:
        """An organ in the home, as a donor leaves it."""
        facts = replace(
            manifest(), name="organ", version=1, domain="notes", licence="MIT", **changes
        )
        folder = self.home / "organs" / "made" / facts.digest
        folder.mkdir(parents=True)
        (folder / "organ.safetensors").write_bytes(b"tensor bytes" * 9)
        (folder / "manifest.json").write_bytes(canonical.encode(facts))
        (folder / "README.md").write_text(card(facts))
        return facts

    def site(self) -> Site:
        """North as a task has it: the environment names the agent."""
        return site_home.load(self.home)

    def folder(self, facts: Manifest) -> Path:
        return self.home / "organs" / "made" / facts.digest

    def policy(self, **changes: Any) -> None:
        lines = [f"{name} = {value!r}" for name, value in changes.items()]
        (self.home / "policy.toml").write_text("\n".join(["least_documents = 10", *lines]))

    def offered(self) -> Offer:
        """A complete offer of the organ to south, not signed."""
        terms = sealing.Audience(addressees=[self.south.profile], exchange="trial")
        return donor.seal(self.site(), self.organ.digest, terms)[0].offer


@contextmanager
def running(home: Path, words: bytes = WORDS) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(  # noqa: S603
        python("client.signing_agent", str(home)), stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(words)
    process.stdin.close()
    try:
        until(lambda: listens(signing_wire.socket_of(home)), 60, "signing agent")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)
        members = Members(tmp_path_factory.mktemp("signing"))
    with running(members.home):
        yield members


@pytest.fixture(autouse=True)
def _served(served: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signing_wire.VARIABLE, str(signing_wire.socket_of(served.home)))
    monkeypatch.setattr("client.donor.organs.read_stored", lambda folder: None)  # no real tensors
    (served.home / "policy.toml").write_text("least_documents = 10\nmost_trials = 2\n")


def refused(served: Members, code: str, payload: Any, kind: str, *shown: Profile) -> None:
    """The agent does not sign this, and says nothing of it in the log."""
    rows = len(served.log.entries())
    data = payload if isinstance(payload, bytes) else canonical.encode(payload)
    with pytest.raises(SigningError) as caught:
        sign_statement(data, kind, served.site().identity, shown)
    assert caught.value.code == code, caught.value
    assert len(served.log.entries()) == rows


def receipt(**changes: Any) -> Receipt:
    base = Receipt(
        exchange="trial",
        organ="ab" * 32,
        donor="south",
        recipient="north",
        mode="replace",
        position=1,
        domain_perplexity_before=20.4,
        domain_perplexity_after=16.6,
        general_perplexity_before=29.2,
        general_perplexity_after=27.6,
        change=-0.188,
        interval=(-0.21, -0.15),
        documents=20,
        general_documents=12,
        tokens=2300,
        verdict="accepted",
        reason="domain perplexity changed by -18.8%, 95% interval -21.0% to -15.0%",
    )
    return replace(base, **changes)


def test_a_task_has_no_key_and_cannot_read_one(served: Members) -> None:
    site = served.site()
    assert isinstance(site.identity.signing_key, represented.AgentSigner)
    assert {type(one) for one in site.identity.sealing_keys.values()} == {represented.AgentOpener}
    assert site.identity.sealing_keys.keys() == {served.profile.sealing_fingerprint}
    with pytest.raises(Exception, match="is encrypted"):
        keys.load(served.home / "identity")


def test_an_organ_is_signed_and_offered_once_its_operator_has_approved_it(
    served: Members, tmp_path: Path
) -> None:
    site, digest = served.site(), served.organ.digest
    terms = sealing.Audience(addressees=[served.south.profile], exchange="trial")
    with pytest.raises(SigningError, match="waits for approval") as caught:
        donor.seal(site, digest, terms)
    assert caught.value.code == ApprovalError.code
    assert not (served.folder(served.organ) / signing.SIGNATURE).exists()

    served.log.append("approved", what="organ", digest=digest)
    signed, sealed = donor.seal(site, digest, terms)
    opened = sealing.open_sealed(sealed, served.south, tmp_path / "opened", exchange="trial")
    assert opened.manifest == served.organ
    entries = [one for one in served.log.entries() if one.event == "signed"]
    assert [(one.what, one.digest) for one in entries] == [("organ", digest), ("offer", digest)]
    assert entries[1].exchange == "trial"
    assert entries[1].bytes == len(canonical.encode(signed.offer))
    served.log.verify()

    again = sealing.Audience(addressees=[served.west.profile], exchange="other")
    donor.seal(site, digest, again)  # opened and wrapped anew, by the agent
    assert [one.what for one in served.log.entries()][-1] == "offer"

    folder = served.folder(served.organ)
    (folder / signing.KEY_SIGNATURE).unlink()  # as if who signed had died between the two
    (folder / "README.md").write_text("as an earlier version wrote it")
    donor.seal(site, digest, again)
    assert signing.verify_folder(folder, site.trust).manifest == served.organ

    signed_statement = canonical.encode(signing.statement_of(folder, served.organ))
    for word, release in (("approved", "ask"), ("rejected", "ask"), ("rejected", "always")):
        served.policy(release_organs=release)
        served.log.append(word, what="organ", digest=digest)
        if word == "rejected":
            refused(served, "approval", signed_statement, signing.STATEMENT_TYPE)
            refused(served, "approval", served.offered(), OFFER_TYPE, served.south.profile)
    served.log.append("approved", what="organ", digest=digest)
    anew = sealing.Audience(addressees=[served.west.profile], exchange="third")
    donor.seal(site, digest, anew)


def test_another_organs_files_or_card_are_not_signed(served: Members) -> None:
    facts = served.made(base=replace(manifest().base, weights="cd" * 32))
    served.log.append("approved", what="organ", digest=facts.digest)
    folder, kind = served.folder(facts), signing.STATEMENT_TYPE
    honest = canonical.encode(signing.statement_of(folder, facts))
    (folder / "organ.safetensors").write_bytes(b"other bytes")
    refused(served, "organ", honest, kind)
    (folder / "README.md").write_text("approved by the operator")
    refused(served, "organ", signing.statement_of(folder, facts), kind)
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    refused(served, "organ", honest, kind)
    (folder / "manifest.json").write_bytes(canonical.encode(served.organ))
    refused(served, "organ", honest, kind)
    for strange in (b"{}", b"[1]", b"\xff", b'{"predicate":{"resources":[{"name":[]}]}}'):
        refused(served, "format", strange, kind)
    for name in ("../" * 8 + "etc", "0" * 63):
        table = {"predicate": {"resources": [{"name": "manifest.json", "digest": name}]}}
        refused(served, "format", table, kind)


def test_a_label_that_nobody_saw_is_that_of_the_settings(served: Members) -> None:
    """Where organs leave unasked, no free text does with them."""
    served.policy(release_organs="always")
    base = replace(manifest().base, weights="ee" * 32)
    for changes in ({"licence": "text of a record"}, {"domain": "text of a record"}):
        facts = replace(served.made(base=base), **changes)
        folder = served.home / "organs" / "made" / facts.digest
        served.folder(replace(facts, licence="MIT", domain="notes")).rename(folder)
        (folder / "manifest.json").write_bytes(canonical.encode(facts))
        refused(served, "policy", signing.statement_of(folder, facts), signing.STATEMENT_TYPE)
    other = served.made(base=base, donor="south")
    statement = signing.statement_of(served.folder(other), other)
    refused(served, "organ", statement, signing.STATEMENT_TYPE)


def test_an_offer_names_members_whom_the_policy_lets_have_what_was_signed(served: Members) -> None:
    served.log.append("approved", what="organ", digest=served.organ.digest)
    offer, south, west = served.offered(), served.south.profile, served.west.profile
    shown = (south, served.profile)
    refused(served, "offer", offer, OFFER_TYPE)
    refused(served, "offer", offer, OFFER_TYPE, west)
    refused(served, "offer", replace(offer, hidden="0" * 64), OFFER_TYPE, *shown)
    refused(served, "offer", replace(offer, version=9), OFFER_TYPE, *shown)
    refused(served, "offer", replace(offer, federation="0" * 64), OFFER_TYPE, *shown)
    refused(served, "offer", replace(offer, expires=offer.expires + 9000), OFFER_TYPE, *shown)
    refused(served, "offer", replace(offer, not_before=offer.not_before - 9000), OFFER_TYPE, *shown)
    refused(served, "offer", replace(offer, domain="text of a record"), OFFER_TYPE, *shown)
    stranger = replace(south, sealing_key=west.sealing_key)
    names = tuple(sorted({one.sealing_fingerprint for one in (stranger, served.profile)}))
    refused(served, "certificate", replace(offer, addressees=names), OFFER_TYPE, stranger)
    served.policy(addressees=["west"])
    refused(served, "policy", offer, OFFER_TYPE, *shown)
    served.policy()
    unseen = served.made(base=replace(manifest().base, weights="ff" * 32))
    changes = {"organ_digest": unseen.digest, "base_weights": "ff" * 32}
    changes |= {"descriptor": sealing.describe(unseen.digest, "north")}
    refused(served, "approval", replace(offer, **changes), OFFER_TYPE, *shown)
    served.log.append("approved", what="organ", digest=unseen.digest)
    refused(served, "organ", replace(offer, **changes), OFFER_TYPE, *shown)


def enrolment(members: Members) -> Enrolment:
    return Enrolment(
        exchange="trial",
        nonce="0" * 64,
        profile=members.profile,
        domain="notes",
        donates=True,
        family="llama",
        layers=6,
        base_weights="ab" * 32,
    )


@soft_token
def test_the_agents_signing_key_may_be_on_a_token(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Members(tmp_path, token)
    assert not list(members.home.rglob("signing.key"))
    monkeypatch.setenv(signing_wire.VARIABLE, str(signing_wire.socket_of(members.home)))
    with running(members.home):
        identity, said = members.site().identity, enrolment(members)
        envelope = sign_statement(canonical.encode(said), ENROLMENT_TYPE, identity)
        verify_statement(envelope, ENROLMENT_TYPE, identity.signing_key.public_key())
        refused(members, "policy", replace(said, domain="text of a record"), ENROLMENT_TYPE)


def test_an_enrolment_says_what_the_settings_say(served: Members) -> None:
    said = enrolment(served)
    identity = served.site().identity
    envelope = sign_statement(canonical.encode(said), ENROLMENT_TYPE, identity)
    verify_statement(envelope, ENROLMENT_TYPE, identity.signing_key.public_key())
    for changes in (
        {"profile": served.south.profile},
        {"domain": "text of a record"},
        {"donates": False},
    ):
        refused(served, "policy", replace(said, **changes), ENROLMENT_TYPE)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipient": "south"},
        {"documents": 9},
        {"domain_perplexity_after": 16.61},
        {"change": -0.1881},
        {"interval": (-0.2101, -0.15)},
        {"tokens": 2301},
        {"reason": "text of a record"},
        {"verdict": "rejected"},
    ],
)
def test_a_receipt_is_of_this_site_and_says_no_more_than_receipts_do(
    served: Members, changes: dict[str, Any]
) -> None:
    served.log.append("trying", what="trial of south", digest="ab" * 32)
    refused(served, "policy", receipt(**changes), RECEIPT_TYPE)


def test_receipts_are_on_organs_that_came_here_and_so_many_of_a_donor(served: Members) -> None:
    identity = served.site().identity
    for number in range(3):
        organ = f"{number:064x}"
        refused(served, "organ", receipt(organ=organ, donor="west"), RECEIPT_TYPE)
        served.log.append("opened", what="organ", digest=organ)
        served.log.append("trying", what="trial of west", digest=organ)
        refused(served, "organ", receipt(organ=organ, donor="another"), RECEIPT_TYPE)
        payload = canonical.encode(receipt(organ=organ, donor="west"))
        if number < 2:
            sign_statement(payload, RECEIPT_TYPE, identity)
            sign_statement(payload, RECEIPT_TYPE, identity)  # again counts once
        else:
            refused(served, "policy", payload, RECEIPT_TYPE)
    refused(served, "organ", receipt(donor="north"), RECEIPT_TYPE)
    own = receipt(donor="north", organ=served.organ.digest)
    sign_statement(canonical.encode(own), RECEIPT_TYPE, identity)


def test_a_cosignature_is_of_a_tree_head_that_came_and_continues_the_one_before(
    served: Members,
) -> None:
    key = HeldSigner(ec.generate_private_key(ec.SECP384R1()))
    federation, name = served.site().trust.fingerprint, public(key.public_key())
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(2)]

    def head(size: int, root: bytes) -> TreeHead:
        return TreeHead(federation=federation, key=name, size=size, root=root.hex(), time=1)

    def came(number: int, found: TreeHead, *path: bytes) -> Cosignature:
        request = WitnessRequest(
            exchange="trial",
            head=sign_head(found, key).decode(),
            since=0,
            path=tuple(one.hex() for one in path),
            logged=(),
            cosigned=(),
        )
        place = served.site().place("heads", f"{number:06}.json")
        place.write_bytes(canonical.encode(request))
        return Cosignature(site="north", head=found)

    early, late = head(1, leaves[0]), head(2, merkle.node_hash(*leaves))
    said = Cosignature(site="north", head=early)
    refused(served, "log", said, COSIGNATURE_TYPE)  # none has come
    came(1, early)
    refused(served, "log", replace(said, site="south"), COSIGNATURE_TYPE)
    refused(served, "log", replace(said, head=late), COSIGNATURE_TYPE)
    sign_statement(canonical.encode(said), COSIGNATURE_TYPE, served.site().identity)
    rewritten = came(2, head(2, merkle.node_hash(*reversed(leaves))), leaves[1])
    refused(served, "log", rewritten, COSIGNATURE_TYPE)
    grown = came(2, late, leaves[1])
    refused(served, "log", said, COSIGNATURE_TYPE)
    sign_statement(canonical.encode(grown), COSIGNATURE_TYPE, served.site().identity)


def test_reasons_are_those_of_verdicts() -> None:
    low, high = Tolerance(least_gain=0.02), Tolerance(least_gain=0.5, most_forgetting=0.0)
    changes = [Change(-0.2, -0.3, -0.1), Change(0.2, 0.1, 0.3), Change(-0.01, -0.02, 0.0)]
    changes += [Change(float("inf"), 0.0, 0.0), Change(123.456, 1.0, 999.9)]
    found = {
        judge(change, general, tolerance)
        for change in changes
        for general in (-0.1, 0.2)
        for tolerance in (low, high)
    }
    assert len(found) >= 6
    for one in found:
        assert explains(one.verdict, one.reason)
        assert not explains(one.verdict, one.reason + " ")


def test_other_types_are_not_signed(served: Members) -> None:
    admission = Admission(profile=served.profile, node_key="-----BEGIN PUBLIC KEY-----\nx")
    refused(served, "format", admission, ADMISSION_TYPE)
    refused(served, "format", receipt(), "text/plain")
    refused(served, "format", receipt(), ENROLMENT_TYPE)
    refused(served, "format", b"not JSON", RECEIPT_TYPE)


def test_keys_are_opened_by_their_fingerprint(served: Members) -> None:
    opener = served.site().identity.sealing_keys[served.profile.sealing_fingerprint]
    public = addressees.sealing_public_key(served.profile.sealing_key, "north")
    wrapped = addressees.SUITE.encrypt(b"k" * 32, public, info=b"i" * 32)
    assert opener.open(wrapped, b"i" * 32) == b"k" * 32
    for spoiled, info in ((wrapped[:-1], b"i" * 32), (wrapped, b"j" * 32), (b"", b"i" * 32)):
        with pytest.raises(UnsealError):
            opener.open(spoiled, info)
    with pytest.raises(UnsealError, match="no sealing key"):
        replace(opener, fingerprint="0" * 64).open(wrapped, b"i" * 32)


def raw(served: Members, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(signing_wire.socket_of(served.home)))
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)
    return b""


def test_garbage_and_crowds_do_not_end_the_agent(served: Members) -> None:
    sound = Ask(sign=Sign(payload=text(b"x"), payload_type="x", addressees=()))
    encoded = canonical.encode(sound)
    for data in (
        b"\x00" * 999,
        b"{" * 100_000,
        encoded[:-1],
        encoded + b" ",
        canonical.encode({"sign": None, "open": None}),
        encoded.replace(b'"x"', b'"\\u0000"'),
        b" " * (signing_wire.REQUEST_LIMIT + 1),
    ):
        assert b'"code":"format"' in raw(served, data) or b'"code":"too-large"' in raw(served, data)
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(signing_agent.WAITING - 1)]
    try:
        for one in crowd:
            one.connect(str(signing_wire.socket_of(served.home)))
    finally:
        for one in crowd:
            one.close()
    assert raw(served, b"") == b""
    assert b'"code":"format"' in raw(served, encoded)


def test_who_dawdles_is_left(served: Members, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dawdler:
        dawdler.connect(str(signing_wire.socket_of(served.home)))
        dawdler.sendall(b"{")
        assert b'"code":"format"' in raw(served, b"{}")  # once its time is over
        assert dawdler.recv(9) == b""


def test_the_socket_is_its_owners_alone(served: Members) -> None:
    path = signing_wire.socket_of(served.home)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(HomeError, match="a longer path than 100 bytes"):
        signing_agent.check_path(Path("/" + "x" * 100))


@pytest.mark.skipif(
    not (sys.platform == "linux" and os.geteuid() == 0),
    reason="only Linux names the other end, and only root can be another user",
)
def test_another_user_is_not_heard() -> None:
    """Even where somebody has opened folder and socket to all."""
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        path = Path(place, "socket")
        listener.bind(str(path))
        for one, mode in ((path, 0o666), (path.parent, 0o755)):
            one.chmod(mode)
        listener.listen()
        for user, heard in ((65534, False), (os.geteuid(), True)):
            python_of_all = "/usr/bin/env"
            command = [python_of_all, "python3", "-c", code, str(path)]
            subprocess.run(command, user=user, check=True, cwd="/")  # noqa: S603
            connection, _ = listener.accept()
            with connection:
                assert signing_agent._is_ours(connection) is heard


@pytest.mark.skipif(sys.platform != "linux", reason="what is asked for is Linux's")
def test_no_other_process_of_the_user_reads_the_agents_memory() -> None:
    import ctypes

    pid = os.fork()
    if not pid:
        before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
        keep_memory_private()
        os._exit(0 if before and not ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_agent_that_died_is_waited_for_and_rotated_keys_are_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = Members(tmp_path)
    identity, old = members.home / "identity", members.profile
    monkeypatch.setenv(signing_wire.VARIABLE, str(signing_wire.socket_of(members.home)))
    with running(members.home) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        asked = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", ASKING, str(members.home)], stdout=subprocess.PIPE
        )
        with running(members.home):
            out, _ = asked.communicate(timeout=60)
            assert out.strip() == b"signed"
            request = keys.rotate(identity, passphrase=WORDS)
            profile = authority.admit(members.federation, request, again=True)
            trust = federation.load_trust(members.federation)
            keys.install(identity, profile, trust, passphrase=WORDS)
            site = members.site()
            assert site.identity.profile != old
            assert len(site.identity.sealing_keys) == 2
            for one in (old, profile):
                public = addressees.sealing_public_key(one.sealing_key, "north")
                wrapped = addressees.SUITE.encrypt(b"k" * 32, public, info=b"i" * 32)
                opener = site.identity.sealing_keys[one.sealing_fingerprint]
                assert opener.open(wrapped, b"i" * 32) == b"k" * 32
            atomic.write(members.home / "policy.toml", b'release_organs = "always"\n')
            members.offered()
    monkeypatch.setattr(represented, "PATIENCE", 0.3)
    with pytest.raises(SigningError, match="no signing agent answers"):
        members.site().identity.signing_key.sign(b"", "x", ())


ASKING = """
import sys
from pathlib import Path
from client import home
from not_core import canonical
from not_core.protocol import ENROLMENT_TYPE, Enrolment
from not_core.trust.statement import sign_statement
site = home.load(Path(sys.argv[1]))
said = Enrolment(exchange="trial", nonce="0" * 64, profile=site.identity.profile, domain="notes",
    donates=True, family="llama", layers=6, base_weights="ab" * 32)
sign_statement(canonical.encode(said), ENROLMENT_TYPE, site.identity)
print("signed")
"""
