"""The catalogue in SQLite and in a real PostgreSQL server: the same tests of both."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from first_catalogue import Base as First
from first_catalogue import Exchange, Node, Organ, Run, Site
from first_catalogue import Receipt as FirstReceipt
from pages import WORDS, asked
from servers import PASSWORD, Postgres, postgres
from sqlalchemy.orm import Session
from trust_world import World, terms

from not_core import canonical
from not_core.errors import (
    CatalogueError,
    ExchangeError,
    ExchangeQuotaError,
    OfferError,
    SiteQuotaError,
)
from not_core.protocol import Donation, Enrolment, Receipt
from not_core.trust import sealing
from not_core.trust.offer import Offer, describe
from server import database, home, migrations, tables
from server.catalogue import Catalogue, Happened, Quotas
from server.counts import Counted, Stamp, Tried
from server.schedule import RUNNING
from server.upgrade import upgrade

ROOMY = Quotas(site_bytes=10**12, exchange_organs=10**6)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    """An empty database."""
    if request.param == "sqlite":
        return database.address(f"sqlite:///{tmp_path / 'catalogue.db'}")
    found: Postgres = request.getfixturevalue("server")
    made = database.address(found.database(f"t{abs(hash(request.node.nodeid))}"))
    return made.set(password=PASSWORD)


@pytest.fixture
def engine(url: sa.URL) -> Iterator[sa.Engine]:
    engine = database.connect(url)
    yield engine
    engine.dispose()


@pytest.fixture
def catalogue(url: sa.URL, engine: sa.Engine) -> Iterator[Catalogue]:
    database.upgrade(engine)
    found = Catalogue(url)
    yield found
    found.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def offer(world: World) -> Offer:
    signed = sealing.seal(
        world.organ, world.north, terms(world.south), world.place / "x.organ", now=1_800_000_000
    )
    return signed.offer


DONATION = Donation(
    offer="{}",
    sealed_bytes=1000,
    sealed_sha256="0" * 64,
    organ_bytes=900,
    tokens=10,
    steps=1,
    privacy="none",
)


def another(offer: Offer, organ: str, body: str, donor: str = "north") -> Offer:
    """An offer of another organ, or another body of the same size."""
    return replace(
        offer,
        donor=donor,
        organ_id=f"{donor}/notes",
        organ_digest=organ * 64,
        descriptor=describe(organ * 64, donor),
        body_sha256=body * 64,
        body_bytes=1000,
    )


def received(organ: str) -> Receipt:
    """South accepts an organ of north's."""
    return Receipt(
        exchange="spring",
        organ=organ,
        donor="north",
        recipient="south",
        mode="replace",
        position=1,
        domain_perplexity_before=9.0,
        domain_perplexity_after=8.0,
        general_perplexity_before=9.0,
        general_perplexity_after=9.0,
        change=-0.1,
        interval=(-0.2, -0.01),
        documents=20,
        general_documents=10,
        tokens=4000,
        verdict="accepted",
        reason="",
    )


def test_a_catalogue_keeps_what_it_is_told(
    catalogue: Catalogue, world: World, offer: Offer
) -> None:
    enrolment = Enrolment(
        exchange="spring",
        nonce="1" * 64,
        profile=world.north.profile,
        domain="notes",
        donates=True,
        family="llama",
        layers=6,
        base_weights="a" * 64,
    )
    catalogue.enrolled("spring", enrolment)
    catalogue.enrolled("spring", replace(enrolment, domain="later notes"))
    assert [one.domain for one in catalogue.enrolments("spring")] == ["later notes"]
    south = replace(enrolment, profile=world.south.profile)
    catalogue.enrolled("autumn", south, replace(enrolment, exchange="autumn"))
    sites = [one.profile.site for one in catalogue.enrolments("autumn")]
    assert sites == ["north", "south"]
    happened = [Happened(float(time), "north", step, "") for time, step in enumerate("ab")]
    catalogue.happened("spring", *happened)
    assert catalogue.events("spring", 9) == happened[::-1]
    receipt = received(offer.organ_digest)
    for envelope in (b"first", b"second"):
        catalogue.received(receipt, envelope)
    assert catalogue.receipts("spring") == [receipt]
    catalogue.ran("spring", {"failures": [], "bytes": {"uploaded": 2**40}})
    assert catalogue.last_run("spring") == {"failures": [], "bytes": {"uploaded": 2**40}}
    assert catalogue.last_run("autumn") is None
    catalogue.admitted("north", 2**64 - 1, b"word")
    assert catalogue.nodes() == {"north": (2**64 - 1, b"word")}
    catalogue.expelled("north")
    assert catalogue.nodes() == {}
    assert catalogue.exchanges() == ["autumn", "spring"]


