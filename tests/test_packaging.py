"""What leaves in the wheel and in the Flower app bundle: an allow-list, compared file by file."""

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("not_core", "client", "server", "simulations")


def looks() -> set[str]:
    """What pages are made of beside code."""
    return {
        str(path.relative_to(ROOT))
        for pattern in ("*/page/templates/*.jinja", "*/page/static/*")
        for path in ROOT.glob(pattern)
    }


def tracked(*packages: str) -> set[str]:
    """Python files of packages, as the checkout has them."""
    return {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*.py")
    }


@pytest.fixture
def strewn(tmp_path: Path) -> Path:
    """A copy of the checkout with private-looking files beside the code, which nothing may pack."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in (*PACKAGES, "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copyfile(ROOT / name, copy / name)
    for name in (
        "records.jsonl",
        "client/records.csv",
        "client/site.key",
        "not_core/notes.json",
        "server/page/templates/notes.md",
    ):
        (copy / name).write_text("private")
    (copy / "server" / "leftover.py.md").write_text("private")
    return copy


def test_the_wheel_holds_the_packages_and_nothing_else(strewn: Path, tmp_path: Path) -> None:
    subprocess.run(  # noqa: S603 - our own interpreter
        [
            *(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation"),
            *("--no-index", "--wheel-dir", str(tmp_path), str(strewn)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert looks()
    assert names == tracked(*PACKAGES) | looks() | {
        "not_core/py.typed",
        "simulations/federation/demo_sites.toml",
        "simulations/federation/report.html.jinja",
    }


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr's own
def test_the_app_bundle_holds_the_code_and_nothing_else(strewn: Path) -> None:
    from flwr.cli.build import build_fab_from_disk

    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(strewn))) as archive:
        names = {name for name in archive.namelist() if not name.startswith(".info")}
    assert names == tracked("not_core", "client", "server") | {
        "README.md",
        "LICENSE",
        "pyproject.toml",
    }


def test_a_container_is_built_from_what_its_file_copies_and_nothing_else() -> None:
    lines = (ROOT / "docs" / "deployment" / "Containerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    let_in = (ROOT / ".containerignore").read_text().splitlines()
    assert "*" in let_in
    assert copied == {line.removeprefix("!") for line in let_in if line.startswith("!")}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units = sorted((ROOT / "docs" / "deployment").glob("organ-*.*"))
    for unit in units:
        text = unit.read_text().replace(
            "/opt/organ-exchange/bin/", f"{Path(sys.executable).parent}/"
        )
        (tmp_path / unit.name).write_text(text)
    said = subprocess.run(  # noqa: S603
        ["systemd-analyze", "verify", *(tmp_path / unit.name for unit in units)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
    assert len(units) == 4
