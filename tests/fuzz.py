"""Mutants of all that a hostile carrier or a dishonest but admitted donor can send to a site.

    python tests/fuzz.py --mutants 200000 --seed 1 --out docs/results/fuzz.md

Each mutant is one of a valid thing (``TARGETS``), edited by a generator that its number seeds. The
keys are made anew in each run, so a signature's bytes differ from run to run; the edits do not. A
mutant that is not treated as it must be is kept, with the reader's folder, under ``--keep``.

What must hold: only errors of ``not_core.errors``; after a refusal nothing is written, neither a
folder nor what the reader remembers; and what a reader accepts means what its donor signed:

- A carrier's mutant (``sealed file``, ``delivery header``, ``signed envelope``) may be accepted
  only if the offer and the files that come out are those of a file that the donor itself made.
- A donor's mutant, which it signs anew, is that donor's own statement and may be accepted, if
  ``agrees``, which shares no code with the package, finds that its parts bear each other out.
"""

import argparse
import base64
import copy
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from forger import (
    WAS,
    Json,
    Lab,
    agrees,
    lab,
    offered,
    payload_of,
    remembering,
    sealed_file,
    sha256,
    signed_folder,
    taken_apart,
    tar_of,
)
from mutators import (
    bytes_edited,
    canonical,
    envelope_twinned,
    json_edited,
    profile_twinned,
    tar_edited,
    text_edited,
    written,
)
from trust_world import DAY, NOW, manifest

from not_core import canonical as checked
from not_core.errors import NotError
from not_core.manifest import Manifest
from not_core.trust import federation, profile, revocation, sealing, signing
from not_core.trust.federation import verify_profile
from not_core.trust.offer import describe
from simulations.machine import peak_bytes
from simulations.tables import table

GROWTH = 400_000_000
"""Bytes that this process may take beyond what it had before the first mutant: its bound."""

ACCEPTED_SAME = "accepted: a donor's own, other certificate or other signature of the same"
ACCEPTED_DONOR = "accepted: as its donor signed it anew"
PARSED = "parsed: well-formed, believed by nobody"
SAME = "not a mutant: equal to a valid one"


class WrongError(Exception):
    """A mutant was treated in a way that it must not be."""


Mutant = Callable[[Lab, random.Random], tuple[bytes, str]]
"""Makes a mutant: its bytes, and the name of who reads it (see ``treat``)."""