def test_what_is_counted_of_organs_and_exchanges(catalogue: Catalogue, offer: Offer) -> None:
    counts, receipt = catalogue.counts, received(offer.organ_digest)
    assert (counts.counted(), counts.tried(), counts.verdicts()) == ({}, {}, {})
    assert counts.stamp("spring") == Stamp("", 0, 0, 0)
    for name in ("spring", "autumn"):
        catalogue.reserve(name, offer, DONATION, ROOMY)
        for one in (
            receipt,
            replace(receipt, recipient="north"),
            replace(receipt, recipient="west", verdict="rejected"),
            replace(receipt, organ="f" * 64),  # of one that was forgotten
        ):
            catalogue.received(replace(one, exchange=name), b"signed")
    assert counts.counted("spring") == {"spring": Counted(organs=1, receipts=3, accepted=1)}
    catalogue.offered("spring", offer, DONATION, b"header")
    for code, site in (("", "south"), ("", "south"), ("timeout", "west")):
        catalogue.happened("spring", Happened(1.0, site, "witness", code))
    there = Counted(organs=1, stored=1, receipts=3, accepted=1, witnesses=1)
    assert counts.counted("spring") == {"spring": there}
    assert counts.counted() == {"spring": there, "autumn": replace(there, witnesses=0)}
    assert counts.tried("spring")[offer.organ_digest] == Tried(accepted=1, sites=2)
    assert counts.tried()[offer.organ_digest] == Tried(accepted=1, sites=2), "sites, not receipts"
    assert counts.verdicts() == {"accepted": 6, "rejected": 2}
    assert counts.events("spring") == 3
    assert counts.events("autumn") == 0


def test_a_stamp_changes_with_what_is_shown_of_an_exchange(catalogue: Catalogue) -> None:
    stamps = [catalogue.counts.stamp("spring")]
    for change in (
        lambda: catalogue.schedule.begin(asked()),
        lambda: catalogue.schedule.begin(asked(sites=3)),
        lambda: catalogue.schedule.running("spring", 7, 5.0),
        lambda: catalogue.happened("spring", Happened(1.0, "north", "enrol", "")),
        lambda: catalogue.schedule.cancel("spring"),
    ):
        change()
        stamps.append(catalogue.counts.stamp("spring"))
    assert len(set(stamps)) == 6
    catalogue.happened("autumn", Happened(1.0, "north", "enrol", ""))
    assert catalogue.counts.stamp("spring") == stamps[-1]


def test_an_exchange_goes_on_with_more_sites_and_on_no_other_terms(catalogue: Catalogue) -> None:
    catalogue.schedule.begin(asked())
    catalogue.schedule.running("spring", 2**64 - 1, 5.0)
    catalogue.schedule.ended("spring", "completed")
    catalogue.schedule.begin(asked(sites=3))
    (one,) = catalogue.schedule.unfinished()
    assert (one.asked, one.state, one.run) == (asked(sites=3), RUNNING, 0)
    with pytest.raises(ExchangeError, match="other terms"):
        catalogue.schedule.begin(asked(sites=3, tokens=11))
    assert catalogue.schedule.begun() == [one]


