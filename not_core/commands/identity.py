"""``organ federation`` and ``organ identity``: who is admitted, and with which keys."""

from pathlib import Path
from typing import Annotated

import typer

from not_core.commands.program import Json, new_app, report

federation_app = new_app(
    "Found a federation and admit sites to it. Run this on a machine apart from the "
    "coordinator: who holds root.key decides who is a site.",
)
identity_app = new_app(
    "A site's keys: make them, have them admitted, look at them. Private keys never leave "
    "the folder that 'init' makes.",
)

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File, mode 0600, whose first line encrypts or opens root.key."),
]


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from not_core.errors import KeyFileError
    from not_core.trust.keyfile import read_secret

    first = read_secret(path, "passphrase file").split(b"\n", 1)[0].rstrip(b"\r")
    if not first:
        raise KeyFileError(f"passphrase file {path} starts with an empty line; put it there")
    return first


@federation_app.command("init")
def federation_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
    name: Annotated[str, typer.Option(help="The federation's name, one line.")],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Found a federation: make root.key (secret) and root.pem (for everyone), for ten years.

    Example: organ federation init federation/ --name "hospitals of the north"
    """
    from not_core.trust import federation

    federation.create_root(folder, name, passphrase=_passphrase(passphrase_file))
    root = federation.load_root(folder)
    report(
        {
            "federation": root.name,
            "folder": str(folder),
            "root fingerprint": root.fingerprint,
            "next": "give root.pem to every site; compare the fingerprint by telephone",
        },
        as_json,
    )


@federation_app.command("admit")
def federation_admit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")],
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The site's request.json.")],
    out: Annotated[Path, typer.Option(help="Profile to write, such as clinic.profile.")],
    passphrase_file: PassphraseFile = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")] = 365,
    as_json: Json = False,
) -> None:
    """Admit a site: sign its name, signing key and sealing key into a profile.

    Compare the fingerprint that this prints with the one the site's own 'organ identity show'
    prints, by telephone, before you hand the profile out.

    Example: organ federation admit federation/ request.json --out clinic.profile
    """
    from not_core import atomic
    from not_core.trust import federation
    from not_core.trust.profile import read_request, write_profile

    atomic.refuse_existing(out)
    profile = federation.admit(
        folder, read_request(request), passphrase=_passphrase(passphrase_file), days=days
    )
    write_profile(profile, out)
    report(
        {
            "admitted": profile.site,
            "days": days,
            "profile": str(out),
            "sealing fingerprint": profile.sealing_fingerprint,
        },
        as_json,
    )


@identity_app.command("init")
def identity_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the keys.")],
    site: Annotated[str, typer.Option(help="This site's name: a-z, 0-9 and inner hyphens.")],
    as_json: Json = False,
) -> None:
    """Make a site's signing key and sealing key, and a request for admission.

    Send DIR/request.json, and nothing else of the folder, to the federation.

    Example: organ identity init keys/ --site clinic
    """
    from not_core.trust import keys

    request = keys.create(folder, site)
    report(
        {
            "site": request.site,
            "folder": str(folder),
            "sealing fingerprint": request.sealing_fingerprint,
            "next": f"send {folder / keys.REQUEST} to the federation",
        },
        as_json,
    )


@identity_app.command("install")
def identity_install(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="This site's keys.")],
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="The federation's answer.")],
    root: Annotated[Path, typer.Option(help="The federation's root.pem.")],
    as_json: Json = False,
) -> None:
    """Install the profile that the federation issued; also to renew it.

    Example: organ identity install keys/ clinic.profile --root root.pem
    """
    from not_core.trust import federation, keys
    from not_core.trust.profile import read_profile

    trusted = federation.load_root(root)
    identity = keys.install(folder, read_profile(profile), trusted)
    report(
        {
            "site": identity.site,
            "federation": trusted.name,
            "root fingerprint": trusted.fingerprint,
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
    report(facts, as_json)
