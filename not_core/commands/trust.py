"""``organ sign``, ``verify``, ``seal`` and ``open``."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from not_core.commands.program import Json, new_place, report

IdentityDir = Annotated[Path, typer.Option(help="Identity folder, made by `organ identity`.")]
Trust = Annotated[Path, typer.Option(help="The federation's root.pem.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(sign)
    app.command()(verify)
    app.command()(seal)
    app.command("open")(open_)


def sign(
    organ: Annotated[Path, typer.Argument(help="Organ folder.")],
    identity: IdentityDir,
    as_json: Json = False,
) -> None:
    """Claim an organ and sign its folder (OpenSSF model signing).

    Example: organ sign organ/ --identity keys/
    """
    from not_core.surgery.organ import claim
    from not_core.trust import keys, signing

    who = keys.load(identity)
    manifest = claim(organ, who.site)
    signing.sign_folder(organ, who)
    report({"organ": str(organ), "digest": manifest.digest, "signer": who.site}, as_json)


def verify(
    organ: Annotated[Path, typer.Argument(help="Signed organ folder or sealed .organ file.")],
    trust: Trust,
    as_json: Json = False,
) -> None:
    """Verify who signed an organ, that nothing was changed since, and that its epsilon adds up.

    A sealed organ is not opened: what it states of privacy is inside.

    Example: organ verify opened/ --trust root.pem
    """
    from not_core.surgery.organ import read_stored
    from not_core.trust import federation, sealing, signing

    root = federation.load_root(trust)
    if organ.is_file():
        offer = sealing.verify_sealed(organ, root).offer
        report({"sealed": str(organ), "digest": offer.organ_digest, "signer": offer.donor}, as_json)
        return
    signer = signing.verify_folder(organ, root)
    manifest = read_stored(organ).manifest
    facts = {"organ": str(organ), "digest": manifest.digest, "signer": signer.site}
    report({**facts, "privacy": manifest.privacy.words, **_recomputed(manifest)}, as_json)


def seal(
    organ: Annotated[Path, typer.Argument(help="Organ folder; signed first if it is not yet.")],
    identity: IdentityDir,
    to: Annotated[list[Path], typer.Option(help="Addressee's .profile; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Sealed file to write, such as x.organ.")],
    exchange: Annotated[str, typer.Option(help="Name of the exchange it is for.")] = "by-hand",
    as_json: Json = False,
) -> None:
    """Seal an organ so that only the addressees can open it.

    Example: organ seal organ/ --identity keys/ --to clinic.profile --out x.organ
    """
    new_place(out)
    from not_core.surgery.organ import claim, read_stored
    from not_core.trust import federation, keys, profile, sealing, signing

    who = keys.load(identity)
    addressees = [profile.read_profile(path) for path in to]
    # All that can refuse does so before the folder is claimed and signed.
    for one in (who.profile, *addressees):
        federation.verify_profile(one, who.root)
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", exchange):
        raise typer.BadParameter(f"exchange is named by a-z, 0-9 and hyphens, got {exchange}")
    read_stored(organ)
    claim(organ, who.site)
    if not (organ / signing.SIGNATURE).exists():
        signing.sign_folder(organ, who)
    signed = sealing.seal(organ, who, addressees, out, root=who.root, exchange=exchange)
    report(
        {
            "sealed": str(out),
            "organ": signed.offer.organ_digest,
            "addressees": [one.site for one in addressees],
            "bytes": out.stat().st_size,
        },
        as_json,
    )


def open_(
    sealed: Annotated[Path, typer.Argument(help="Sealed .organ file.")],
    identity: IdentityDir,
    trust: Trust,
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist yet.")],
    as_json: Json = False,
) -> None:
    """Verify a sealed organ that is addressed to this identity, and open it into a new folder.

    Example: organ open x.organ --identity keys/ --trust root.pem --out opened/
    """
    new_place(out)
    from not_core.trust import federation, keys, sealing

    who = keys.load(identity)
    opened = sealing.open_sealed(sealed, who, federation.load_root(trust), out)
    report(
        {
            "opened": str(opened.path),
            "organ": opened.manifest.digest,
            "id": opened.manifest.organ_id,
            "donor": opened.manifest.donor,
        },
        as_json,
    )


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
