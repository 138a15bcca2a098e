"""Flower's programs, run so that they execute the code that is installed here and no other.

A stock Flower node runs whatever code a run brings. Here the part that starts tasks (SuperExec)
knows one kind of task, and a task loads one installed app; a run's bundle is neither unpacked nor
imported. That takes replacing a few names in Flower's modules: each must be there, in the one minor
version of Flower that was read for this, or nothing starts.

Run as ``python -P -m not_core.service.flower PROGRAM ...``; see ``command``. Every process ends
itself when the one that started it is gone.
"""

import importlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from types import ModuleType, SimpleNamespace
from typing import Any

from not_core.errors import ServiceError
from not_core.service import bounds, journal
from not_core.service.supervisor import end_with_parent, python

FLOWER = "1.41."
"""The versions whose insides these replacements are known to fit."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Environment of every Flower process: it reports to nobody and installs nothing."""

CLIENT, SERVER = "flwr-clientapp", "flwr-serverapp"
"""Flower's names of the two kinds of task that there are here."""

RUN = {
    CLIENT: "flwr.supernode.runtime.run_clientapp",
    SERVER: "flwr.superlink.runtime.run_serverapp",
}
"""What of Flower runs them."""

POLL_SECONDS = 0.2
"""How often what starts tasks asks its neighbour on this machine for one."""

HANDED_OVER_SECONDS, OVER_SECONDS = 30.0, 10.0
"""How long a node waits for the next piece of a reply, from a task on this machine; and then for
the task to end."""


def command(program: str, *arguments: str) -> tuple[str, ...]:
    """What starts one of these programs: ``superlink``, ``supernode``, ``superexec``."""
    return python("not_core.service.flower", program, *arguments)


def replaced(module: str, **names: Any) -> ModuleType:
    """A Flower module, some of whose names have other values from now on.

    Raises:
        ServiceError: This is another Flower than the one that was read, or it lacks a name.
    """
    found = version("flwr")
    if not found.startswith(FLOWER):
        raise ServiceError(
            f"flwr {found} is installed, expected {FLOWER}*: what keeps a run's own code from "
            "being executed is only known to hold there; install organ-exchange anew"
        )
    target = importlib.import_module(module)
    missing = [name for name in names if not hasattr(target, name)]
    if missing:
        raise ServiceError(f"flwr {found} has no {module}.{missing[0]}; install it anew")
    for name, value in names.items():
        setattr(target, name, value)
    return target


def superexec(kind: str, app: str, beforehand: str, arguments: Sequence[str]) -> None:
    """Start tasks of one kind, each as a process that loads ``app``; never returns.

    Args:
        kind: ``CLIENT`` or ``SERVER``.
        app: ``module:attribute`` of an installed Flower app.
        beforehand: Other modules to import once, for all tasks; names with commas between.
        arguments: For ``flower-superexec``.
    """
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult, SubprocessExecutor
    from flwr.supercore.superexec.plugin import AutoExecPlugin

    os.environ.setdefault("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", str(POLL_SECONDS))
    # A server that imports all once and forks for each task: none waits for torch.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [app.partition(":")[0], RUN[kind], *filter(None, beforehand.split(","))]
    )
    context.Process(target=int, daemon=True).start()

    class Installed(SubprocessExecutor):
        def launch(self, spec: Any) -> LaunchResult:
            given = (kind, app, spec.runtime_api_address, spec.root_certificates_path, spec.token)
            context.Process(target=task, args=given, daemon=True).start()
            return LaunchResult.accepted()

    class OneKind(AutoExecPlugin):
        supported_task_types = frozenset({TaskType(kind)})

    replaced(
        "flwr.supercore.superexec.run_superexec",
        AutoExecPlugin=OneKind,
        get_executor=lambda *_, **__: Installed(),
    )
    sys.argv = ["flower-superexec", *arguments]
    flower_superexec()


def supernode(beat: Path, pause: float, arguments: Sequence[str]) -> None:
    """Run a site's node; never returns.

    Args:
        beat: File that is touched as long as the node looks for messages or waits for a task.
        pause: Seconds between two looks for messages.
        arguments: For ``flower-supernode``.
    """
    from flwr.supercore.constant import TaskType
    from flwr.supernode.cli import flower_supernode

    class Clock:
        @staticmethod
        def sleep(seconds: float) -> None:
            beat.touch()
            time.sleep(min(seconds, pause))

    # Whatever kind of task a run asks for, there is one here.
    kinds = SimpleNamespace(CLIENT_APP=TaskType.CLIENT_APP, AGENT_APP=TaskType.CLIENT_APP)
    node = replaced("flwr.supernode.start_client_internal", time=Clock, TaskType=kinds)
    pull, push = node._pull_and_store_message, node._push_messages

    def bounded(*, receive: bounds.Receive, **given: Any) -> Any:
        return pull(receive=bounds.few(receive), **given)

    def patient(*, state: Any, object_store: Any, **given: Any) -> None:
        await_reply(state, Clock.sleep)
        push(state=state, object_store=Patient(object_store), **given)
        end_tasks(state)

    replaced(
        "flwr.supernode.start_client_internal",
        _pull_and_store_message=bounded,
        _push_messages=patient,
    )
    replaced("flwr.supercore.protobuf.client", httpx=bounds.http())
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


