"""``organ sign``, ``verify``, ``seal``, ``rewrap`` and ``open``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from not_core.commands.passphrase import PassphraseFile, identity_passphrase
from not_core.commands.program import Json, new_place, progress, report

if TYPE_CHECKING:
    from not_core.trust.keys import Identity
    from not_core.verbs.folders import SealedFile

IdentityDir = Annotated[Path, typer.Option(help="Identity folder, made by `organ identity`.")]
Trust = Annotated[
    Path,
    typer.Option(help="The federation's root.pem, federation.crl beside it; or a folder of both."),
]
To = Annotated[list[Path], typer.Option(help="Addressee's .profile; repeat for several.")]
SealedOut = Annotated[Path, typer.Option(help="Sealed file to write, such as x.organ.")]
Exchange = Annotated[str, typer.Option(help="Name of the exchange it is for.")]
Lifetime = Annotated[int, typer.Option(min=1, max=3650, help="Days that the offer holds.")]
Hide = Annotated[
    bool,
    typer.Option("--hide", help="Keep from all others who the addressees are, and how many."),
]
BY_HAND = "by-hand"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(sign)
    app.command()(verify)
    app.command()(seal)
    app.command()(rewrap)
    app.command("open")(open_)


def sign(
    organ: Annotated[Path, typer.Argument(help="Organ folder.")],
    identity: IdentityDir,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Claim an organ and sign its folder (OpenSSF model signing).

    Example: organ sign organ/ --identity keys/
    """
    from not_core.verbs import trust

    who = _load(identity, passphrase_file)
    made = trust.sign(organ, who)
    report({"organ": str(organ), "digest": made.manifest.digest, "signer": who.site}, as_json)


def verify(
    organ: Annotated[Path, typer.Argument(help="Signed organ folder or sealed .organ file.")],
    trust: Trust,
    base: Annotated[
        str | None,
        typer.Option(help="Model to hold its tensors against: how far they are from the base's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify who signed an organ, that nothing was changed since, and that its epsilon adds up.

    A sealed organ is not opened: what it states of privacy is inside. Of an identity's own folder,
    it believes what that site had verified before a certificate expired.

    Example: organ verify opened/ --trust root.pem
    """
    from not_core.verbs import trust as trusts
    from not_core.verbs.folders import SealedFile

    if base and organ.is_file():
        raise typer.BadParameter("--base is for an organ folder: open the sealed organ first")
    found = trusts.verify(organ, trust, base=base)
    if isinstance(found, SealedFile):
        facts = {"digest": found.offer.organ_digest, "signer": found.offer.donor}
        report({"sealed": str(organ), **facts}, as_json)
    else:
        report(found.facts(), as_json)


def seal(
    organ: Annotated[Path, typer.Argument(help="Organ folder; signed first if it is not yet.")],
    identity: IdentityDir,
    to: To,
    out: SealedOut,
    exchange: Exchange = BY_HAND,
    days: Lifetime = 30,
    hide: Hide = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Seal an organ so that only the addressees, and this site, can open it.

    Example: organ seal organ/ --identity keys/ --to clinic.profile --out x.organ
    """
    who = _sealer(out, identity, passphrase_file, exchange)
    from not_core.verbs import trust

    size = sum(path.stat().st_size for path in organ.iterdir() if path.is_file())
    with progress("sealing", size, "bytes") as bar:
        made = trust.seal(organ, who, to, out, exchange=exchange, days=days, hide=hide, advance=bar)
    _report_sealed(made, as_json)


def rewrap(
    sealed: Annotated[Path, typer.Argument(help="Sealed .organ file that this site made.")],
    identity: IdentityDir,
    to: To,
    out: SealedOut,
    exchange: Exchange = BY_HAND,
    days: Lifetime = 30,
    hide: Hide = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Offer what is sealed to others, or for longer: a new offer, the same encrypted body.

    Example: organ rewrap x.organ --identity keys/ --to other.profile --out y.organ
    """
    who = _sealer(out, identity, passphrase_file, exchange)
    from not_core.verbs import trust

    made = trust.rewrap(sealed, who, to, out, exchange=exchange, days=days, hide=hide)
    _report_sealed(made, as_json)


def open_(
    sealed: Annotated[Path, typer.Argument(help="Sealed .organ file.")],
    identity: IdentityDir,
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist yet.")],
    exchange: Annotated[
        str | None, typer.Option(help="Exchange that it must be for; default: any.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Verify a sealed organ that is addressed to this identity, and open it into a new folder.

    Example: organ open x.organ --identity keys/ --out opened/
    """
    new_place(out)
    from not_core.verbs import trust

    who = _load(identity, passphrase_file)
    with progress("opening", sealed.stat().st_size, "bytes") as bar:
        opened = trust.open(sealed, who, out, exchange=exchange, advance=bar)
    report(
        {
            "opened": str(opened.path),
            "organ": opened.manifest.digest,
            "id": opened.manifest.organ_id,
            "version": opened.manifest.version,
            "donor": opened.manifest.donor,
        },
        as_json,
    )


def _load(folder: Path, passphrase_file: Path | None) -> "Identity":
    from not_core.verbs import trust

    return trust.load_identity(folder, identity_passphrase(folder, passphrase_file))


def _sealer(out: Path, identity: Path, passphrase_file: Path | None, exchange: str) -> "Identity":
    """Who seals; the place and the exchange's name are checked before a passphrase is asked for."""
    from not_core.errors import FormatError
    from not_core.trust.certificates import check_name

    new_place(out)
    try:
        check_name(exchange, "exchange name")
    except FormatError as error:
        raise typer.BadParameter(str(error)) from None
    return _load(identity, passphrase_file)


def _report_sealed(made: "SealedFile", as_json: bool) -> None:
    report(
        {
            "sealed": str(made.path),
            "organ": made.offer.organ_digest,
            "addressees": list(made.sites),
            "hidden": made.offer.hidden is not None,
            "bytes": made.path.stat().st_size,
        },
        as_json,
    )
