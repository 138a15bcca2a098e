"""What the four command lines share: exit codes, JSON output, progress, quiet libraries.

Exit codes: 0 done, 1 refused or failed, 2 usage, 130 interrupted, 143 terminated. Reports go to
standard output, progress and errors to standard error.
"""

import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
import typer.main
from rich.console import Console
from rich.table import Table
from typer.core import TyperArgument

from not_core.checkup import Found
from not_core.errors import NotError
from not_core.verbs.facts import flat, plain

# Nothing of ours phones home; an operator who wants Flower's telemetry sets the variable.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}

COMPARED_BY = frozenset({"lm_eval", "peft", "psutil", "pyrage"})
"""Packages of the extra ``comparison``."""
RATE_SECONDS = 3600.0
"""Past from which a rate is taken: a step may take minutes."""

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]

errors = Console(stderr=True)


class _Argument(TyperArgument):
    """An argument that keeps its help: typer 0.20, which flwr pins, loses it on click 8.5."""

    def __init__(self, *, help: str | None = None, **options: Any) -> None:
        super().__init__(help=help, **options)
        self.help = help


setattr(typer.main, "TyperArgument", _Argument)  # noqa: B010 - not exported for assignment


def new_app(help_text: str) -> typer.Typer:
    """A command group that prints its help when it is called without a command."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


class Stopped(SystemExit):
    """A signal asked the program to end; notes say what is kept and how to go on."""


def run(app: typer.Typer) -> None:
    """Run a command line; an expected error becomes one line and exit code 1.

    Ctrl-C and SIGTERM end it with exit codes 130 and 143, when what was begun is cleaned up.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    before = _stop_on_signals()
    try:
        app()
    except Stopped as stop:
        notes: Sequence[str] = getattr(stop, "__notes__", ())
        said = notes[0] if notes else "what was half done is removed; run the command again"
        errors.print(f"[bold]stopped:[/] {_escaped(said)}", highlight=False, soft_wrap=True)
        _end_threads(int(stop.code or 0))
        raise
    except NotError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        wanted = "organ-exchange[site], or organ-exchange[simulation] for organ-simulate"
        if error.name in COMPARED_BY:
            wanted = "organ-exchange[comparison]"
        _fail(f"the package {error.name} is not installed; install {wanted}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or type(error).__name__}; check path, permissions and disk")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def goes_on(how: str) -> Iterator[None]:
    """Say how to go on, if a signal ends the program in this block."""
    try:
        yield
    except Stopped as stop:
        stop.add_note(how)
        raise


def _stop_on_signals() -> dict[signal.Signals, Any]:
    """Make Ctrl-C and SIGTERM a ``Stopped``, unless somebody sees to them; the handlers before."""

    def leave(number: int, frame: object) -> None:
        raise Stopped(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return {}
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    unseen = [number for number, one in usual.items() if signal.getsignal(number) is one]
    return {number: signal.signal(number, leave) for number in unseen}


def _end_threads(code: int) -> None:
    """End at once if threads would keep the process: they wait for what no longer comes.

    What they write must outlive a kill, and does.
    """
    others = [one for one in threading.enumerate() if one is not threading.current_thread()]
    if any(not one.daemon for one in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fail(message: str) -> None:
    errors.print(f"[bold red]error:[/] {_escaped(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


def say(line: str) -> None:
    """One line of progress on standard error."""
    errors.print(plain(line), highlight=False, markup=False, soft_wrap=True)  # addresses stay whole


def report(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as a table of two columns, or as JSON for programs."""
    console = Console()
    if as_json:
        console.print_json(data=facts, ensure_ascii=True)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in flat(facts):
        table.add_row(_escaped(name), _escaped(value))
    console.print(table)


def listing(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table, or as a JSON list for programs."""
    console = Console()
    if as_json:
        console.print_json(data=rows, ensure_ascii=True)
        return
    if not rows:
        console.print("none")
        return
    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(_escaped(name), overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(_short(row.get(name, ""))) for name in names))
    console.print(table)


def checked(found: Iterable[Found], as_json: bool) -> None:
    """Print what a check-up found, one row a check; exit code 1 if anything is wrong."""
    all_found = list(found)
    rows = [
        {"check": one.check, "found": "well" if one.well else "WRONG", "says": one.says}
        for one in all_found
    ]
    listing(rows, as_json)
    if not all(one.well for one in all_found):
        raise typer.Exit(1)


class Advance(Protocol):
    """Move a progress bar on by some units, with a word on how it goes, of ``total`` if known.

    ``kept`` are units that were found done: they count, but not for the rate.
    """

    def __call__(
        self, units: int, note: str = "", *, total: int | None = None, kept: bool = False
    ) -> None:
        """Move on."""


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar with rate and remaining time on standard error; nothing when that is no terminal."""
    from rich import progress as bars
    from rich.text import Text

    class Rate(bars.ProgressColumn):
        """Units a second."""

        def render(self, task: bars.Task) -> Text:
            speed = task.speed or 0.0
            return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s" if speed else "")

    size = unit == "bytes"
    columns = (
        [bars.DownloadColumn()] if size else [bars.MofNCompleteColumn(), bars.TextColumn(unit)]
    )
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=20),  # the rest takes 60 columns
        *columns,
        bars.TransferSpeedColumn() if size else Rate(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}"),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
        speed_estimate_period=RATE_SECONDS,
    ) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(
            units: int, note: str = "", *, total: int | None = None, kept: bool = False
        ) -> None:
            bar.update(task, advance=units, note=note, total=total)
            if kept:
                bar.reset(task, completed=int(bar.tasks[task].completed), note=note)

        yield advance


def span(value: str) -> tuple[int, int]:
    """Parse ``START:STOP``; a usage error otherwise."""
    start, colon, stop = value.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise typer.BadParameter(f"expected START:STOP with START < STOP, such as 2:4, got {value}")
    return int(start), int(stop)


def seconds(value: str) -> float:
    """Parse a time such as ``90s``, ``5m`` or ``2h``; a usage error otherwise."""
    number, unit = value[:-1], {"s": 1, "m": 60, "h": 3600}.get(value[-1:])
    try:
        if unit and (found := float(number) * unit) > 0 and math.isfinite(found):
            return found
    except ValueError:
        pass
    raise typer.BadParameter(f"expected a time such as 90s, 5m or 2h, got {value}")


def new_place(out: Path) -> Path:
    """Check, before any work, that ``out`` is free.

    Raises:
        OutputExistsError: It is taken.
    """
    from not_core import atomic

    atomic.refuse_existing(out)
    return out


def _short(value: Any) -> str:
    """A value for a narrow column; digests by their first characters."""
    text = "none" if value is None else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def _escaped(text: str) -> str:
    """Text that is printed as it is: no markup, and nothing that the terminal would obey."""
    from rich.markup import escape

    return escape(plain(text))