def a_sealed_file(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    data = rng.choice(one.files)
    if rng.random() < 0.5:  # the header, where most of the checks are, is the smaller part
        header, body = data[: len(data) - 9000], data[len(data) - 9000 :]
        return bytes_edited(header, rng, rng.choice(one.files)) + body, "carrier"
    return bytes_edited(data, rng, rng.choice(one.files)), "carrier"


def a_delivery_header(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    header, body = taken_apart(rng.choice(one.files))
    others = list(one.headers)
    others.append(header | {"profile": one.renewed})
    header = json_edited(header, rng, others)
    if rng.random() < 0.1:
        body = taken_apart(rng.choice(one.files))[1]
    return sealed_file(written(header, rng), body), "carrier"


def a_signed_envelope(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    header, body = taken_apart(rng.choice(one.files))
    envelope = json.loads(header["offer"])
    if rng.random() < 0.1:
        header["offer"] = canonical(envelope_twinned(envelope)).decode()
        return sealed_file(canonical(header), body), "carrier"
    others = [json.loads(header["offer"]) for header in one.headers]
    if rng.random() < 0.5:
        envelope = json_edited(envelope, rng, others)
    else:
        offer = json_edited(json.loads(payload_of(header)), rng, [])
        envelope["payload"] = base64.b64encode(written(offer, rng)).decode()
    header["offer"] = written(envelope, rng).decode(errors="replace")
    return sealed_file(canonical(header), body), "carrier"


def plausible(one: Lab, offer: Json, others: list[Json], rng: random.Random) -> Json:
    """An offer of the right form in which something is not as it was."""
    sites = [site.profile.sealing_fingerprint for site in one.world.sites.values()]
    values: dict[str, list[Json]] = {
        "federation": ["a" * 64],
        "exchange": ["other", "trial-2"],
        "organ_id": ["north/other", "north/notes-2"],
        "organ_digest": [offer["organ_digest"], "0" * 64],
        "version": [1, 2, 4, 2**53 - 1],
        "donor": ["west", "south"],
        "body_sha256": ["0" * 64],
        "body_bytes": [1, 10**6, 2**53 - 1],
        "addressees": [sorted(rng.sample(sites, rng.randint(1, 3))), ["0" * 64]],
        "wraps_sha256": ["0" * 64],
        "hidden": ["7" * 64],
        "not_before": [0, NOW - 1, NOW + 300, NOW + 301, NOW + DAY],
        "expires": [NOW - 301, NOW - 300, NOW - 1, 2**53 - 1],
        "domain": ["other", ""],
        "base_weights": ["0" * 64],
        "family": ["llama", "gpt2_"],
        "span": [{"start": 0, "stop": 1}, {"start": 1, "stop": 4}],
    }
    made = dict(offer)
    for name in rng.sample(sorted(values), rng.choice((1, 1, 2, 3))):
        made[name] = rng.choice([*values[name], rng.choice(others)[name]])
    return made


def an_offer(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    others = [json.loads(payload_of(header)) for header in one.headers]

    def edit(offer: Json) -> Json:
        if rng.random() < 0.5:
            made = plausible(one, offer | WAS, others, rng)
        else:
            made = json_edited(offer | WAS, rng, others)
        if rng.random() < 0.5:
            try:
                made["descriptor"] = describe(made["organ_digest"], made["donor"])
                made["addressees"] = sorted(made["addressees"])
            except (KeyError, TypeError, ValueError):
                pass
        return made

    def spoil(wraps: Json) -> Json:
        if rng.random() < 0.8:
            return wraps
        if rng.random() < 0.6:
            return {
                name: base64.b64encode(bytes_edited(base64.b64decode(wrap), rng)).decode()
                for name, wrap in wraps.items()
            }
        return json_edited(wraps, rng, [header["wraps"] for header in one.headers])

    return offered(one, one.tars[0], one.folders[0]["manifest.json"], edit, spoil), "donor"


def _plain(offer: Json) -> Json:
    return offer | WAS


def a_tar(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    facts = one.folders[0]["manifest.json"]
    if rng.random() < 0.15:
        return offered(
            one, one.tars[0], facts, _plain, ruin=lambda body: bytes_edited(body, rng)
        ), "donor"
    return offered(one, tar_edited(one.tars[0], rng), facts, _plain), "donor"


def _bundle(one: Lab, rng: random.Random, folder: dict[str, bytes], kind: str) -> bytes:
    bundle = json.loads(folder[kind])
    others = [json.loads(other[kind]) for other in one.folders]
    if kind == "model.sig" and rng.random() < 0.3:  # inside the certificate's DER
        row = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
        row["rawBytes"] = base64.b64encode(
            bytes_edited(base64.b64decode(row["rawBytes"]), rng)
        ).decode()
    elif rng.random() < 0.2:
        bundle["dsseEnvelope"]["payload"] = text_edited(bundle["dsseEnvelope"]["payload"], rng)
    else:
        bundle = json_edited(bundle, rng, others)
    return written(bundle, rng)


def a_bundle(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    folder = dict(one.folders[0])
    while folder == one.folders[0]:
        for kind in ("model.sig", "model.key.sig"):
            if rng.random() < 0.6:
                folder[kind] = _bundle(one, rng, folder, kind)
    return offered(one, tar_of(folder), folder["manifest.json"], _plain), "donor"


def a_statement(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    folder = signed_folder(
        one, one.folders[0], "north/notes", lambda statement: json_edited(statement, rng, [])
    )
    return offered(one, tar_of(folder), folder["manifest.json"], _plain), "donor"


def _manifest(one: Lab, rng: random.Random, crooked: float) -> bytes:
    facts = json.loads(one.folders[0]["manifest.json"])
    if rng.random() < 0.4:  # parts that are of the right form
        names = (
            "training",
            "privacy",
            "tensors",
            "stored",
            "audit",
            "version",
            "domain",
            "licence",
        )
        for name in rng.sample(names, rng.choice((1, 2, 3))):
            facts[name] = copy.deepcopy(RICH[name])
        facts["version"] += rng.choice((-1, 0, 1, 5))
        return canonical(facts if rng.random() < 0.7 else json_edited(facts, rng))
    return written(json_edited(facts, rng, [RICH]), rng, crooked)


def a_manifest(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    """Edited inside a folder that was signed before."""
    folder = one.folders[0] | {"manifest.json": _manifest(one, rng, 0.1)}
    return offered(one, tar_of(folder), one.folders[0]["manifest.json"], _plain), "donor"


def a_manifest_signed_anew(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    changed = _manifest(one, rng, 0.05)
    try:
        facts = json.loads(changed)
        name = f"{facts['donor']}/{facts['name']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        changed, name = one.folders[0]["manifest.json"], "north/notes"
        changed = changed[:-1] + rng.choice((b",}", b'"', b""))
    folder = signed_folder(one, one.folders[0] | {"manifest.json": changed}, name)
    told = changed
    try:
        json.loads(told)
    except ValueError:
        told = one.folders[0]["manifest.json"]
    return offered(one, tar_of(folder), told, _plain), "donor"


def a_manifest_alone(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    if rng.random() < 0.001:  # as large as may be read, and of small values
        value = rng.choice((b"0", b"[]", b"{}", b'""'))
        rows = b",".join([value] * (4_190_000 // (len(value) + 1)))
        data = one.folders[0]["manifest.json"].replace(b"32", b"[" + rows + b"]", 1)
        return data, "manifest"
    if rng.random() < 0.3:
        return bytes_edited(rng.choice(one.folders)["manifest.json"], rng), "manifest"
    return written(json_edited(RICH, rng, [json.loads(one.folders[0]["manifest.json"])]), rng), (
        "manifest"
    )


def a_profile(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    shown = json.loads(checked.encode(one.world.north.profile))
    if rng.random() < 0.1:
        return canonical(profile_twinned(shown)), "profile"
    if rng.random() < 0.5:
        pem = shown["certificates"][0].encode()
        der = base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
        text = base64.encodebytes(bytes_edited(der, rng)).decode()
        lines = text.replace("\n", "")
        rows = [lines[at : at + 64] for at in range(0, len(lines), 64)]
        shown["certificates"][0] = "\n".join(
            ["-----BEGIN CERTIFICATE-----", *rows, "-----END CERTIFICATE-----", ""]
        )
    else:
        others = [json.loads(checked.encode(one.world.west.profile)), one.renewed]
        shown = json_edited(shown, rng, others)
    return written(shown, rng), "profile"


def a_revocation_list(one: Lab, rng: random.Random) -> tuple[bytes, str]:
    pem = one.world.trust.revoked.pem
    if rng.random() < 0.3:
        return bytes_edited(pem, rng), "list"
    der = bytes_edited(one.world.trust.revoked.crl.public_bytes(serialization.Encoding.DER), rng)
    lines = base64.b64encode(der).decode()
    rows = [lines[at : at + 64] for at in range(0, len(lines), 64)]
    return "\n".join(["-----BEGIN X509 CRL-----", *rows, "-----END X509 CRL-----", ""]).encode(), (
        "list"
    )


TARGETS: dict[str, tuple[Mutant, int]] = {
    "sealed file": (a_sealed_file, 28),
    "delivery header": (a_delivery_header, 18),
    "signed envelope": (a_signed_envelope, 8),
    "offer, signed anew": (an_offer, 8),
    "tar, offered anew": (a_tar, 9),
    "bundles, offered anew": (a_bundle, 7),
    "statement, signed anew": (a_statement, 2),
    "manifest, offered anew": (a_manifest, 2),
    "manifest, signed anew": (a_manifest_signed_anew, 5),
    "manifest alone": (a_manifest_alone, 8),
    "profile": (a_profile, 4),
    "revocation list": (a_revocation_list, 1),
}
"""What is edited, how, and how often in a hundred mutants."""

RICH: Json = {}
"""A manifest with every optional part, to take fields from."""


def rich() -> Json:
    facts = json.loads(checked.encode(manifest()))
    facts["training"] = {
        "scaffold": "in-situ",
        "rank": 4,
        "tokens": 4096,
        "steps": 8,
        "seed": 0,
        "learning_rate": 0.001,
        "block_tokens": 256,
        "step_tokens": 1024,
        "head_sample": None,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "libraries": {"torch": "2"},
    }
    facts["privacy"] = {
        "mechanism": "dp-sgd",
        "unit": "record",
        "neighbours": "add-or-remove-one",
        "sampler": "poisson",
        "sampling_probability": 0.01,
        "noise_multiplier": 1.5,
        "clip": 1,
        "steps": 8,
        "units_per_step": 4,
        "most_blocks_per_unit": 1,
        "delta": 1e-6,
        "epsilon": 1.25,
        "accountant": "a",
    }
    facts["tensors"] = [{"name": "h.0.w", "dtype": "float32", "shape": [2, 2], "sha256": "a" * 64}]
    facts["stored"] = {"form": "factors", "tensors": facts["tensors"], "zeroed": ["h.0.w"]}
    facts["audit"] = "d" * 64
    facts["base"]["tokenizer"] = "e" * 64
    facts["base"]["layer_config"] = {"window": [1, None]}
    return facts


def treat(one: Lab, data: bytes, reader: str, again: bool) -> str:
    """Give a mutant to its reader.

    Args:
        one: The federation.
        data: The mutant.
        reader: Who reads it: ``carrier`` and ``donor`` for a sealed file by whom it was made.
        again: Whether the reader remembers an organ from before.

    Returns:
        How it was accepted.

    Raises:
        NotError: It was refused.
        WrongError: It was accepted and must not be, or a refusal left something.
    """
    if reader == "manifest":
        facts = checked.decode(Manifest, data, "manifest")
        if checked.encode(facts) != data or facts.digest != sha256(data):
            raise WrongError("a manifest has two encodings")
        _ = facts.organ_id, facts.privacy.words, facts.trained
        return PARSED
    if reader == "profile":
        shown = checked.decode(profile.Profile, data, "profile")
        verify_profile(shown, one.world.trust, now=NOW)
        own, other = (site.profile for site in (one.world.north, one.world.west))
        issued = [checked.encode(own), checked.encode(other), canonical(one.renewed)]
        if _unsigned(data) not in [_unsigned(known) for known in issued]:
            raise WrongError("a profile that the federation did not issue is believed")
        return SAME if data in issued else ACCEPTED_SAME
    if reader == "list":
        revocation.parse(data, one.world.trust.root)
        if data != one.world.trust.revoked.pem:
            raise WrongError("a list that the root did not sign is believed")
        return SAME
    return _opened(one, data, reader, again)


def _unsigned(data: bytes) -> Json:
    """A profile, and what the federation signed of its certificates."""
    shown = json.loads(data)
    loaded = [x509.load_pem_x509_certificate(pem.encode()) for pem in shown["certificates"]]
    return shown | {"certificates": [certificate.tbs_certificate_bytes for certificate in loaded]}


def _opened(one: Lab, data: bytes, reader: str, again: bool) -> str:
    south = one.world.south
    place = one.place / "reading"
    place.mkdir(exist_ok=True)
    memory = south.folder / "seen.db"
    if again:
        memory.write_bytes(one.memory)
    else:
        memory.unlink(missing_ok=True)
    path = one.place / "mutant.organ"
    path.write_bytes(data)
    try:
        opened = sealing.open_sealed(path, south, place / "opened", exchange="trial", now=NOW)
    except NotError:
        if any(place.iterdir()):
            raise WrongError("a refusal left files") from None
        if (memory.read_bytes() if memory.exists() else None) != (one.memory if again else None):
            raise WrongError("a refusal changed what the reader remembers") from None
        raise
    files = one.read(opened.path)
    shutil.rmtree(opened.path)
    if reader == "carrier":
        said = payload_of({"offer": opened.signed.envelope.decode()})
        if said not in one.offers or files not in one.folders:
            raise WrongError("a carrier's change of meaning was accepted")
        return SAME if data in one.files else ACCEPTED_SAME
    offer = opened.offer
    if again and offer.organ_id == "north/notes":
        other = offer.organ_digest != sha256(one.folders[0]["manifest.json"])
        if offer.version < 3 or (offer.version == 3 and other):
            raise WrongError("an older organ than the remembered one was accepted")
    if not agrees(data, files, one.world.trust.fingerprint):
        raise WrongError("a donor's contradiction was accepted")
    return ACCEPTED_DONOR


@dataclass
class Outcome:
    """What became of all mutants.

    Attributes:
        seed: Of all.
        mutants: How many.
        codes: Outcomes by target: an error's code, or how it was accepted.
        checks: Refusals by the function that raised.
        wrong: Mutants that were not treated as they must be.
        seconds: Of a processor, that it took.
        before: Peak resident memory before the first mutant, in bytes.
        peak: And after the last.
    """

    seed: int
    mutants: int = 0
    codes: dict[str, Counter[str]] = field(default_factory=dict)
    checks: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0
    before: int = 0
    peak: int = 0


def where(error: BaseException) -> str:
    """The function of the package that refused."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "not_core" in Path(frame.filename).parts
    ]
    return (
        f"{Path(frames[-1].filename).stem}.{frames[-1].name}"
        if frames
        else "federation.verify_chain"
    )


def mutant(one: Lab, seed: int, number: int) -> tuple[str, bytes, str, bool]:
    """Mutant ``number``: target, bytes, reader, and whether the reader remembers an organ."""
    rng = random.Random(f"{seed}:{number}")
    names = list(TARGETS)
    target = rng.choices(names, [TARGETS[name][1] for name in names])[0]
    data, reader = TARGETS[target][0](one, rng)
    return target, data, reader, rng.random() < 0.25


def campaign(
    place: Path,
    mutants: int,
    seed: int,
    keep: Path | None = None,
    meanwhile: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Make and treat mutants.

    Args:
        place: Empty folder to work in.
        mutants: How many.
        seed: Of all of them.
        keep: Where to put those that are not treated as they must be.
        meanwhile: Told every 10,000 mutants what became of those so far.
    """
    RICH.update(rich())
    one = lab(place)
    # Certificates are the slowest to verify, and the same in most mutants.
    chain, verified = federation.verify_chain, remembering(federation.verify_chain)
    federation.verify_chain = signing.verify_chain = verified
    try:
        return _campaign(one, mutants, seed, keep, meanwhile)
    finally:
        federation.verify_chain = signing.verify_chain = chain


def _campaign(
    one: Lab,
    mutants: int,
    seed: int,
    keep: Path | None,
    meanwhile: Callable[[Outcome], None],
) -> Outcome:
    outcome = Outcome(seed, codes={name: Counter() for name in TARGETS}, before=peak_bytes())
    started = time.process_time()
    for number in range(mutants):
        target, data, reader, again = mutant(one, seed, number)
        try:
            result = treat(one, data, reader, again)
        except NotError as error:
            result = error.code
            outcome.checks[where(error)] += 1
            if not str(error).isprintable() or len(str(error)) > 600:
                outcome.wrong.append(f"{number} ({target}): its message is {str(error)!r:.200}")
        except Exception as error:  # what is untyped is what is looked for
            result = "WRONG"
            outcome.wrong.append(f"{number} ({target}): {type(error).__name__}: {error}"[:300])
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{number}.mutant").write_bytes(data)
                shutil.copytree(one.world.south.folder, keep / "south", dirs_exist_ok=True)
        outcome.codes[target][result] += 1
        outcome.mutants = number + 1
        outcome.seconds = time.process_time() - started
        outcome.peak = peak_bytes()
        if outcome.mutants % 10_000 == 0:
            meanwhile(outcome)
    return outcome


def markdown(outcome: Outcome) -> str:
    """The outcome for people."""
    codes = sorted(
        {code for row in outcome.codes.values() for code in row},
        key=lambda code: (":" in code, code),
    )
    total: Counter[str] = sum(outcome.codes.values(), Counter())
    rows = [
        [name, *(f"{row[code]:,}" if row[code] else "" for code in codes), f"{row.total():,}"]
        for name, row in [*outcome.codes.items(), ("all", total)]
    ]
    growth = (outcome.peak - outcome.before) / 1e6
    checks = [[name, f"{count:,}"] for name, count in outcome.checks.most_common()]
    wrong = outcome.wrong or ["none"]
    return (
        "# Mutants\n\n"
        f"`make fuzz`: {outcome.mutants:,} mutants, seed {outcome.seed}. Untyped errors, files or "
        "memory left by a refusal, or an accepted change of meaning: "
        f"**{len(outcome.wrong)}**. Peak memory grew by {growth:.0f} MB while they were read; "
        f"{GROWTH / 1e6:.0f} MB are allowed, and enforced as address space. "
        f"{outcome.seconds / outcome.mutants * 1000:.1f} ms of a processor a mutant.\n\n"
        "A carrier edits the *sealed file*, the *delivery header* in it, or the *signed envelope* "
        "in that, and can sign nothing. What is *signed anew* or *offered anew* comes from an "
        "admitted donor that is dishonest: it signs what it likes, with its own key, and wraps "
        "the key properly, so that what is inside is reached. Such a mutant may be accepted: it is "
        "then what its donor says, and all its parts bear that out, which the test looks at by "
        "means of its own (`agrees` in `tests/forger.py`). A quarter of the readers have opened "
        "the organ before. In a column stands the code of the error, or how it was accepted:\n\n"
        f"- *{ACCEPTED_SAME}*: the donor's own offer and its own files came out; the header held "
        "the donor's renewed certificate instead of its old one, or the twin of an ECDSA "
        "signature, which anyone may exchange.\n"
        f"- *{ACCEPTED_DONOR}*: see above.\n"
        f"- *{PARSED}*: a manifest on its own, which no signature covers: it only has to be read "
        "or refused, and to have one encoding.\n"
        f"- *{SAME}*: the edits undid themselves, or made another valid file, profile or list.\n\n"
        + table(["edited", *codes, "all"], rows)
        + "\nWhich function refused (`verify_chain` counts under the one that calls it):\n\n"
        + table(["check", "mutants"], checks)
        + "\nTreated as they must not be: "
        + "; ".join(wrong)
        + ".\n"
    )


def limit_memory() -> None:
    """Let this process have no more address space than it has now and ``GROWTH``."""
    status = Path("/proc/self/status")
    if status.is_file():
        facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
        now = int(facts["VmSize"].removesuffix("kB")) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (now + GROWTH, now + GROWTH))


def main() -> None:
    """Run a campaign in this process; exit code 1 when a mutant was not treated as it must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit_memory()

    def show(outcome: Outcome) -> None:
        if given.out:
            given.out.write_text(markdown(outcome), encoding="utf-8")

    shared = Path("/dev/shm")  # noqa: S108 - faster where there is one
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as place:
        outcome = campaign(Path(place), given.mutants, given.seed, given.keep, show)
    text = markdown(outcome)
    show(outcome)
    print(json.dumps(vars(outcome)) if given.json else text)
    if outcome.wrong or outcome.peak - outcome.before > GROWTH:
        sys.exit(1)


if __name__ == "__main__":
    main()