def test_an_organ_is_counted_before_it_is_fetched_and_once_whatever_its_exchanges(
    catalogue: Catalogue, offer: Offer
) -> None:
    first, again = another(offer, "1", "a"), replace(another(offer, "1", "a"), exchange="autumn")
    for name in ("spring", "autumn"):
        catalogue.reserve(name, first, DONATION, ROOMY)
        catalogue.reserve(name, again, DONATION, ROOMY)
    assert [one.header for one in catalogue.organs("spring")] == [None]
    assert not catalogue.banked(first)
    assert catalogue.stored() == {}
    catalogue.offered("spring", first, DONATION, b"header")
    assert catalogue.banked(first)
    assert not catalogue.banked(another(offer, "1", "a", "west")), "not its own"
    assert catalogue.stored() == {first.organ_digest: 1000}
    catalogue.release("spring", first)
    assert [one.header for one in catalogue.organs("spring")] == [b"header"], "it is there"
    catalogue.release("autumn", first)
    assert catalogue.organs("autumn") == []

    bound = Quotas(site_bytes=2000, exchange_organs=2)
    catalogue.reserve("spring", another(offer, "2", "b"), DONATION, bound)
    with pytest.raises(ExchangeQuotaError, match="has 2 organs"):
        catalogue.reserve("spring", another(offer, "3", "c"), DONATION, bound)
    with pytest.raises(SiteQuotaError, match="north would have 3000 bytes here, at most 2000"):
        catalogue.reserve("autumn", another(offer, "3", "c"), DONATION, bound)
    assert catalogue.organs("autumn") == [], "what is refused leaves nothing"
    catalogue.reserve("spring", first, DONATION, bound)
    catalogue.release("spring", another(offer, "2", "b"))
    catalogue.reserve("autumn", another(offer, "3", "c"), DONATION, bound)
    assert catalogue.bodies(first.organ_digest) == [first.body_sha256]
    catalogue.forget(first.organ_digest)
    assert catalogue.bodies(first.organ_digest) == []
    assert catalogue.organs("spring") == []
    assert catalogue.stored() == {}


def test_a_body_is_counted_by_its_true_size_whatever_was_said_of_it_before(
    catalogue: Catalogue, offer: Offer
) -> None:
    bound = Quotas(site_bytes=2000, exchange_organs=9)
    true = another(offer, "1", "a")
    small = replace(true, body_bytes=1)
    catalogue.reserve("spring", small, DONATION, bound)  # and is never brought
    with pytest.raises(SiteQuotaError, match="would have 3000 bytes"):
        catalogue.reserve("autumn", replace(true, body_bytes=3000), DONATION, bound)
    catalogue.reserve("autumn", true, DONATION, bound)
    catalogue.reserve("spring", small, DONATION, bound)  # while the other is on its way
    catalogue.reserve("spring", another(offer, "2", "b"), DONATION, bound)
    with pytest.raises(SiteQuotaError, match="would have 3000 bytes"):
        catalogue.reserve("spring", another(offer, "3", "c"), DONATION, bound)
    catalogue.offered("autumn", true, DONATION, b"header")
    with pytest.raises(OfferError, match="has 1000 bytes is offered with 1;"):
        catalogue.reserve("winter", small, DONATION, bound)


def test_what_is_forgotten_on_its_way_is_known_when_it_has_come(
    catalogue: Catalogue, offer: Offer
) -> None:
    first = another(offer, "1", "a")
    catalogue.reserve("spring", first, DONATION, ROOMY)
    catalogue.forget(first.organ_digest)
    catalogue.offered("spring", first, DONATION, b"header")
    assert catalogue.bodies(first.organ_digest) == [first.body_sha256]
    assert catalogue.stored() == {first.organ_digest: 1000}


