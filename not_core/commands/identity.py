"""``organ federation`` and ``organ identity``: who is admitted, and with which keys."""

from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from not_core.commands.passphrase import (
    PassphraseFile,
    SigningKey,
    Unprotected,
    new_passphrase,
    passphrase_of,
)
from not_core.commands.program import Json, listing, new_app, report
from not_core.trust.revocation import REASONS

if TYPE_CHECKING:
    from not_core.trust.register import Issued

federation_app = new_app(
    "Found a federation and admit sites to it. Run this on a machine apart from the "
    "coordinator: who holds root.key decides who is a site.",
)
identity_app = new_app(
    "A site's keys: make them, have them admitted, look at them. Private keys never leave "
    "the folder that 'init' makes.",
)

Reason = Enum("Reason", {word: word for word in REASONS})  # type: ignore[misc]  # typer's way
Federation = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
Days = Annotated[int, typer.Option(min=1, max=365, help="Until the next list must be there.")]


@federation_app.command("init")
def federation_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
    name: Annotated[str, typer.Option(help="The federation's name, one line.")],
    passphrase_file: PassphraseFile = None,
    unprotected: Unprotected = False,
    as_json: Json = False,
) -> None:
    """Found a federation, for ten years: root.key is secret, all else is for everyone.

    Example: organ federation init federation/ --name "hospitals of the north"
    """
    from not_core.trust import authority, federation

    words = new_passphrase(passphrase_file, unprotected)
    authority.create_root(folder, name, passphrase=words)
    trust = federation.load_trust(folder)
    report(
        {
            "federation": trust.name,
            "folder": str(folder),
            "root_fingerprint": trust.fingerprint,
            "revocation_list_due": trust.revoked.due_words,
            "next": "give root.pem and federation.crl to every site and to the coordinator; "
            "compare the fingerprint by telephone",
        },
        as_json,
    )


