"""``organ sign``, ``verify``, ``seal``, ``rewrap`` and ``open``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from not_core.commands.passphrase import PassphraseFile, identity_passphrase
from not_core.commands.program import Json, new_place, progress, report

if TYPE_CHECKING:
    from not_core.trust.keys import Identity
    from not_core.trust.offer import SignedOffer
    from not_core.trust.sealing import Audience

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
    from not_core.surgery.organ import claim
    from not_core.trust import signing

    who = _load(identity, passphrase_file)
    manifest = claim(organ, who.site)
    signing.sign_folder(organ, who)
    report({"organ": str(organ), "digest": manifest.digest, "signer": who.site}, as_json)


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
    from not_core.surgery.organ import read_stored
    from not_core.trust import federation, sealing, signing
    from not_core.trust.keys import SEEN
    from not_core.trust.seen import Seen

    if base and organ.is_file():
        raise typer.BadParameter("--base is for an organ folder: open the sealed organ first")
    believed = federation.load_trust(trust)
    if organ.is_file():
        offer = sealing.verify_sealed(organ, believed).offer
        report({"sealed": str(organ), "digest": offer.organ_digest, "signer": offer.donor}, as_json)
        return
    signer = signing.verify_folder(organ, believed, seen=Seen(trust / SEEN).first)
    manifest = read_stored(organ).manifest
    facts = {"organ": str(organ), "digest": manifest.digest, "signer": signer.site}
    far = _farthest(organ, base) if base else {}
    report({**facts, "privacy": manifest.privacy.words, **_recomputed(manifest), **far}, as_json)


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
    new_place(out)
    from not_core.surgery.organ import claim, read_stored
    from not_core.trust import sealing, signing

    who, audience = _audience(identity, passphrase_file, to, exchange, days, hide)
    read_stored(organ)
    claim(organ, who.site)
    if not (organ / signing.SIGNATURE).exists():
        signing.sign_folder(organ, who)
    size = sum(path.stat().st_size for path in organ.iterdir() if path.is_file())
    with progress("sealing", size, "bytes") as bar:
        signed = sealing.seal(organ, who, audience, out, advance=bar)
    _report_sealed(signed, audience, out, as_json)


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
    new_place(out)
    from not_core.trust import sealing

    who, audience = _audience(identity, passphrase_file, to, exchange, days, hide)
    _report_sealed(sealing.rewrap(sealed, who, audience, out), audience, out, as_json)


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
    from not_core.trust import sealing

    who = _load(identity, passphrase_file)
    with progress("opening", sealed.stat().st_size, "bytes") as bar:
        opened = sealing.open_sealed(sealed, who, out, exchange=exchange, advance=bar)
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
    from not_core.trust import keys

    return keys.load(folder, passphrase=identity_passphrase(folder, passphrase_file))


def _audience(
    identity: Path,
    passphrase_file: Path | None,
    to: list[Path],
    exchange: str,
    days: int,
    hide: bool,
) -> "tuple[Identity, Audience]":
    """Who seals, and for whom; all that can refuse does so before a folder is claimed or signed."""
    from not_core.errors import FormatError
    from not_core.trust import federation, profile, sealing
    from not_core.trust.certificates import DAY, check_name

    try:
        check_name(exchange, "exchange name")
    except FormatError as error:
        raise typer.BadParameter(str(error)) from None
    who = _load(identity, passphrase_file)
    addressees = [profile.read_profile(path) for path in to]
    for one in (who.profile, *addressees):
        federation.verify_profile(one, who.trust)
    return who, sealing.Audience(
        addressees=addressees, exchange=exchange, lifetime_seconds=days * DAY, hide=hide
    )


def _report_sealed(signed: "SignedOffer", audience: "Audience", out: Path, as_json: bool) -> None:
    report(
        {
            "sealed": str(out),
            "organ": signed.offer.organ_digest,
            "addressees": [one.site for one in audience.addressees],
            "hidden": signed.offer.hidden is not None,
            "bytes": out.stat().st_size,
        },
        as_json,
    )


def _farthest(organ: Path, base: str) -> dict[str, Any]:
    """How far an organ that passes quarantine is from its base, at most."""
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.quarantine import Bounds, admit, drifts

    host = open_checkpoint(base)
    found = [*drifts(admit(organ, host, Bounds()), host)]
    norm, peak = max(one.norm for one in found), max(one.peak for one in found)
    return {"drift": {"norm": round(norm, 4), "peak": round(peak, 4)}}


def _recomputed(manifest: Any) -> dict[str, Any]:
    """The epsilon that follows from a statement's other numbers, and what that is worth."""
    from not_core.manifest import PROVES, DifferentialPrivacy
    from not_core.privacy.statement import check

    if not isinstance(manifest.privacy, DifferentialPrivacy):
        return {}
    found = check(manifest.privacy)
    return {
        "epsilon": {"stated": manifest.privacy.epsilon, "pld": found.pld, "prv": found.prv},
        "note": PROVES,
    }
