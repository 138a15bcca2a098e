"""Every command in the docs, by the programs' own parsers; and run, where a small model is enough.

Fenced blocks are ``sh`` (commands), ``python``, ``toml`` or ``text`` (output). A command of
a ``sh`` block must be one that its program takes: every subcommand, option, argument, ``make``
target and extra of ``pip install`` is looked up; placeholders such as ``HOME`` are as good as any
word. So are commands in the running text, of which options may stand alone. ``<!-- run -->`` before
a block has it run, in order, in the page's own folder, which holds what ``organ-simulate tutorial``
makes, but on a model of two layers; after ``<!-- fails -->`` its command must exit with 1. Lines of
a ``text`` block after it must be among what was printed, to the letter but for spaces; of
``MEASURED`` only the name. An ellipsis ends what is compared, ``~`` is the user's folder.

Blocks without a mark are only parsed: they need servers, a network or hours. ``guide.py`` runs
the first guide with the real model.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest
import typer
from conftest import make_model, sentences
from guide import FENCE, Block, blocks
from typer.main import get_command

import client.commands
import server.commands
import simulations.commands
from client.home import policy
from client.policy import Policy
from not_core import commands
from not_core.commands.program import run as run_program
from simulations.material import tutorial

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if path.parent.parent.name != "results"
)
PROGRAMS: dict[str, typer.Typer] = {
    "organ": commands.app,
    "organ-site": client.commands.app,
    "organ-coordinator": server.commands.app,
    "organ-simulate": simulations.commands.app,
}
OTHERS = {
    ".", "base64", "cat", "cd", "chmod", "cp", "export", "head", "model_signing", "printf", "ssh",
    "install", "python3", "runuser", "touch", "useradd",
}  # fmt: skip
RUN, FAILS, POLICY = "<!-- run -->", "<!-- fails -->", "<!-- policy -->"
MEASURED = {
    "1", "artefact_bytes", "bytes", "digest", "head", "layers", "loss_first", "loss_last", "organ",
    "organs", "perplexity", "positions", "same", "span", "steps", "tokens", "weights",
}  # fmt: skip
"""Fields whose values are of the model, the text or the day; and row 1 of a ledger."""
SPAN = re.compile(r"`([^`\n]+)`")


def simple(line: str) -> Iterator[list[str]]:
    """The commands of a line, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word in {"&&", "||", ";", "|"}:
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def refused(words: list[str], *, whole: bool = True) -> str | None:
    """Why a command is none; of one in running text, arguments and values may be missing."""
    name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if name == "make":
        rules = (ROOT / "Makefile").read_text(encoding="utf-8")
        wanted = [word for word in rest if "=" not in word]
        known = [*re.findall(r"^(\S+?):(?: |$)", rules, re.MULTILINE), ".venv/.ready"]
        return next((f"no target {word}" for word in wanted if word not in known), None)
    if name == "pip":
        return _installed(rest)
    if name in OTHERS:
        return None
    if name not in PROGRAMS:
        return f"no program {name}"
    command = get_command(PROGRAMS[name])
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    if isinstance(command, click.Group):
        return f"no command {rest[0]}" if rest else "no command" if whole else None
    if whole:
        try:
            command.make_context(name, rest)
        except click.UsageError as error:
            return error.format_message()
        return None
    options = {one for option in command.params for one in option.opts} | {"--help", "-h"}
    given = (word.partition("=")[0] for word in rest if word.startswith("-"))
    return next((f"no option {word}" for word in given if word not in options), None)