@federation_app.command("admit")
def federation_admit(
    folder: Federation,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The site's request.json.")],
    out: Annotated[Path, typer.Option(help="Profile to write, such as clinic.profile.")],
    passphrase_file: PassphraseFile = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")] = 365,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Although it has, or had, a certificate: to renew, or new keys."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Admit a site: sign its name, signing key and sealing key into a profile.

    Compare the request fingerprint that this prints with the one that the site's own 'organ
    identity show' prints, by telephone, before you hand the profile out: it covers both keys.

    Example: organ federation admit federation/ request.json --out clinic.profile
    """
    from not_core import atomic
    from not_core.trust import authority
    from not_core.trust.profile import read_request, write_profile

    atomic.refuse_existing(out)
    words = passphrase_of(folder / authority.ROOT_KEY, passphrase_file)
    asked = read_request(request)
    profile = authority.admit(folder, asked, passphrase=words, days=days, again=again)
    write_profile(profile, out)
    report(
        {
            "admitted": profile.site,
            "days": days,
            "profile": str(out),
            "request_fingerprint": asked.fingerprint,
            "sealing_fingerprint": profile.sealing_fingerprint,
        },
        as_json,
    )


@federation_app.command("revoke")
def federation_revoke(
    folder: Federation,
    site: Annotated[str, typer.Argument(help="Whose certificates.")],
    reason: Annotated[Reason, typer.Option(help="superseded: all but its newest certificate.")],
    passphrase_file: PassphraseFile = None,
    days: Days = 30,
    as_json: Json = False,
) -> None:
    """Revoke a site's certificates and write the new federation.crl.

    After key-compromise and privilege-withdrawn, nothing that the site's keys ever signed is
    believed, also under certificates that have expired or were revoked for less; nobody is admitted
    with a compromised key again.
    After the other reasons, a site still believes what it had verified before.

    Example: organ federation revoke federation/ clinic --reason key-compromise
    """
    from not_core.trust import authority

    words = passphrase_of(folder / authority.ROOT_KEY, passphrase_file)
    gone, made = authority.revoke(folder, site, reason.value, passphrase=words, days=days)
    report(
        {
            "revoked": [one.serial for one in gone],
            "revocation_list": made.number,
            "revocation_list_due": made.due_words,
            "next": "hand federation.crl to the coordinator and to every site",
        },
        as_json,
    )


@federation_app.command("crl")
def federation_crl(
    folder: Federation,
    passphrase_file: PassphraseFile = None,
    days: Days = 30,
    as_json: Json = False,
) -> None:
    """Write federation.crl anew; do it before the last one is due, whether or not one was revoked.

    Example: organ federation crl federation/ --days 30
    """
    from not_core.trust import authority

    words = passphrase_of(folder / authority.ROOT_KEY, passphrase_file)
    made = authority.publish(folder, passphrase=words, days=days)
    report(
        {
            "revocation_list": made.number,
            "revoked": len(made.revoked),
            "revocation_list_due": made.due_words,
            "next": "hand federation.crl to the coordinator and to every site",
        },
        as_json,
    )


@federation_app.command("show")
def federation_show(folder: Federation, as_json: Json = False) -> None:
    """List every certificate that was ever issued, and what became of it.

    Example: organ federation show federation/
    """
    import time

    from not_core.trust.register import read_register

    register, now = read_register(folder), int(time.time())
    listing([_row(one, now) for one in register.issued], as_json)


def _row(issued: "Issued", now: int) -> dict[str, str]:
    if issued.revoked is not None:
        state = f"revoked {_day(issued.revoked)} ({issued.reason})"
    else:
        state = "valid" if issued.expires >= now else "expired"
    return {
        "site": issued.site,
        "serial": issued.serial,
        "expires": _day(issued.expires),
        "state": state,
        "sealing_fingerprint": issued.profile.sealing_fingerprint,
    }


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


@identity_app.command("init")
def identity_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the keys.")],
    site: Annotated[str, typer.Option(help="This site's name: a-z, 0-9 and inner hyphens.")],
    passphrase_file: PassphraseFile = None,
    unprotected: Unprotected = False,
    signing_key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Make a site's signing key and sealing key, and a request for admission.

    Send DIR/request.json, and nothing else of the folder, to the federation.

    Example: organ identity init keys/ --site clinic
    """
    from not_core.trust import keys

    words = new_passphrase(passphrase_file, unprotected)
    request = keys.create(folder, site, passphrase=words, token=signing_key)
    report(
        {
            "site": request.site,
            "folder": str(folder),
            "request_fingerprint": request.fingerprint,
            "sealing_fingerprint": request.sealing_fingerprint,
            "next": f"send {folder / keys.REQUEST} to the federation",
        },
        as_json,
    )


@identity_app.command("rotate")
def identity_rotate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="This site's keys.")],
    passphrase_file: PassphraseFile = None,
    unprotected: Unprotected = False,
    signing_key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Make new keys and a request for them; the present keys serve until 'install'.

    The old keys are kept: they open what was addressed to them. The new ones get their passphrase.

    Example: organ identity rotate keys/
    """
    from not_core.trust import keys

    words = new_passphrase(passphrase_file, unprotected)
    request = keys.rotate(folder, passphrase=words, token=signing_key)
    report(
        {
            "site": request.site,
            "request_fingerprint": request.fingerprint,
            "sealing_fingerprint": request.sealing_fingerprint,
            "next": f"send {folder / keys.REQUEST} to the federation, which admits it --again",
        },
        as_json,
    )


@identity_app.command("passphrase")
def identity_passphrase(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="This site's keys.")],
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(help="As --passphrase-file, of the new passphrase.")
    ] = None,
    unprotected: Unprotected = False,
    as_json: Json = False,
) -> None:
    """Change the passphrase of all of a site's keys, present and retired, or take it away.

    Example: organ identity passphrase keys/ --new-passphrase-file secret
    """
    from not_core.trust import keys
    from not_core.trust.profile import read_request

    key = keys.sealing_key_of(folder, read_request(folder / keys.REQUEST))
    old = passphrase_of(key, passphrase_file)
    new = new_passphrase(new_passphrase_file, unprotected, "new passphrase")
    count = keys.change_passphrase(folder, old, new)
    report({"folder": str(folder), "generations of keys": count, "protected": bool(new)}, as_json)


@identity_app.command("install")
def identity_install(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="This site's keys.")],
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="The federation's answer.")],
    root: Annotated[
        Path, typer.Option(help="The federation's root.pem, with federation.crl beside it.")
    ],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Install the profile that the federation issued; also to renew it, or for new keys.

    Example: organ identity install keys/ clinic.profile --root root.pem
    """
    from not_core.trust import federation, keys
    from not_core.trust.profile import read_profile

    trust = federation.load_trust(root)
    answer = read_profile(profile)
    words = passphrase_of(keys.sealing_key_of(folder, answer), passphrase_file)
    identity = keys.install(folder, answer, trust, passphrase=words)
    report(
        {
            "site": identity.site,
            "federation": trust.name,
            "root_fingerprint": trust.fingerprint,
            "revocation_list": trust.revoked.number,
        },
        as_json,
    )


@identity_app.command("crl")
def identity_crl(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="This site's keys.")],
    revoked: Annotated[
        Path, typer.Argument(metavar="LIST", help="The federation's new federation.crl.")
    ],
    as_json: Json = False,
) -> None:
    """Take in the federation's revocation list; an older one than is known is refused.

    Example: organ identity crl keys/ federation.crl
    """
    from not_core.trust import federation, keys, revocation

    found = revocation.load(revoked, federation.load_trust(folder).root)
    keys.install_list(folder, found)
    report(
        {
            "revocation_list": found.number,
            "revoked": len(found.revoked),
            "revocation_list_due": found.due_words,
        },
        as_json,
    )


@identity_app.command("show")
def identity_show(
    place: Annotated[
        Path, typer.Argument(metavar="DIR|PROFILE", help="A site's keys, or anyone's profile.")
    ],
    as_json: Json = False,
) -> None:
    """Show whose keys these are and their fingerprints; reads no private key.

    Example: organ identity show clinic.profile --json
    """
    from not_core.trust.federation import describe_profile
    from not_core.trust.keys import PROFILE, REQUEST
    from not_core.trust.profile import read_profile, read_request

    facts: dict[str, str]
    if place.is_dir() and not (place / PROFILE).exists():
        request = read_request(place / REQUEST)
        facts = {
            "site": request.site,
            "sealing_fingerprint": request.sealing_fingerprint,
            "status": "requested; not admitted yet",
        }
    else:
        profile = read_profile(place / PROFILE if place.is_dir() else place)
        facts = describe_profile(profile)
    if (place / REQUEST).exists():
        facts["request_fingerprint"] = read_request(place / REQUEST).fingerprint
    report(facts, as_json)
