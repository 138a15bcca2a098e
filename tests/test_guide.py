"""What ``make guide`` does with a page: run as it stands, compared, and failed where it fails."""

import shutil
import subprocess
from pathlib import Path

import guide
import pytest

PAGE = """
```sh
echo "home ${HOME##*/}" && mkdir made && cd made
```
```text
home  elsewhere
```

```sh
test "$(basename "$PWD")" = made && echo same && echo passphrases: $ORGAN_PASSPHRASE_FILE
```
```text
same
passphrases:
```
"""

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def followed(folder: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> int:
    (folder / "page.md").write_text(page, encoding="utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a page"]):
        subprocess.run(["git", *words], cwd=folder, check=True)  # noqa: S603, S607 - a test's own
    monkeypatch.setattr(guide, "ROOT", folder)
    monkeypatch.setattr("sys.argv", ["guide.py", "--page", "page.md"])
    monkeypatch.setenv("ORGAN_PASSPHRASE_FILE", "mine")
    return guide.main()


def test_a_page_is_run_in_one_shell_and_what_differs_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert followed(tmp_path, PAGE, monkeypatch) == 0
    shown, real, last = capsys.readouterr().out.splitlines()
    assert (shown, real) == ("- home  elsewhere", "+ home home")
    assert last.startswith("2 commands ran")
    assert last.endswith("1 lines shown are not as printed")
    assert not (tmp_path / "made").exists(), "it runs in a clone"


def test_a_command_that_fails_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "```sh\necho before\nfalse\necho after\n```\n"
    assert followed(tmp_path, page, monkeypatch) == 1
    said = capsys.readouterr().out
    assert said.startswith("failed with code 1 in:\necho before\nfalse\n")
    assert said.endswith("echo after\nbefore\n\n"), "nothing runs after it"
