"""The ``organ-site`` command line: one site's home, its keys, approvals and log."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from client import keeping, log, serving
from client.serving import COORDINATORS_CERTIFICATE, Home, unlocked
from not_core.commands import private as options
from not_core.commands.budget import Delta, Epsilon, show
from not_core.commands.passphrase import (
    PassphraseFile,
    SigningKey,
    Unprotected,
    new_passphrase,
    passphrase_of,
)
from not_core.commands.program import (
    Json,
    goes_on,
    listing,
    new_app,
    new_place,
    report,
    run,
    say,
)
from not_core.commands.trust import BY_HAND, Exchange, Lifetime, SealedOut, To

if TYPE_CHECKING:
    from client import home as homes

app = new_app(
    "Run a site: a home folder with private records, keys, a policy and a log.\n\n"
    "    organ-site init HOME --site clinic --model MODEL --records records.jsonl ...\n\n"
    "    (the federation admits HOME/identity/request.json and returns clinic.profile)\n\n"
    "    organ-site join HOME clinic.profile --root root.pem "
    "--coordinator organs.example.org:9092 --certificate tls.pem\n\n"
    "    organ-site doctor HOME        what is missing, and what to do\n\n"
    "    organ-site start HOME\n\n"
)

Mode = Literal["replace", "insert"]
Digest = Annotated[str, typer.Argument(help="Organ digest, or its first characters.")]


@app.command()
def init(
    home: Annotated[Path, typer.Argument(help="Folder to make; it must not exist yet.")],
    site: Annotated[str, typer.Option(help="The site's name in the federation.")],
    model: Annotated[str, typer.Option(help="Model folder, .gguf file or hub id.")],
    records: Annotated[Path, typer.Option(help="Private records; they stay where they are.")],
    general: Annotated[Path, typer.Option(help="Public general text, to measure forgetting.")],
    domain: Annotated[str, typer.Option(help="What the records are about, in public words.")],
    text_field: Annotated[str, typer.Option(help="Field that holds a record's text.")] = "text",
    dp_epsilon: Annotated[
        float | None,
        typer.Option(help="Differential privacy: most that a unit may cost, over all organs."),
    ] = None,
    dp_epsilon_per_organ: Annotated[
        float | None, typer.Option(help="Most that one organ may cost; default: all of it.")
    ] = None,
    dp_delta: options.DpDelta = 1e-6,
    unit_field: options.UnitField = None,
    organ_name: Annotated[str, typer.Option(help="Name of the organ it gives.")] = "organ",
    licence: Annotated[str, typer.Option(help="Licence of that organ.")] = "unspecified",
    donate: Annotated[bool, typer.Option(help="Whether the site gives organs.")] = True,
    passphrase_file: PassphraseFile = None,
    unprotected: Unprotected = False,
    signing_key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Make a home with new keys, a policy that asks before any organ leaves, and a request.

    With --dp-epsilon, organs are trained with differential privacy and charged to the ledger.
    Without it, they may memorise records.

    Example: organ-site init ~/clinic --site clinic --model SmolLM2/ --records r.jsonl
    --general g.jsonl --domain "family medicine" --dp-epsilon 8 --dp-epsilon-per-organ 2
    """
    new_place(home)
    from client import home as homes
    from not_core.learning.records import read_records, read_units
    from not_core.trust import keys

    if unit_field and dp_epsilon is None:
        raise typer.BadParameter("--unit-field takes --dp-epsilon")
    read_units(records, text_field, unit_field)
    read_records(general)
    settings = homes.settings(
        {
            "site": site,
            "model": str(Path(model).resolve()) if Path(model).exists() else model,
            "records": str(records.resolve()),
            "general": str(general.resolve()),
            "domain": domain,
            "text_field": text_field,
            "unit_field": unit_field or "",
            "organ_name": organ_name,
            "licence": licence,
            "donates": donate,
        }
    )
    policy = homes.policy(
        {"epsilon": dp_epsilon, "epsilon_per_organ": dp_epsilon_per_organ, "delta": dp_delta}
    )
    words = new_passphrase(passphrase_file, unprotected)
    request = homes.create(home, settings, policy, passphrase=words, token=signing_key)
    report(
        {
            "home": str(home),
            "request": str(home / homes.IDENTITY / keys.REQUEST),
            "request_fingerprint": request.fingerprint,
            "next": "have it admitted; the federation compares the fingerprint by telephone",
        },
        as_json,
    )