def await_reply(state: Any, sleep: Callable[[float], None]) -> None:
    """Wait until a task has replied, or has ended without: then the reply is that it crashed.

    Flower waits for ever for the reply of one that could not fetch what it was asked, or hand over
    its answer, and said so when it ended.

    Args:
        state: A node's, of Flower.
        sleep: Called between two looks.
    """
    from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR

    while True:
        state.get_messages_legacy(run_ids=[])  # none, but Flower looks who has died
        over = not state.get_tasks(statuses=_unfinished())  # first: a reply comes before the end
        with state.lock_msg_store:
            entries = list(state.msg_store.values())
        if any(one.message.metadata.reply_to_message_id for one in entries):
            return
        if over:
            state.get_messages_legacy(is_reply=False)  # as if fetched: only those are replied to
            runs = {one.message.metadata.run_id for one in entries}
            state._store_error_replies(runs, CLIENT_APP_CRASHED_ERROR)
            return
        sleep(0.1)


def _unfinished() -> tuple[str, ...]:
    from flwr.common.constant import Status

    return (Status.PENDING, Status.STARTING, Status.RUNNING)


def end_tasks(state: Any) -> None:
    """See that the task whose reply has gone is over: a node has one at a time.

    One that died instead would be found out a minute later, and Flower would then say of whatever
    the node works on that it has crashed; its true reply would pass for that to the next request.

    Args:
        state: A node's, of Flower.
    """
    from flwr.common.constant import SubStatus

    deadline = time.monotonic() + OVER_SECONDS
    while left := state.get_tasks(statuses=_unfinished()):
        if time.monotonic() > deadline:
            for one in left:
                state.finish_task(one.task_id, SubStatus.FAILED, "died over its reply")
            return
        time.sleep(0.02)


class Patient:
    """A node's objects, of which none is waited for for ever.

    A task that has made a reply says so, and then hands over its objects. The node waits for each;
    it drops the reply where one does not come, whose task has died, and goes on.

    Args:
        store: Flower's.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._since: dict[str, float] = {}

    def get(self, identifier: str) -> bytes | None:
        """An object's content, empty as long as it is to come; see Flower's.

        Raises:
            ServiceError: It has not come in ``HANDED_OVER_SECONDS``.
        """
        content: bytes | None = self._store.get(identifier)
        if content == b"":
            now = time.monotonic()
            if now - self._since.setdefault(identifier, now) > HANDED_OVER_SECONDS:
                raise ServiceError("the task that made this reply died over it; it is asked again")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def superlink(arguments: Sequence[str]) -> None:
    """Run a coordinator's SuperLink; never returns."""
    from flwr.superlink.cli import flower_superlink

    # Else its log has two lines for each of the keeper's looks, one of them no JSON.
    replaced("flwr.superlink.cli.flower_superlink", get_uvicorn_log_config=lambda level: None)
    looks = ("ControlServicer.ListRuns", "ControlServicer.ListNodes")
    logging.getLogger("flwr").addFilter(lambda record: record.getMessage() not in looks)
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


def task(kind: str, app: str, address: str, certificates: str | None, token: str) -> None:
    """Run one task with an installed app, in a process of its own.

    An app that fails answers with a code of Flower's and no text.

    Args:
        kind: ``CLIENT`` or ``SERVER``.
        app: ``module:attribute`` of an installed Flower app.
        address: Where its messages are.
        certificates: PEM file of what is believed there; None without TLS, on loopback.
        token: What lets it have them.
    """
    end_with_parent()
    _begin_journal()
    bounds.bound_objects()
    module, _, attribute = app.partition(":")
    installed = getattr(importlib.import_module(module), attribute)
    given: dict[str, Any] = {
        "runtime_api_address": address,
        "token": token,
        "insecure": certificates is None,
        "certificates": None if certificates is None else Path(certificates).read_bytes(),
    }
    if kind == CLIENT:
        from flwr.app.error import Error

        run = replaced(
            RUN[kind],
            install_from_fab=lambda *_, **__: None,
            get_load_client_app_fn=lambda *_, **__: lambda *_, **__: installed,
            Error=lambda code, reason: Error(code, "see the site's own log"),
        )
        run.run_clientapp(**given)
    else:
        from not_core.service.replies import Replies

        run = replaced(
            RUN[kind],
            HttpGrid=Replies,
            install_from_fab=lambda *_, **__: None,
            get_fab_metadata=lambda *_: ("", ""),
            get_project_dir=lambda *_: "",
            get_project_config=lambda *_: {
                "tool": {"flwr": {"app": {"components": {"serverapp": app}}}}
            },
            get_fused_config_from_dir=lambda _, override: override,
            run_=_runs(installed),
        )
        run.run_serverapp(log_queue=Queue(), **given)


def _runs(installed: Any) -> Any:
    def run(*, grid: Any, context: Any, server_app_dir: str, server_app_attr: str) -> Any:
        installed(grid=grid, context=context)
        return context

    return run


def _begin_journal() -> None:
    importlib.import_module("flwr.supercore.logger")  # which gives Flower's logger its own handler
    journal.begin()


def main(words: Sequence[str]) -> None:
    """Run a program of Flower's; the first word says which.

    Raises:
        ServiceError: Its insides are not those that were read.
    """
    program, *rest = words
    os.environ |= QUIET
    end_with_parent()
    _begin_journal()
    if program == "superexec":
        superexec(rest[0], rest[1], rest[2], rest[3:])
    elif program == "supernode":
        supernode(Path(rest[0]), float(rest[1]), rest[2:])
    else:
        superlink(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
