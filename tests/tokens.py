"""A software token with keys, where one is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
MODULE = next((path for path in MODULES if Path(path).exists()), None)
soft_token = pytest.mark.skipif(
    MODULE is None or shutil.which("softhsm2-util") is None,
    reason="no software token: install softhsm2",
)


def make(place: Path) -> str:
    """The URI of a P-384 key ``clinic`` on a new token that has a P-256 key ``small``, too.

    The token's library reads ``SOFTHSM2_CONF`` once a process, so a process has one token.
    """
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    (place / "tokens").mkdir()
    (place / "conf").write_text(f"directories.tokendir = {place / 'tokens'}\nlog.level = ERROR\n")
    (place / "pin").write_text("1234\n")
    (place / "pin").chmod(0o600)
    os.environ["SOFTHSM2_CONF"] = str(place / "conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "organ"]
    command += ["--pin", "1234", "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    library = pkcs11.lib(MODULE)
    with library.get_token(token_label="organ").open(user_pin="1234", rw=True) as session:
        for label, curve in (("clinic", "secp384r1"), ("small", "secp256r1")):
            session.create_domain_parameters(
                pkcs11.KeyType.EC,
                {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)},
                local=True,
            ).generate_keypair(store=True, label=label)
    query = f"module-path={MODULE}&pin-source={place / 'pin'}"
    return f"pkcs11:token=organ;object=clinic?{query}"
