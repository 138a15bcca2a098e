"""Write the vectors: ``PYTHONPATH=tests python -m second.generate tests/vectors/v1``.

The same bytes come out every time; a released version's vectors are never written anew.
"""

import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519

from second.cases import cases
from second.primitives import canonical
from second.world import trusts, world

WARNING = (
    "The keys in this folder are TEST KEYS. They were made from fixed seeds, everybody has them,\n"
    "and they protect nothing: never admit, trust or seal to any of them.\n"
)


def main(out: Path) -> None:
    """Write all into a folder that is new or empty."""
    for path, data in files().items():
        place = out / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def files() -> dict[str, bytes]:
    """Every file of the vectors, by its path."""
    found = {"identities/TEST-KEYS.txt": WARNING.encode()}
    for case in cases():
        found[f"{case.name}.txt"] = case.lines.encode()
        if case.data is not None:
            found[f"{case.name}.organ"] = case.data
    for name, (root, listed) in trusts().items():
        found[f"trust/{name}/root.pem"] = root
        if listed is not None:
            found[f"trust/{name}/federation.crl"] = listed
    w = world()
    for one in (w.north, w.south, w.west, w.old):
        place = f"identities/{one.name}/keys/{one.sealing.fingerprint[:16]}"
        found[f"{place}/signing.key"] = private_pem(one.signing)
        found[f"{place}/sealing.key"] = private_pem(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(one.sealing.seed)
        ) + private_pem(x25519.X25519PrivateKey.from_private_bytes(one.sealing.scalar))
        found.setdefault(f"identities/{one.name}/site.profile", canonical(one.profile))
    return found


def private_pem(
    key: ec.EllipticCurvePrivateKey | mlkem.MLKEM768PrivateKey | x25519.X25519PrivateKey,
) -> bytes:
    """PKCS8, not encrypted: there is no secret in it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