def test_a_catalogue_of_the_first_version_is_brought_up_to_date(
    url: sa.URL, engine: sa.Engine, offer: Offer
) -> None:
    First.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Site(exchange="spring", site="north", enrolment=b"x"))
        session.add(
            Organ(
                exchange="spring",
                digest="1" * 64,
                donor="north",
                donation=canonical.encode(DONATION),
            )
        )
        session.add(
            FirstReceipt(
                exchange="spring",
                organ="1" * 64,
                recipient="south",
                mode="replace",
                envelope=b"signed",
                receipt=canonical.encode(received("1" * 64)),
            )
        )
        session.add(Run(exchange="spring", facts={"failures": []}))
        session.add(Node(site="north", node="7", admission=b"word"))
        words = WORDS | {"sites": "2"}  # its page's; it had no mode
        session.add(
            Exchange(name="spring", config=words, state="completed", run="5", runs=1, since=1)
        )
    with pytest.raises(CatalogueError, match=r"version none.*organ-coordinator start"):
        Catalogue(url)
    for _ in range(2):
        database.upgrade(engine)
    catalogue = Catalogue(url)
    try:
        assert [(one.organ, one.header) for one in catalogue.organs("spring")] == [("1" * 64, None)]
        assert catalogue.nodes() == {"north": (7, b"word")}
        assert [(one.state, one.asked) for one in catalogue.schedule.begun()] == [
            ("completed", asked())
        ]
        assert catalogue.last_run("spring") == {"failures": []}
        assert catalogue.counts.tried() == {"1" * 64: Tried(accepted=1, sites=1)}
        catalogue.reserve("spring", offer, DONATION, ROOMY)
        catalogue.offered("spring", offer, DONATION, b"header")
        assert len(catalogue.organs("spring")) == 2
    finally:
        catalogue.close()


def test_the_steps_lead_to_the_tables_as_they_are(engine: sa.Engine) -> None:
    database.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []
    steps = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert steps.get_heads() == [migrations.NEWEST]


def test_a_newer_catalogue_is_refused_and_left_alone(url: sa.URL, engine: sa.Engine) -> None:
    database.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    for attempt in (lambda: Catalogue(url), lambda: database.upgrade(engine)):
        with pytest.raises(CatalogueError, match="0999, this program knows up to"):
            attempt()


def test_a_step_that_fails_leaves_the_catalogue_as_it_was(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    First.metadata.create_all(engine)
    with engine.begin() as connection:  # the second step makes it, after it has added a column
        connection.execute(sa.text("CREATE TABLE bodies (x INTEGER)"))
    before = {c["name"] for c in sa.inspect(engine).get_columns("organs")}
    with pytest.raises(CatalogueError, match="failed"):
        database.upgrade(engine)
    after = sa.inspect(engine)
    assert {c["name"] for c in after.get_columns("organs")} == before
    assert not after.has_table("alembic_version")


WRITER = f"""
from server.asked import read
asked = read({WORDS | {"exchange": "shared"}})
"""
WRITER += """
import sys
from server import database
from server.catalogue import Catalogue
me = sys.argv[2]
catalogue = Catalogue(database.address(sys.argv[1]))
for number in range(8):
    catalogue.schedule.begin(asked)
    catalogue.schedule.running("shared", number, float(number))
    catalogue.schedule.ended("shared", "completed")
    catalogue.ran(f"exchange-{me}", {"number": number})
    catalogue.admitted("site", number, me.encode())
    assert catalogue.schedule.begun()
catalogue.close()
"""


def at_once(url: sa.URL, script: str, number: int) -> None:
    """Run a script in several processes, told where the catalogue is and which of them it is."""
    where = sa.URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database
    ).render_as_string()
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PGPASSWORD": PASSWORD}
    running = [
        subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", script, where, str(me)],
            stderr=subprocess.PIPE,
            env=os.environ | environment,
        )
        for me in range(number)
    ]
    errors = [one.communicate()[1].decode() for one in running]
    assert [one.returncode for one in running] == [0] * number, errors


