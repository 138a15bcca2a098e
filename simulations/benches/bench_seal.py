"""Speed and memory of sealing a large organ, beside the parts that it is made of, and age.

Every measurement runs in a process of its own, contestants take turns, and ratios are of the same
round. The organ's weights are random bytes: sealing does not look into them. Files are in the page
cache when they are read, and are not waited for when they are written.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from not_core import atomic, canonical
from not_core.errors import ExchangeError
from not_core.manifest import CARD, MANIFEST, TENSORS, BaseFacts, Manifest, NoPrivacy, Span
from simulations.benches.bench import check_room, spread
from simulations.machine import peak_bytes, system
from simulations.tables import table

PIECE = 1024 * 1024
BOUND_MB = 200
"""What sealing, opening and verifying may take of memory, in 10^6 bytes, imports among it."""
REFERENCE = "aes_gcm"
"""Whose processor seconds all others' are divided by: other work on the machine adds to none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One measurement: seconds by the clock and of a processor, peak memory before and after."""

    seconds: float
    cpu_seconds: float
    idle_mb: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Place:
    """The files of a run: two identities, a signed organ, the same sealed in three ways."""

    folder: Path

    @property
    def organ(self) -> Path:
        """The signed organ folder."""
        return self.folder / "organ"

    @property
    def weights(self) -> Path:
        """Its large file."""
        return self.organ / TENSORS

    @property
    def sealed(self) -> Path:
        """The organ sealed by this package."""
        return self.folder / "sealed.organ"

    @property
    def age(self) -> Path:
        """The large file encrypted by pyrage."""
        return self.folder / "weights.age"

    @property
    def gcm(self) -> Path:
        """The large file under AES-256-GCM."""
        return self.folder / "weights.gcm"

    @property
    def made(self) -> Path:
        """Where a measurement writes; removed after it."""
        return self.folder / "made"

    @property
    def identity(self) -> Path:
        """For pyrage: a private key of age."""
        return self.folder / "age.key"


def prepare(place: Place, size: int) -> None:
    """Found a federation of two, and make and sign an organ of ``size`` bytes."""
    from not_core.trust import authority, keys, signing
    from not_core.trust.federation import load_trust

    authority.create_root(place.folder / "federation", "bench")
    trust = load_trust(place.folder / "federation")
    for name in ("donor", "reader"):
        request = keys.create(place.folder / name, name)
        keys.install(
            place.folder / name, authority.admit(place.folder / "federation", request), trust
        )
    base = BaseFacts(
        family="llama",
        architecture="LlamaForCausalLM",
        layers=4,
        config={},
        layer_config={},
        weights="0" * 64,
        tokenizer=None,
    )
    facts = Manifest(
        name="bench",
        version=1,
        domain="noise",
        licence="Apache-2.0",
        donor="donor",
        base=base,
        span=Span(start=0, stop=3),
        tensors=(),
        training=None,
        privacy=NoPrivacy(),
    )
    place.organ.mkdir()
    rng = random.Random(0)  # noqa: S311 - noise, not keys
    with place.weights.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(rng.randbytes(min(PIECE, size - start)))
    (place.organ / MANIFEST).write_bytes(canonical.encode(facts))
    (place.organ / CARD).write_text("# Noise\n", encoding="utf-8")
    signing.sign_folder(place.organ, keys.load(place.folder / "donor"))


def seal(place: Place) -> None:
    """Verify the signed folder, encrypt it, sign the offer, write the ``.organ`` file."""
    from not_core.trust import keys, sealing

    terms = sealing.Audience(
        addressees=[keys.read_profile(place.folder / "reader" / keys.PROFILE)], exchange="bench"
    )
    sealing.seal(place.organ, keys.load(place.folder / "donor"), terms, place.made)


def open_sealed(place: Place) -> None:
    """Verify the file, decrypt it into a folder, verify the folder."""
    from not_core.trust import keys, sealing

    sealing.open_sealed(place.sealed, keys.load(place.folder / "reader"), place.made)


def verify_sealed(place: Place) -> None:
    """Verify the file as the coordinator does, without a private key."""
    from not_core.trust import sealing
    from not_core.trust.federation import load_trust

    sealing.verify_sealed(place.sealed, load_trust(place.folder / "federation"))


def copy(place: Place) -> None:
    """Read and write the weights in pieces, no more."""
    with place.weights.open("rb") as source, place.made.open("wb") as target:
        shutil.copyfileobj(source, target, PIECE)


def sha256(place: Place) -> None:
    """Read and hash the weights."""
    canonical.sha256_file(place.weights)


