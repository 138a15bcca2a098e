"""The reference of functions: all of it is built, as ``make docs`` builds it."""

import subprocess
import sys
from pathlib import Path

import not_core

BUILD = Path(__file__).parents[1] / "docs" / "api" / "build.py"


def test_the_reference_is_built_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, str(BUILD), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "not_core.html").read_text(encoding="utf-8")
    for name in not_core.__all__:
        assert f'<section id="{name}">' in page
    assert "Raises" in page
    for program in ("client", "server", "simulations"):
        assert (tmp_path / program / "commands.html").is_file()