def test_several_processes_write_at_once(catalogue: Catalogue, url: sa.URL) -> None:
    """Read, compare, write, 8 times each; SQLite would say that it is locked, or lose a row."""
    at_once(url, WRITER, 3)
    assert [catalogue.last_run(f"exchange-{me}") for me in range(3)] == [{"number": 7}] * 3
    assert [one.name for one in catalogue.schedule.begun()] == ["shared"]


def test_a_process_that_reads_the_file_itself_loses_no_write(tmp_path: Path) -> None:
    """As a copy for a backup does: closing the file lets go of all locks that the process has."""
    url = database.address(f"sqlite:///{tmp_path / 'catalogue.db'}")
    engine = database.connect(url)
    database.upgrade(engine)
    catalogue = Catalogue(url)
    catalogue.admitted("north", 1, b"word")
    for path in tmp_path.iterdir():
        path.read_bytes()
    script = (
        "import sys\nfrom server import database\nfrom server.catalogue import Catalogue\n"
        "one = Catalogue(database.address(sys.argv[1]))\n"
    )
    at_once(url, script + "one.nodes()\none.close()", 1)
    catalogue.admitted("south", 2, b"word")
    at_once(url, script + "assert list(one.nodes()) == ['north', 'south']", 1)
    at_once(url, script + "one.expelled('north')\none.close()", 1)
    assert list(catalogue.nodes()) == ["south"]


def test_two_that_start_at_once_bring_it_up_to_date_once(url: sa.URL, engine: sa.Engine) -> None:
    First.metadata.create_all(engine)
    script = (
        "import sys\nfrom server import database\n"
        "database.upgrade(database.connect(database.address(sys.argv[1])))"
    )
    at_once(url, script, 2)
    database.check(engine)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://organ:secret@127.0.0.1/x", "holds a password"),
        ("postgresql://organ@127.0.0.1/x?password=secret", "holds a password"),
        ("mysql://127.0.0.1/x", "begins with mysql://; write postgresql://, or sqlite://"),
        ("postgres://organ@127.0.0.1/x", "write postgresql://"),
        ("catalogue.db", "is not a URL"),
    ],
)
def test_an_address_is_checked_and_no_password_is_repeated(address: str, message: str) -> None:
    with pytest.raises(CatalogueError, match=message) as caught:
        database.address(address)
    assert "secret" not in str(caught.value)


def test_a_home_keeps_its_catalogue_in_a_database_and_the_password_in_a_file(
    server: Postgres, world: World, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    from server.commands import app

    url, place = server.database("of_a_home"), tmp_path / "home"
    root = world.place / "federation" / "root.pem"
    words = ("init", place, "--root", root, "--catalogue", url)
    code, _, err = call(*words, app=app)
    assert code == 1, "no password"
    assert not place.exists()
    assert "check that its server" in " ".join(err.split())
    code, _, err = call(*words, "--password-file", server.password_file, app=app)
    assert code == 0, err
    assert not (place / "catalogue.db").exists()
    assert PASSWORD not in (place / home.SETTINGS).read_text()
    assert call("organs", place, "--json", app=app) == (0, "[]\n", "")
    upgrade(place)
    wrong = tmp_path / "wrong"
    wrong.write_text("another")
    wrong.chmod(0o600)
    settings = (place / home.SETTINGS).read_text()
    (place / home.SETTINGS).write_text(settings.replace(str(server.password_file), str(wrong)))
    code, out, err = call("organs", place, app=app)
    assert code == 1
    assert "password authentication failed" in " ".join(err.split())
    assert "another" not in out + err
    wrong.chmod(0o644)
    assert call("organs", place, app=app)[0] == 1


def test_the_password_may_come_from_the_environment(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    engine = database.connect(database.address(server.database("by_environment")))
    database.upgrade(engine)
    database.check(engine)
    engine.dispose()
