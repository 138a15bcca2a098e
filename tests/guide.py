"""The first guide as a newcomer follows it: a fresh clone, ``sh -e``, the real model.

    python tests/guide.py [--page docs/guides/first-exchange.md ...]

Clones what is committed into a temporary folder and runs there, in one shell, every ``sh`` block
of ``PAGES``, literally and in order: an environment of its own is made, model and text are fetched
unless the user's cache has them. ``HOME`` is a new folder, and no variable of ours is set. What a
page shows in a ``text`` block is compared with what was printed, and lines that differ are shown.

Exit code 1 where a command fails; differing lines are for people to judge.
"""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("docs/guides/README.md", "docs/guides/first-exchange.md")
FENCE = re.compile(r"(?:^(<!-- \w+ -->)\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--- guide: block "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    mark: str
    kind: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands, each on a line."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(mark or "", kind, body) for mark, kind, body in FENCE.findall(text)]


def script(found: Sequence[Block]) -> str:
    """All commands for one shell, the output of each block under its number."""
    return "".join(
        f"echo '{MARK}{number}'\n{block.text}"
        for number, block in enumerate(found)
        if block.kind == "sh"
    )


def printed(output: str) -> dict[int, str]:
    """What each block printed, by its number."""
    parts = re.split(rf"^{MARK}(\d+)\n", output, flags=re.MULTILINE)[1:]
    return {int(number): text for number, text in zip(parts[::2], parts[1::2], strict=True)}


def differences(found: Sequence[Block], output: str) -> Iterator[str]:
    """Lines shown after a block that it did not print (``-``), and what it printed (``+``)."""
    outputs = printed(output)
    for number, block in enumerate(found):
        if block.kind == "text" and number - 1 in outputs:
            shown, real = (
                [line.rstrip() for line in text.splitlines()]
                for text in (block.text, outputs[number - 1])
            )
            yield from (line for line in difflib.ndiff(shown, real) if line[0] in "-+")


def environment(home: Path) -> dict[str, str]:
    """Another home and none of our variables; the user's caches and package index stay."""
    ours = ("ORGAN_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    user = {
        "XDG_CACHE_HOME": str(Path.home() / ".cache"),
        "XDG_CONFIG_HOME": str(Path.home() / ".config"),
    }
    return {**user, **kept, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")}


def main() -> int:
    """Follow the pages; 0 when every command succeeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--page", action="append", help=f"instead of {' and '.join(PAGES)}")
    pages = parser.parse_args().page or PAGES
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="organ-guide-") as name:
        home, clone, log = (Path(name) / part for part in ("home", "clone", "printed"))
        home.mkdir()
        words = ["git", "clone", "--quiet", str(ROOT), str(clone)]
        subprocess.run(words, check=True)  # noqa: S603 - ours
        found = [one for page in pages for one in blocks((clone / page).read_text("utf-8"))]
        words = ["sh", "-e", "-c", script(found)]
        with log.open("wb") as out:
            done = subprocess.run(  # noqa: S603 - the documentation's own commands
                words,
                cwd=clone,
                env=environment(home),
                stdin=subprocess.DEVNULL,
                stdout=out,
                check=False,
            )
        output = log.read_text("utf-8")
    if done.returncode != 0:
        last = max(printed(output), default=0)
        text = found[last].text
        print(f"failed with code {done.returncode} in:\n{text}{printed(output)[last]}")
        return 1
    differing = list(differences(found, output))
    print("\n".join(differing))
    commands = sum(len(block.lines) for block in found if block.kind == "sh")
    seconds = time.monotonic() - began
    count = sum(line.startswith("-") for line in differing)
    print(f"{commands} commands ran in {seconds:.0f} s; {count} lines shown are not as printed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
