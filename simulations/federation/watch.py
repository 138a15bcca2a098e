"""Progress of a simulated exchange: a bar a site in a terminal, one line an event elsewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from client.progress import read
from server.progress import Event
from simulations.federation.exchange import Scenario

WORDS = {
    "enrol": "has enrolled",
    "donate": "has trained and sealed an organ",
    "collect": "has sent its sealed organ",
    "deliver": "has received a sealed organ",
    "transplant": "has measured an organ and judged it",
    "witness": "has signed the coordinator's log",
}


class Watch:
    """Shows events and, in a terminal, what each site is doing."""

    def __init__(self, scenario: Scenario, console: Console) -> None:
        self._plan, self._console = scenario, console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._tasks = {
            site.name: self._bars.add_task(site.name, total=None, doing="starting")
            for site in scenario.federation.sites
        }
        self._stop = threading.Event()

    def notify(self, event: Event) -> None:
        """Take note of an event."""
        said = f"could not {event.step}: {event.code}" if event.code else WORDS[event.step]
        if event.site in self._tasks:
            self._bars.update(self._tasks[event.site], doing=said)
        if event.code or not self._console.is_terminal:
            self._console.print(f"{event.site} {said}", highlight=False, markup=False)

    def _poll(self) -> None:
        while not self._stop.wait(0.5):
            for name, task in self._tasks.items():
                doing = read(self._plan.home(name))
                if doing:
                    self._bars.update(
                        task,
                        completed=doing.done,
                        total=doing.total,
                        doing=f"{doing.step}, {doing.done} of {doing.total} tokens",
                    )

    @contextmanager
    def shown(self) -> Iterator["Watch"]:
        """Show progress while the block runs."""
        thread = threading.Thread(target=self._poll, daemon=True)
        with self._bars:
            thread.start()
            try:
                yield self
            finally:
                self._stop.set()
                thread.join()