def aes_gcm(place: Place) -> None:
    """Read the weights, encrypt them as one message under AES-256-GCM, write them."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(bytes(32)), modes.GCM(bytes(12))).encryptor()
    buffer = bytearray(PIECE)
    with place.weights.open("rb") as source, place.made.open("wb") as target:
        while data := source.read(PIECE):
            count = encryptor.update_into(data, buffer)
            target.write(memoryview(buffer)[:count])
        target.write(encryptor.finalize() + encryptor.tag)


def aes_gcm_open(place: Place) -> None:
    """The other way round; the plaintext is believed only at the end."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    left = place.gcm.stat().st_size - 16
    with place.gcm.open("rb") as source, place.made.open("wb") as target:
        source.seek(left)
        tag = source.read()
        source.seek(0)
        decryptor = Cipher(algorithms.AES(bytes(32)), modes.GCM(bytes(12), tag)).decryptor()
        buffer = bytearray(PIECE)
        while left:
            data = source.read(min(PIECE, left))
            left -= len(data)
            count = decryptor.update_into(data, buffer)
            target.write(memoryview(buffer)[:count])
        decryptor.finalize()


def aes_gcm_in_memory(place: Place) -> None:
    """AES-256-GCM of as many bytes, 16 KiB a message, no file: what ``openssl speed`` measures."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce, data = AESGCM(bytes(32)), bytes(12), bytes(16 * 1024)
    out = bytearray(len(data) + 16)
    for _ in range(place.weights.stat().st_size // len(data)):
        cipher.encrypt_into(nonce, data, None, out)


def cobblestone_in_memory(place: Place) -> None:
    """The body's encryption of as many bytes, no file."""
    from cryptography.cobblestone import Cobblestone256Encryptor

    encryptor = Cobblestone256Encryptor(Cobblestone256Encryptor.generate_key(), bytes(32))
    data = bytes(PIECE)
    for _ in range(place.weights.stat().st_size // PIECE):
        encryptor.update(data)
    encryptor.finalize()


def pyrage(place: Place) -> None:
    """Encrypt the weights to one X25519 recipient, as age does; nothing is signed."""
    import pyrage

    recipient = pyrage.x25519.Identity.from_str(place.identity.read_text("ascii")).to_public()
    pyrage.encrypt_file(str(place.weights), str(place.made), [recipient])


def pyrage_open(place: Place) -> None:
    """And decrypt them."""
    import pyrage

    key = pyrage.x25519.Identity.from_str(place.identity.read_text("ascii"))
    pyrage.decrypt_file(str(place.age), str(place.made), [key])


WORK: dict[str, tuple[Callable[[Place], None], str]] = {
    "seal": (seal, "organ: seal"),
    "open_sealed": (open_sealed, "organ: open"),
    "verify_sealed": (verify_sealed, "organ: verify without a key"),
    "aes_gcm": (aes_gcm, "AES-256-GCM, file to file"),
    "aes_gcm_open": (aes_gcm_open, "AES-256-GCM, back"),
    "aes_gcm_in_memory": (aes_gcm_in_memory, "AES-256-GCM in memory, 16 KiB"),
    "cobblestone_in_memory": (cobblestone_in_memory, "Cobblestone-256 in memory"),
    "sha256": (sha256, "SHA-256 of the file"),
    "copy": (copy, "copy of the file"),
    "pyrage": (pyrage, "pyrage: encrypt, unsigned"),
    "pyrage_open": (pyrage_open, "pyrage: decrypt"),
}
"""What is measured, by name, and how a person calls it."""
BOUND = frozenset({"seal", "open_sealed", "verify_sealed"})
KEPT = {"seal": "sealed", "aes_gcm": "gcm", "pyrage": "age"}
"""What of the first round is kept for those that read it."""


def measure(out: Path, size: int, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all, in turns; write ``bench-seal.json`` and ``bench-seal.md``.

    Args:
        out: Folder for the results and, meanwhile, six times ``size`` of files.
        size: Bytes of the organ's weights.
        runs: Measurements of each contestant.
        say: Told what is being done.

    Returns:
        Each contestant's figures.

    Raises:
        ExchangeError: Too little space, a measurement failed, or sealing, opening or verifying
            took more memory than ``BOUND_MB``.
    """
    out.mkdir(parents=True, exist_ok=True)
    check_room(out, 6 * size, "--bytes")
    there = [name for name in WORK if not name.startswith("pyrage") or find_spec("pyrage")]
    if "pyrage" not in there:
        say("pyrage is not installed (the comparison extra holds it): left out")
    place = Place(out / "files")
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir()
    try:
        say(f"making an organ of {size / 1e6:.0f} MB")
        prepare(place, size)
        if "pyrage" in there:
            _age_identity(place)
        found: dict[str, list[Cost]] = {}
        result: dict[str, Any] = {}
        for number in range(runs):
            for name in there:
                say(f"run {number + 1} of {runs}: {name}")
                found.setdefault(name, []).append(_measure(name, place))
            result = _keep(out, size, found, [name for name in WORK if name not in there])
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)
    rows = result["rows"]
    over = [name for name in sorted(BOUND) if max(c.peak_mb for c in found[name]) > BOUND_MB]
    if over:
        raise ExchangeError(f"{', '.join(over)} took more than {BOUND_MB} MB; see bench-seal.md")
    return {row["work"]: f"{row['mb_a_second']} MB/s, peak {row['peak_mb']} MB" for row in rows}


def _keep(out: Path, size: int, found: dict[str, list[Cost]], absent: list[str]) -> dict[str, Any]:
    """Write what has been measured so far."""
    result = {
        "bytes": size,
        "machine": system(),
        "absent": absent,
        "rows": summary(found, size),
        "runs": {name: [asdict(cost) for cost in done] for name, done in found.items()},
    }
    atomic.write(out / "bench-seal.json", (json.dumps(result, indent=1) + "\n").encode())
    atomic.write(out / "bench-seal.md", markdown(result).encode())
    return result


def summary(found: dict[str, list[Cost]], size: int) -> list[dict[str, Any]]:
    """A row for each contestant; ratios are of the same round."""
    rows = []
    for name, done in found.items():
        ratios = [
            mine.cpu_seconds / other.cpu_seconds
            for mine, other in zip(done, found[REFERENCE], strict=True)
        ]
        rows.append(
            {
                "work": WORK[name][1],
                "mb_a_second": spread([size / 1e6 / cost.seconds for cost in done]),
                "mb_a_cpu_second": spread([size / 1e6 / cost.cpu_seconds for cost in done]),
                "x_aes_gcm": spread(ratios, 2),
                "peak_mb": spread([cost.peak_mb for cost in done]),
                "of_it_idle_mb": spread([cost.idle_mb for cost in done]),
            }
        )
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The results for people."""
    facts = ", ".join(
        f"{name}: {' '.join(value) if isinstance(value, list) else value}"
        for name, value in result["machine"].items()
    )
    names = {
        "work": "work",
        "mb_a_second": "MB/s",
        "mb_a_cpu_second": "MB a processor second",
        "x_aes_gcm": "x AES-256-GCM",
        "peak_mb": "peak MB",
        "of_it_idle_mb": "of it before the work",
    }
    rows = [[str(row[name]) for name in names] for row in result["rows"]]
    absent = f" Absent: {', '.join(result['absent'])}." if result["absent"] else ""
    return (
        "# Sealing\n\n"
        f"`make bench-seal`: {result['bytes'] / 1e9:g} GB of weights. Median (minimum to "
        "maximum); x: processor seconds over those of AES-256-GCM from file to file in the same "
        "round. Each in a process of its own, all after one another, files in the page cache, "
        "writes not waited for."
        f"{absent}\n\n{facts}.\n\n"
        + table(list(names.values()), rows)
        + "\nSealing reads the weights twice (to verify the folder, to encrypt) and the body "
        "once more, hashes twice, encrypts once, writes twice: the offer stands before the "
        "body and holds its digest. Opening reads the body twice and the weights once, hashes "
        "twice, decrypts once, writes once.\n"
    )


def _age_identity(place: Place) -> None:
    import pyrage

    place.identity.write_text(str(pyrage.x25519.Identity.generate()), encoding="ascii")


def _measure(name: str, place: Place) -> Cost:
    os.sync()
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", __name__, name, str(place.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ExchangeError(f"measurement {name} failed: {done.stderr.strip()[-300:]}")
    kept = getattr(place, KEPT[name]) if name in KEPT else None
    if kept is not None and not kept.exists():
        place.made.rename(kept)
    elif place.made.is_dir():
        shutil.rmtree(place.made)
    else:
        place.made.unlink(missing_ok=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _main(name: str, folder: str) -> None:
    import cryptography.cobblestone  # noqa: F401 - what importing costs is not the work's time

    import not_core.trust.sealing  # noqa: F401

    work, idle = WORK[name][0], peak_bytes()
    started, cpu_started = time.perf_counter(), time.process_time()
    work(Place(Path(folder)))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    cost = Cost(
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        idle_mb=round(idle / 1e6, 1),
        peak_mb=round(peak_bytes() / 1e6, 1),
    )
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