@app.command()
def join(
    home: Home,
    profile: Annotated[Path, typer.Argument(help="The profile that the federation returned.")],
    root: Annotated[
        Path,
        typer.Option(help="The federation's root.pem, federation.crl beside it; another channel."),
    ],
    coordinator: Annotated[
        str | None, typer.Option(help="A coordinator's address, HOST:PORT, to connect to.")
    ] = None,
    certificate: Annotated[Path | None, COORDINATORS_CERTIFICATE] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Accept the federation's answer to this site's request.

    With --coordinator and --certificate, 'organ-site connect' as well.

    Example: organ-site join ~/clinic clinic.profile --root root.pem
    --coordinator organs.example.org:9092 --certificate tls.pem
    """
    if (coordinator is None) != (certificate is None):
        raise typer.BadParameter("--coordinator and --certificate take each other")
    from client.home import IDENTITY, load
    from not_core.trust import federation, keys
    from not_core.trust.profile import read_profile

    trust = federation.load_trust(root)
    answer = read_profile(profile)
    words = passphrase_of(keys.sealing_key_of(home / IDENTITY, answer), passphrase_file)
    who = keys.install(home / IDENTITY, answer, trust, passphrase=words)
    facts = {"site": who.site, "federation": trust.name}
    if coordinator is not None and certificate is not None:
        from client import service

        admission = service.connect(load(home, passphrase=words), coordinator, certificate)
        facts |= {"coordinator": coordinator, "hand over": str(admission)}
    report(facts, as_json)


@app.command()
def crl(
    home: Home,
    revoked: Annotated[
        Path, typer.Argument(metavar="LIST", help="The federation's new federation.crl.")
    ],
    as_json: Json = False,
) -> None:
    """Take in the federation's revocation list; an older one than is known is refused.

    Example: organ-site crl ~/clinic federation.crl
    """
    from client import member
    from client.home import read_home
    from not_core.trust.keyfile import read_public
    from not_core.trust.revocation import LIST_LIMIT

    site = read_home(home)
    found = member.take_in(site, read_public(revoked, "revocation list", LIST_LIMIT))
    report(
        {
            "revocation_list": found.number,
            "revoked": len(found.revoked),
            "revocation_list_due": found.due_words,
        },
        as_json,
    )


@app.command()
def status(home: Home, as_json: Json = False) -> None:
    """Say who this site is, what it is doing, what it has spent, and what waits for approval.

    Example: organ-site status ~/clinic
    """
    from client import donor, progress
    from client.home import IDENTITY, read_home
    from not_core.trust.keys import PROFILE

    site = read_home(home)
    doing = progress.read(home)
    waiting = [manifest.digest for manifest in donor.pending(site)]
    report(
        {
            "site": site.settings.site,
            "admitted": (home / IDENTITY / PROFILE).is_file(),
            "policy": asdict(site.policy),
            "privacy": _spent(site) or "none",
            "doing": f"{doing.step}, {doing.done} of {doing.total} tokens" if doing else "nothing",
            "pending": waiting,
        },
        as_json,
    )


@app.command()
def pending(home: Home, as_json: Json = False) -> None:
    """List trained organs that wait for the operator's word.

    Example: organ-site pending ~/clinic
    """
    from client import donor
    from client.home import read_home

    site = read_home(home)
    waiting, spent = donor.pending(site), _spent(site)
    listing(
        [
            {
                "organ": manifest.digest,
                "id": manifest.organ_id,
                "domain": manifest.domain,
                "span": str(manifest.span),
                "privacy": manifest.privacy.words,
                **spent,
                "tokens": manifest.training.tokens if manifest.training else 0,
                "learning_rate": manifest.training.learning_rate if manifest.training else 0.0,
            }
            for manifest in waiting
        ],
        as_json,
    )


@app.command()
def approve(home: Home, organ: Digest, as_json: Json = False) -> None:
    """Let an organ leave: from now on it may be offered to whom an exchange names.

    One that was rejected, too: the last word counts, for every later exchange.

    Example: organ-site approve ~/clinic 3f9a02
    """
    _decide(home, organ, "approved", as_json)


@app.command()
def reject(home: Home, organ: Digest, as_json: Json = False) -> None:
    """Keep an organ here; one that was approved is not offered or handed out any more.

    What has left has left: whom it was offered to before keeps it, and so does the coordinator,
    sealed. 'organ-site approve' lets it go again, 'organ-site forget --organ' removes it.

    Example: organ-site reject ~/clinic 3f9a02
    """
    _decide(home, organ, "rejected", as_json)


@app.command()
def offer(
    home: Home,
    organ: Digest,
    to: To,
    out: SealedOut,
    exchange: Exchange = BY_HAND,
    days: Lifetime = 30,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Seal an approved organ into a file, for sites that no network reaches.

    Example: organ-site offer ~/clinic 3f9a02 --to lab.profile --out x.organ
    """
    new_place(out)
    from client import by_hand, donor
    from not_core.trust.profile import read_profile

    site = unlocked(home, passphrase_file)
    whole = keeping.only(donor.made_organs(home), organ, f"organs of {home}")
    addressees = [read_profile(path) for path in to]
    signed = by_hand.offer(site, whole, addressees, exchange, days, out)
    names = [one.site for one in addressees]
    report({"sealed": str(out), "organ": signed.offer.organ_digest, "addressees": names}, as_json)


@app.command()
def receive(
    home: Home,
    sealed: Annotated[Path, typer.Argument(help="Sealed .organ file that somebody brought.")],
    mode: Annotated[Mode, typer.Option(help="How it is put into the model.")] = "replace",
    receipt: Annotated[
        Path | None, typer.Option(help="File for the signed receipt, to carry back.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Verify, open, try and judge an organ as if the coordinator had delivered it.

    Example: organ-site receive ~/lab x.organ --receipt receipt.json
    """
    from client import by_hand
    from not_core import atomic, canonical

    found, envelope = by_hand.receive(unlocked(home, passphrase_file), sealed, mode)
    if receipt is not None:
        atomic.write(receipt, envelope)
    report(canonical.plain(canonical.encode(found), "receipt"), as_json)


@app.command()
def ledger(home: Home, delta: Delta = None, epsilon: Epsilon = None, as_json: Json = False) -> None:
    """Check the privacy ledger against the log and print what was charged to the records.

    What is left is by the policy's epsilon and delta, unless others are given.

    Example: organ-site ledger ~/clinic
    """
    from client.home import read_home

    site = read_home(home)
    policy = site.policy
    delta = policy.delta if delta is None and policy.bound else delta
    epsilon = policy.epsilon if epsilon is None else epsilon
    show(site.ledger, delta, epsilon, as_json)


@app.command()
def reveals(home: Home, as_json: Json = False) -> None:
    """List all that ever leaves this site, field by field, and how it is rounded.

    Example: organ-site reveals ~/clinic
    """
    from client import reveals as fields
    from client.home import policy_of

    policy = policy_of(home)
    rows = [asdict(one) for one in fields.listed(policy)]
    listing([{name: row[name] for name in row if name != "now"} for row in rows], as_json)


@app.command()
def page(
    home: Home,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port, on loopback.")] = 8765,
) -> None:
    """Serve this site's page to a browser on this machine, until interrupted.

    Whoever has the address that is printed can approve organs: it holds a secret.

    Example: organ-site page ~/clinic
    """
    from client.page.app import main as serve

    with goes_on("the site goes on without its page"):
        serve(home, port, say)


keeping.add_to(app)
serving.add_to(app)
app.add_typer(log.app, name="log")


def _spent(site: "homes.Home") -> dict[str, float]:
    """What all organs together have spent and what is left; nothing without a bound."""
    bound, spent = site.policy.bound, site.spent
    if bound is None or spent is None:
        return {}
    return {"epsilon spent": spent, "epsilon left": max(0.0, bound.epsilon - spent)}


def _decide(home: Path, organ: str, event: Literal["approved", "rejected"], as_json: bool) -> None:
    from client import donor, inventory
    from client.home import read_home

    site = read_home(home)
    made = {one.organ: one for one in inventory.grown(site)}
    digest = keeping.only(made, organ, f"organs that {home} made")
    donor.decide(site, digest, event)
    said: dict[str, object] = {event: digest, "id": made[digest].id}
    if event == "rejected" and made[digest].exchanges:
        said["what was offered before has left"] = made[digest].exchanges
    report(said, as_json)


def main() -> None:
    """Entry point of ``organ-site``."""
    run(app)
