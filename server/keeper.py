"""Sees to it that exchanges end, and that who was expelled stays out.

An exchange that goes on asks for what is not there yet, and no more; see ``exchange``. A run that
ended badly is followed by another after a while, and by no more than so many. None is started while
there are too few sites.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from not_core.errors import ExchangeError, NotError, ServiceError
from not_core.service import journal
from not_core.service.supervisor import end_with_parent
from not_core.trust.federation import load_trust
from server import service
from server.asked import read
from server.control import ENDED, WELL, Control, Run
from server.home import Coordinator, load
from server.schedule import CANCELLED, CANCELLING, COMPLETED, UNFINISHED, Begun

POLL_SECONDS = 2.0
AGAIN_SECONDS = 10.0
MOST_RUNS = 20
HEARD_SECONDS = 20.0
LEAST_SITES = 2
"""An exchange takes so many; until they are there, it has no run."""

_log = logging.getLogger(__name__)


def ask(coordinator: Coordinator, words: Mapping[str, object], at: float = 0.0) -> str:
    """Ask for an exchange, or for one that has ended to go on; its name.

    Args:
        coordinator: Whose.
        words: As ``asked.read`` reads them; ``sites`` may be left out where sites are named.
        at: When it is to begin, in seconds since the epoch.

    Raises:
        ExchangeError: Something that is asked for is not valid, or the name is taken.
    """
    asked = read(words)
    asked = replace(asked, sites=asked.sites or len(asked.invited))
    if asked.sites < LEAST_SITES:
        raise ExchangeError(f"an exchange of {asked.sites} sites, expected at least {LEAST_SITES}")
    if strangers := set(asked.invited) - set(coordinator.catalogue.nodes()):
        raise ExchangeError(
            f"no site {', '.join(sorted(strangers))} is admitted; see 'organ-coordinator status'"
        )
    if asked.invited and asked.sites > len(asked.invited):
        raise ExchangeError(f"{asked.sites} sites to wait for, more than are named")
    coordinator.catalogue.schedule.begin(asked, at)
    return asked.exchange


def look(coordinator: Coordinator, control: Control, now: float) -> None:
    """Look once after all exchanges that have not ended.

    Raises:
        ServiceError: Flower does not run.
    """
    due = [one for one in coordinator.catalogue.schedule.unfinished() if not one.waits(now)]
    if not due:
        return
    runs, online = control.runs(), cache(control.online)
    for one in due:
        try:
            _look_after(coordinator, control, one, _latest(one, runs), online, now)
        except ServiceError as error:  # the others go on
            _log.warning("%s", error, extra={"exchange": one.name})


def _latest(one: Begun, runs: Sequence[Run]) -> Run | None:
    """An exchange's run that is under way, if not its latest that was noted.

    A run that was started may not have been noted: the keeper died in between.
    """
    its = [run for run in runs if run.exchange == one.name and run.status != ENDED]
    noted = [run for run in runs if run.identifier == one.run]
    return next(iter([*its, *noted]), None)


def _look_after(
    coordinator: Coordinator,
    control: Control,
    one: Begun,
    run: Run | None,
    online: Callable[[], set[int]],
    now: float,
) -> None:
    under_way = run is not None and run.status != ENDED
    if one.state == CANCELLING:
        if run is not None and under_way:
            control.stop(run.identifier)
        _end(coordinator, one.name, CANCELLED)
    elif run is not None and under_way:
        if run.identifier != one.run:
            coordinator.catalogue.schedule.running(one.name, run.identifier, now)
            _log.warning("is under way", extra={"exchange": one.name, "run": one.runs + 1})
    elif run is not None and run.outcome == WELL:
        _end(coordinator, one.name, COMPLETED)
    elif one.runs >= MOST_RUNS:
        _end(coordinator, one.name, "failed")
        _log.error("failed too often", extra={"exchange": one.name, "runs": one.runs})
    elif now >= one.since + (AGAIN_SECONDS if one.run else 0.0):
        if len(online() & nodes_of(coordinator, one)) < LEAST_SITES:
            return  # a run would wait in vain, and count
        home = str(coordinator.folder.resolve())
        begun = control.start({"home": home, "exchange": one.name})
        coordinator.catalogue.schedule.running(one.name, begun, now)
        _log.warning("starts", extra={"exchange": one.name, "run": one.runs + 1})


def nodes_of(coordinator: Coordinator, one: Begun) -> set[int]:
    """Nodes of the sites that may take part in an exchange."""
    known, invited = coordinator.catalogue.nodes().items(), one.asked.invited
    return {node for site, (node, _) in known if not invited or site in invited}


def _end(coordinator: Coordinator, name: str, state: str) -> None:
    """Note how an exchange ended, and keep no body of it that never came whole."""
    coordinator.catalogue.schedule.ended(name, state)
    for part in coordinator.parts(name):
        part.unlink(missing_ok=True)


def ended(coordinator: Coordinator, name: str) -> str:
    """How an exchange ended; empty while it runs."""
    state = next(one.state for one in coordinator.catalogue.schedule.begun() if one.name == name)
    return "" if state in UNFINISHED else state


def listen(coordinator: Coordinator, control: Control, now: float) -> None:
    """Note which sites' nodes are there.

    Raises:
        ServiceError: Flower does not run.
    """
    online = control.online()
    known = coordinator.catalogue.nodes().items()
    coordinator.catalogue.heard((site for site, (node, _) in known if node in online), now)


def waited(coordinator: Coordinator, name: str) -> str:
    """Wait for an exchange to end; how it did."""
    while not (state := ended(coordinator, name)):
        time.sleep(POLL_SECONDS)
    return state


def beat_of(home: Path) -> Path:
    """What the keeper touches when it has looked after all that there is."""
    return home / "run" / "keeper.beat"


def main(home: Path) -> None:
    """Look after a coordinator's exchanges until told to stop."""
    journal.begin()
    coordinator, control = load(home), service.control_of(home)
    known, heard = 0, 0.0
    while True:
        try:
            trust = load_trust(home)  # anew: the operator may have taken in another list
            if trust.revoked.number != known:
                for site in service.expel(replace(coordinator, trust=trust)):
                    _log.warning("revoked; its node is taken back", extra={"site": site})
                known = trust.revoked.number
        except NotError as error:  # exchanges go on without
            _log.warning("%s", error)
        try:
            look(coordinator, control, time.time())
            if time.time() - heard > HEARD_SECONDS:
                listen(coordinator, control, heard := time.time())
            beat_of(home).touch()
        except NotError as error:  # such as a database that is away
            _log.warning("%s", error)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