def _installed(words: list[str]) -> str | None:
    """Why ``pip install`` names what is not ours to install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[1:]:
        ours, _, extras = word.rstrip("]").partition("[")
        if ours != "organ-exchange":
            continue
        for extra in filter(None, extras.split(",")):
            if extra not in project["optional-dependencies"]:
                return f"no extra {extra}"
    return None if words[:1] == ["install"] else "expected pip install"


def wrong(text: str) -> list[str]:
    """What a page says of commands that is not so."""
    found = []
    for block in blocks(text):
        if block.kind not in {"sh", "python", "toml", "text"}:
            found.append(f"a block of no known kind, {block.kind!r}: {block.text[:40]!r}")
        if block.kind != "sh":
            continue
        for line in block.lines:
            for words in simple(line):
                if (why := refused(words)) is not None:
                    found.append(f"{line.strip()}: {why}")
    for span in SPAN.findall(FENCE.sub("", text)):
        name = span.partition(" ")[0]
        if name in {*PROGRAMS, "make"} and " " in span:
            said = re.sub(r"\[.*?\]|\|\S+|…|\.\.\.", "", span)  # `start|stop` is `start`, and more
            if (why := refused(shlex.split(said), whole=False)) is not None:
                found.append(f"`{span}`: {why}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_its_program_takes(page: str) -> None:
    assert wrong((ROOT / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("organ trian --model m", "no command trian"),
        ("organ train --model m --data d --out o --epsilon 3", "No such option '--epsilon'"),
        ("organ train --model m --out o", "Missing option '--data'"),
        ("organ federation init", "Missing argument"),
        ("organ open x --identity i --out o more", "unexpected extra argument"),
        ("organ merge a b --base m --out o --method mean", "is not one of"),
        ("organ", "no command"),
        ("make bench-sped", "no target bench-sped"),
        ("pip install 'organ-exchange[sites]'", "no extra sites"),
        ("cd x && organ inspct x", "no command inspct"),
        ("organ-exchange run", "no program organ-exchange"),
    ],
)
def test_a_wrong_command_is_found(line: str, why: str) -> None:
    (found,) = wrong(f"Words.\n\n```sh\n{line}   # and a comment\n```\n")
    assert why in found
    assert wrong(f"```sh\n{line}\n```\n") != []


def test_a_wrong_command_in_running_text_is_found() -> None:
    assert wrong("See `organ verify`, `organ train --rank` and `organ-site start|stop`.") == []
    (found,) = wrong("Then `organ train --rnk 3`.")
    assert "no option --rnk" in found
    (found,) = wrong("Then `make bench-sped`.")
    assert "no target" in found
    assert wrong("```\norgan families\n```\n") != []


@pytest.mark.parametrize("page", PAGES)
def test_no_link_leads_nowhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", FENCE.sub("", text))
    inside = [link for link in found if "://" not in link]
    assert [link for link in inside if not ((ROOT / page).parent / link).exists()] == []


class Session:
    """A shell of its own folder, in which our programs run as their entry points do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._names: dict[str, object] = {}

    def run(self, block: Block) -> str:
        """Run a block; what it printed.

        Raises:
            AssertionError: A command failed, or did not where the page says so.
        """
        if block.kind == "python":
            exec(block.text, self._names)  # noqa: S102 - what a notebook does
            return ""
        expected = 1 if block.mark == FAILS else 0
        return "".join(self._line(line, expected) for line in block.lines)

    def _line(self, line: str, expected: int) -> str:
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self._patch.setenv(name, value)
            return ""
        if words[0] not in PROGRAMS:
            done = subprocess.run(  # noqa: S602 - the documentation's own commands
                line, shell=True, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (line, done.stderr)
            return done.stdout
        out, errors = io.StringIO(), io.StringIO()
        code = 0
        self._patch.setattr(sys, "argv", list(map(os.path.expanduser, words)))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                run_program(PROGRAMS[words[0]])
            except SystemExit as stop:
                code = int(stop.code or 0)
        assert code == expected, (line, errors.getvalue())
        return out.getvalue()


def unlike(shown: str, printed: str) -> list[str]:
    """Lines that a page shows and that were not printed."""
    real = [" ".join(line.split()) for line in printed.splitlines()]
    names = {line.partition(" ")[0] for line in real}

    def there(line: str) -> bool:
        if (name := line.partition(" ")[0]) in MEASURED:
            return name in names
        start, *cut = re.sub(r"~(?=/)", str(Path.home()), line).split("…")
        return any(one.startswith(start) if cut else one == start for one in real)

    lines = (" ".join(line.split()) for line in shown.splitlines())
    return [line for line in lines if not there(line)]


def follow(text: str, session: Session) -> int:
    """Run a page's blocks; how many.

    Raises:
        AssertionError: A command failed, or did not print what the page shows.
    """
    count, printed = 0, ""
    for block in blocks(text):
        if block.mark in {RUN, FAILS}:
            printed = session.run(block)
            count += 1
        elif block.kind == "text" and printed:
            assert not (missing := unlike(block.text, printed)), f"not printed: {missing}"
            printed = ""
        else:
            printed = ""
    return count


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``organ-simulate tutorial`` makes, with a model of two layers."""
    folder = tmp_path_factory.mktemp("tutorial")
    make_model(folder / tutorial.MODEL, "llama", layers=2)
    for seed, (name, count) in enumerate(
        {
            "hospital": tutorial.HOSPITAL,
            "clinic": tutorial.CLINIC,
            "clinic-held-out": tutorial.HELD_OUT,
            "general": tutorial.GENERAL,
        }.items()
    ):
        texts = tutorial.lines(sentences(count, seed, (0, 20)))
        (folder / f"{name}.jsonl").write_text(texts, encoding="utf-8")
    return folder


@pytest.fixture
def session(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    for path in small.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    typed = tmp_path / "typed"  # where a page says nothing, its reader types a passphrase
    typed.write_text("typed\n", encoding="utf-8")
    typed.chmod(0o600)
    monkeypatch.setenv("ORGAN_PASSPHRASE_FILE", str(typed))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Session(monkeypatch)


RUNNING = [
    page
    for page in PAGES
    if any(block.mark == RUN for block in blocks((ROOT / page).read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("page", RUNNING)
def test_a_page_can_be_followed(page: str, session: Session) -> None:
    assert follow((ROOT / page).read_text(encoding="utf-8"), session) > 0


def test_a_page_that_cannot_be_followed_is_found(session: Session) -> None:
    page = f"{RUN}\n```sh\norgan families\n```\n```text\n{{}}\n```\n"
    with pytest.raises(AssertionError, match=r"not printed: .*colour"):
        follow(page.format("colour"), session)
    with pytest.raises(AssertionError, match="no organ at nothing"):
        follow(f"{RUN}\n```sh\norgan inspect nothing\n```\n", session)
    assert follow(f"{FAILS}\n```sh\norgan inspect nothing\n```\n", session) == 1
    with pytest.raises(AssertionError, match="organ families"):
        follow(f"{FAILS}\n```sh\norgan families\n```\n", session)
    with pytest.raises(AttributeError):
        follow(f"{RUN}\n```python\nimport not_core as nc\nnc.graft\n```\n", session)


def test_values_are_compared_but_for_those_that_are_measured() -> None:
    printed = f"documents   20\nperplexity  9.8\nhome  well   {Path.home()}/clinic, its owner's\n"
    assert unlike("documents  20\nperplexity 19.24\nhome well ~/clinic, its …\n", printed) == []
    assert unlike("documents  21\n", printed) == ["documents 21"]
    assert unlike("document\nhome well ~/clinic\n", printed) == ["document", "home well ~/clinic"]
    assert unlike("perplexity 9.8\n", "documents 20\n") == ["perplexity 9.8"]


def test_the_guides_of_most_use_run() -> None:
    assert {
        "README.md",
        "docs/guides/first-exchange.md",
        "docs/guides/your-own-model-and-data.md",
        "docs/guides/differential-privacy.md",
        "docs/guides/recipient-policy.md",
        "docs/deployment/README.md",
    } <= set(RUNNING)


def test_every_field_of_a_policy_is_explained_with_its_default() -> None:
    text = (ROOT / "docs/guides/recipient-policy.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    assert rows.keys() == {field.name for field in fields(Policy)}
    for field in fields(Policy):
        assert field.default is not MISSING
        shown = rows[field.name]
        default = field.default if field.default != () else []
        assert (None if shown == "absent" else tomllib.loads(f"x = {shown}")["x"]) == default


def test_the_policies_that_are_shown_are_policies() -> None:
    text = (ROOT / "docs/guides/recipient-policy.md").read_text(encoding="utf-8")
    shown = [block for block in blocks(text) if block.mark == POLICY]
    assert len(shown) == 3
    for block in shown:
        assert policy(tomllib.loads(block.text)) != Policy()


def test_what_privacy_costs_is_what_was_measured() -> None:
    said = (ROOT / "docs/guides/differential-privacy.md").read_text(encoding="utf-8")
    table = (ROOT / "docs/results/privacy/bench-dp.md").read_text(encoding="utf-8")
    for words, epsilon in (("no privacy", "none"), ("epsilon 8 ", "8.0"), ("epsilon 1 ", "1.0")):
        (row,) = re.findall(rf"^\| organ, {words}.*?\| (.*?) \| (\d+) \|$", said, re.MULTILINE)
        (cell,) = re.findall(rf"^\| abstracts \| {epsilon} \| organ \| (.*)$", table, re.MULTILINE)
        seeds, _, *measured = cell.split(" | ")[:4]
        numbers = re.findall(r"\d+\.\d+", " ".join(measured))
        assert row[1] == seeds
        assert re.findall(r"\d+\.\d+", row[0]) == [f"{float(one):.1f}" for one in numbers]
