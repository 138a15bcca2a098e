"""Mutants of the code that decides whether an artefact is accepted, and which of them tests miss.

    PYTHONPATH=. python tests/mutants.py --out docs/results/mutants.md

One mutant is one small edit of one module of ``PATH``: a check left out, a comparison turned, a
bound moved by one, a field's form widened, an item of a list dropped. Each is run against the fast
tests that run its statement (all fast tests, where it is in no function), quickest first, until one
fails. What was found is kept in ``mutants/``, so a run that is stopped goes on where it was: a
mutant is run again when its module changed, and one that survived also when a test did.

Survivors are explained in ``tests/mutants.toml``; the exit code is 1 while one is not.

Not mutated are what ``PATH`` names in each module, which makes artefacts and accepts none, and what
errors say: the message of a ``raise``, and the noun for it that ``WORDED`` are called with.
"""

import argparse
import ast
import gc
import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from os.path import commonprefix  # of characters, as is meant here
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
WORK = ROOT / "mutants"
FILES = [
    *(
        f"tests/test_trust_{name}.py"
        for name in [
            "addressees",
            "bits",
            "federation",
            "keys",
            "merkle",
            "revocation",
            "sealing",
            "signing",
            "tree_head",
        ]
    ),
    "tests/test_vectors.py",
    "tests/test_surgery_quarantine.py",
]
SLOW = [
    "tests/test_surgery_quarantine.py::test_a_signed_and_sealed_but_poisoned_organ_never_touches_a_sites_model",
    "tests/test_surgery_quarantine.py::test_memory_follows_the_largest_tensor",
    "tests/test_trust_bits.py::test_a_sealed_file",
    "tests/test_trust_federation.py::test_openssf_verifies_with_an_admitted_certificate",
    "tests/test_trust_sealing.py::test_any_flipped_bit_is_refused",
    "tests/test_trust_sealing.py::test_openssf_accepts_an_opened_folder_until_a_byte_changes",
    "tests/test_trust_signing.py::test_a_signer_cannot_exempt_files",
    "tests/test_trust_signing.py::test_the_public_commands_agree",
    "tests/test_vectors.py::test_the_generator_reproduces_every_byte",
]
LONGEST = 0.6
"""Seconds of a processor that a test may take to be among the fast ones."""

PATH = {
    f"not_core.{name}": frozenset(makers.split())
    for name, makers in {
        "trust.signing": "sign_folder _in_der _wrong_files _difference",
        "trust.statement": "sign_statement signed_by claimed_payload",
        "trust.certificates": "binding key_usage",
        "trust.revocation": "build RevocationList.pem RevocationList.due_words Revocation.words",
        "trust.profile": "Request write_profile read_request write_request sealing_private_key",
        "trust.offer": "sign_offer peek_offer",
        "trust.delivery": "write_header",
        "trust.sealing": "seal rewrap Terms _readers _write _encrypt",
        "trust.addressees": "verified named padded wrapped _wrap _thrown_away",
        "trust.archive": "pack",
        "trust.seen": "",
        "trust.merkle": "inclusion_path consistency_path",
        "trust.tree_head": "sign_head public TreeHead.log",
        "trust.federation": "describe_profile Trust.pem",
        "surgery.quarantine": "",
    }.items()
}
"""The modules of the verify path, each with what in it is not of that path."""

BROKEN = 70
COLUMNS = ("mutants", "killed", "survived", "timed out", "open")
REASONS = ROOT / "tests" / "mutants.toml"
INTRODUCTION = """# Mutants of the verify path

`make mutants`: one small edit at a time of the code that decides whether an artefact is accepted
(a check left out, a condition dropped or turned, a bound moved by one, a field's form widened, an
item of a list or an argument left out), each run against the fast tests that run its statement:
`tests/test_trust_*`, `tests/test_vectors.py` and `tests/test_surgery_quarantine.py`, those of at
most 0.6 s. What slower tests alone would find, and the rest of the suite, counts as survived.

Left out are functions that make artefacts and accept none, or that only word an error (`PATH` in
`tests/mutants.py` names them), the message in a `raise`, and the noun that a check is given for its
message. A mutant that runs until its time is up (four times the tests' own, and 30 s) is counted
apart. Open are those that were not run yet, or survived some of the tests only, or earlier tests.
Survivors stand below, each with why no test tells it from the original.
"""
OUTCOME = """| survivor | why |
| --- | --- |"""
WORDED = frozenset(
    [
        "decode",
        "plain",
        "unbase64",
        "read_public",
        "certificate_errors",
        "check_validity",
        "check_name",
        "_bundle",
    ]
)
WIDER = {
    **dict.fromkeys(("Digest", "Name", "Line", "Pem", "Base64", "_Text", "Literal"), "str"),
    **dict.fromkeys(("Positive", "Count"), "int"),
}
COSMETIC = frozenset({"frozen", "slots", "kw_only", "eq"})
COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
BARE = frozenset(["sorted", "set", "int", "min", "max"])
DEFAULTED = frozenset({"decode", "read_bounded", "Trust"})


@dataclass(frozen=True)
class Mutant:
    """An edit: the bytes ``start`` to ``stop`` of a module become ``new``."""

    module: str
    function: str
    row: int
    line: str
    old: str
    new: str
    again: int
    start: int
    stop: int

    @property
    def key(self) -> str:
        """What finds it again, wherever its line has moved."""
        return "\t".join((self.module, self.function, self.line, self.old, self.new)) + (
            f"\t{self.again}" if self.again else ""
        )


def changed(node: ast.AST, **parts: Any) -> str:
    """The source of a node with other parts."""
    copy = deepcopy(node)
    for name, value in parts.items():
        setattr(copy, name, value)
    return ast.unparse(copy)


def without(items: list[Any], index: int) -> list[Any]:
    return items[:index] + items[index + 1 :]


def says(node: ast.AST) -> bool:
    """Whether an argument of an error is its message."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    )


def name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def number_of(node: ast.AST) -> int | None:
    """The number that is written as a product or power of others, such as ``64 * 1024``."""
    if any(not isinstance(one, ast.BinOp | ast.Constant | ast.operator) for one in ast.walk(node)):
        return None
    value = eval(ast.unparse(node), {})  # noqa: S307 - numbers of our own source
    return value if isinstance(value, int) else None


def expression_edits(node: ast.AST) -> Iterator[str]:
    """What an expression may be replaced by."""
    match node:
        case ast.Compare():
            for index, op in enumerate(node.ops):
                for other in COMPARED[type(op)]:
                    ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                    yield f"({changed(node, ops=ops)})"
        case ast.BoolOp():
            yield f"({changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())})"
            for index in range(len(node.values)):
                yield f"({changed(node, values=without(node.values, index))})"
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"({ast.unparse(node.operand)})"
        case ast.BinOp() if (number := number_of(node)) is not None:
            yield from (f"({number + 1})", f"({number - 1})")
        case ast.BinOp() if type(node.op) in COMPUTED:
            yield f"({changed(node, op=COMPUTED[type(node.op)]())})"
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=int()):
            yield f"({node.value + 1})"
            if node.value:
                yield f"({node.value - 1})"
        case ast.Constant(value=float()):
            yield f"({node.value * 2})"
        case ast.Constant(value=str()):
            yield repr("XX" + node.value)
        case ast.Constant(value=bytes()):
            yield repr(b"XX" + node.value)
        case ast.JoinedStr():
            yield f"('XX' + {ast.unparse(node)})"
        case ast.IfExp():
            yield from (f"({ast.unparse(one)})" for one in (node.body, node.orelse))
        case ast.Call():
            for index, one in enumerate(node.keywords):
                if one.arg not in COSMETIC:
                    yield changed(node, keywords=without(node.keywords, index))
            name = name_of(node.func)
            if name in DEFAULTED:
                yield changed(node, args=node.args[:-1])
            if isinstance(node.func, ast.Name) and name in {"any", "all"}:
                yield changed(node, func=ast.Name({"any": "all", "all": "any"}[name]))
            elif isinstance(node.func, ast.Name) and name in BARE:
                yield from (f"({ast.unparse(one)})" for one in node.args)
        case ast.Dict() if len(node.keys) > 1:
            for index in range(len(node.keys)):
                kept = {part: without(getattr(node, part), index) for part in ("keys", "values")}
                yield changed(node, **kept)
        case ast.Set() | ast.List() | ast.Tuple() if len(node.elts) > 1:
            if not isinstance(getattr(node, "ctx", None), ast.Store):
                for index in range(len(node.elts)):
                    yield f"{changed(node, elts=without(node.elts, index))}"


def statement_edits(node: ast.AST) -> Iterator[str]:
    """What a statement may be replaced by."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Return(value=None):
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case ast.Continue():
            yield "break"


def edits(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """All edits within a node, each with the node that it replaces."""
    yield from ((node, new) for new in statement_edits(node))
    yield from ((node, new) for new in expression_edits(node))
    for part in (getattr(node, "test", None), *getattr(node, "ifs", ())):
        if part is not None and not isinstance(part, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield part, f"(not {ast.unparse(part)})"
    if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Tuple):
        caught = node.type
        for index in range(len(caught.elts)):
            yield caught, changed(caught, elts=without(caught.elts, index))
        children: list[ast.AST] = list(node.body)
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value else []
    elif isinstance(node, ast.withitem) and node.optional_vars is None:
        yield node.context_expr, "__import__('contextlib').nullcontext()"
        children = [node.context_expr]
    elif isinstance(node, ast.FunctionDef):
        children = [*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, *node.body]
    elif isinstance(node, ast.Raise):
        call = node.exc
        arguments = [*call.args, *call.keywords] if isinstance(call, ast.Call) else []
        children = [one for one in arguments if not says(getattr(one, "value", one))]
        children = [one for one in children if not says(one)]
    elif isinstance(node, ast.Call) and name_of(node.func) in WORDED:
        children = [
            one
            for one in [node.func, *node.args, *node.keywords]
            if not isinstance(one, ast.JoinedStr)
            and not (isinstance(one, ast.Constant) and isinstance(one.value, str))
        ]
    elif isinstance(node, ast.JoinedStr):
        children = []  # its parts have no places of their own
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        children = []  # words about the line above
    elif (
        (isinstance(node, ast.Assign) and name_of(node.targets[0]) == "__all__")
        or (isinstance(node, ast.keyword) and node.arg in COSMETIC)
        or (isinstance(node, ast.BinOp) and number_of(node) is not None)
    ):
        children = []
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        if child is not None:
            yield from edits(child)


def field_edits(annotation: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Wider forms of a field, and other bounds."""
    if isinstance(annotation, ast.Name) and annotation.id in WIDER:
        yield annotation, WIDER[annotation.id]
    elif isinstance(annotation, ast.Subscript) and name_of(annotation.value) == "Literal":
        yield annotation, WIDER["Literal"]
    elif isinstance(annotation, ast.Call):
        yield from edits(annotation)
    else:
        for child in ast.iter_child_nodes(annotation):
            yield from field_edits(child)


def scopes(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions, methods, and what stands outside of both, each with its name."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for one in [*node.decorator_list, *node.body]:
                inner = isinstance(one, ast.FunctionDef)
                yield (f"{node.name}.{one.name}" if inner else node.name), one
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.AnnAssign) and node.value:
            yield name_of(node.target), node.value
        elif (
            isinstance(node, ast.Assign) and name_of(getattr(node.value, "func", node)) != "TypeVar"
        ):
            yield name_of(node.targets[0]), node


def source_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module that compiles to other code than its source."""
    source = source_of(module).read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    plain, seen, found = ast.dump(ast.parse(source)), Counter[str](), []
    for function, scope in scopes(ast.parse(source)):
        if {function, function.split(".")[0]} & PATH[module]:
            continue
        fields = field_edits(scope.annotation) if isinstance(scope, ast.AnnAssign) else ()
        for node, new in [*fields, *edits(scope)]:
            where: Any = node
            start = starts[where.lineno - 1] + where.col_offset
            stop = starts[where.end_lineno - 1] + where.end_col_offset
            try:
                other = ast.parse(source[:start] + new.encode() + source[stop:])
            except SyntaxError:
                continue
            if ast.dump(other) == plain:
                continue
            old = " ".join(source[start:stop].decode().split())
            line = lines[where.lineno - 1].decode().strip()
            one = Mutant(module, function, where.lineno, line, old, new, 0, start, stop)
            again = seen[one.key]
            seen[one.key] += 1
            found.append(
                Mutant(*(module, function, where.lineno, line, old, new), again, start, stop)
            )
    return found


def replaced(mutant: Mutant) -> bytes:
    """The source of a mutant's module."""
    source = source_of(mutant.module).read_bytes()
    return source[: mutant.start] + mutant.new.encode() + source[mutant.stop :]


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other source."""

    def __init__(self, mutant: Mutant) -> None:
        self.module, self.source = mutant.module, replaced(mutant)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, source_of(name), loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, source_of(self.module), "exec"), module.__dict__)  # noqa: S102


class Recorder:
    """Which test runs which line of the path, and how long each takes.

    What a fixture runs that tests share counts for all tests of the file.
    """

    def __init__(self) -> None:
        self.calls: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.files = {str(source_of(module)): module for module in PATH}
        self.test = ""

    def called(self, frame: FrameType, _event: str, _value: Any) -> Any:
        module = self.files.get(frame.f_code.co_filename)
        if module is None:
            return None

        def line(frame: FrameType, _event: str, _value: Any) -> Any:
            self.calls[self.test].add((module, frame.f_lineno))
            return line

        return line(frame, "", None)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        test = self.test
        if fixturedef.scope != "function":
            self.test = test.split("::")[0]
        try:
            return (yield)
        finally:
            self.test = test

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        self.test, start = item.nodeid, time.process_time()
        threading.settrace(self.called)
        sys.settrace(self.called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            self.seconds[item.nodeid] = time.process_time() - start


class FirstFailure:
    """Remembers which test failed."""

    test = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.test = self.test or report.nodeid


def run_tests(names: list[str], plugin: object) -> int:
    flags = ["-x", "-q", "-s", "-p", "no:cacheprovider", "--tb=no", "--rootdir", str(ROOT)]
    return int(pytest.main([*flags, "--basetemp", str(WORK / "tmp"), *names], plugins=[plugin]))


def forget() -> None:
    """Drop our own modules, and keep those of others, so that a mutant is imported."""
    ours = [
        name
        for name, module in sys.modules.items()
        if (getattr(module, "__file__", None) or "").startswith(str(ROOT))
        and ".venv" not in str(module.__file__)
        and name != "__main__"
    ]
    for name in ours:
        del sys.modules[name]


def in_child(task: Callable[[], str], seconds: float) -> str:
    """What a task says that runs in a child of this process; empty if it took too long."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = BROKEN
        try:
            os.close(reader)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            signal.alarm(20 * int(seconds))
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
            os.write(writer, task().encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return (
            "" if os.WTERMSIG(status) in {signal.SIGXCPU, signal.SIGALRM} else "killed by a signal"
        )
    if os.WEXITSTATUS(status):
        raise SystemExit("the runner itself fails in a child")
    return said


def imported(mutant: Mutant, tests: list[str]) -> str:
    """Import all of ours with a mutant and run tests."""
    forget()
    sys.meta_path.insert(0, Mutated(mutant))
    plugin = FirstFailure()
    code = run_tests(tests, plugin)
    return "survived" if code == 0 else f"killed by {plugin.test or 'import'}"


def put_in_place(mutant: Mutant) -> None:
    """Give a function that is in use everywhere the code of its mutant."""
    space: dict[str, Any] = {"__name__": mutant.module}
    exec(compile(replaced(mutant), source_of(mutant.module), "exec"), space)  # noqa: S102
    first, _, method = mutant.function.partition(".")
    pair = [space[first], vars(sys.modules[mutant.module])[first]]
    if method:
        pair = [vars(one)[method] for one in pair]
    new, old = (inspect.unwrap(getattr(one, "fget", one)) for one in pair)
    old.__code__, old.__defaults__, old.__kwdefaults__ = (
        *(new.__code__, new.__defaults__, new.__kwdefaults__),
    )


class Loop:
    """In place of pytest's loop over tests: one over mutants, each in a child."""

    def __init__(self, run: "Run") -> None:
        self.run = run

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        self.run.loop(lambda mutant, tests: self.run_items(mutant, [items[name] for name in tests]))
        return True

    def run_items(self, mutant: Mutant | None, items: list[Any]) -> str:
        if mutant is not None:
            put_in_place(mutant)
        plugin = FirstFailure()
        items[0].config.pluginmanager.register(plugin)
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if plugin.test:
                return f"killed by {plugin.test}"
        return "survived"


def record(digest: str) -> tuple[dict[str, float], dict[str, set[tuple[str, int]]]]:
    """Seconds and calls of each test; of the last run, if ``digest``, of all files, is the same."""
    kept = WORK / "calls.json"
    if not kept.exists() or json.loads(kept.read_text())["digest"] != digest:

        def task() -> str:
            recorder = Recorder()
            code = run_tests([*FILES, *(f"--deselect={name}" for name in SLOW)], recorder)
            if code != 0:
                return f"tests fail without a mutant: pytest's exit code is {code}"
            calls = {test: sorted(rows) for test, rows in recorder.calls.items()}
            rows = {"digest": digest, "seconds": recorder.seconds, "calls": calls}
            kept.write_text(json.dumps(rows))
            return "done"

        if (said := in_child(task, 1000)) != "done":
            raise SystemExit(said)
    known = json.loads(kept.read_text())
    calls = {test: {(a, b) for a, b in rows} for test, rows in known["calls"].items()}
    return known["seconds"], calls


@cache
def functions_of(module: str) -> dict[str, tuple[int, int]]:
    """First and last line of each function."""
    tree = ast.parse(source_of(module).read_bytes())
    return {
        name: (
            min([node.lineno, *(one.lineno for one in node.decorator_list)]),
            node.end_lineno or 0,
        )
        for name, node in scopes(tree)
        if isinstance(node, ast.FunctionDef)
    }


@cache
def statements_of(module: str) -> dict[int, tuple[int, int]]:
    """For each line of a function's body, the first and last of its statement, or of its head."""
    found = {}
    for function in ast.walk(ast.parse(source_of(module).read_bytes())):
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
            if isinstance(node, ast.stmt | ast.ExceptHandler) and node is not function:
                body = getattr(node, "body", None)
                last = body[0].lineno - 1 if body else node.end_lineno or 0
                rows = (node.lineno, max(node.lineno, last))
                found |= dict.fromkeys(range(rows[0], rows[1] + 1), rows)
    return found


def sha256(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


class Run:
    """Judges every mutant whose fate is not known, those in functions first."""

    def __init__(self, modules: list[str], results: Path, most: float | None) -> None:
        self.results = results
        self.most = most
        self.known = json.loads(results.read_text()) if results.exists() else {}
        self.tests = sha256(*(ROOT / name for name in FILES))
        self.killers: dict[str, Counter[str]] = defaultdict(Counter)
        self.number = 0
        self.todo = [
            one for module in modules for one in mutants_of(module) if not self.is_known(one)
        ]
        self.todo.sort(key=lambda one: one.function not in functions_of(one.module))
        print(f"{len(self.todo)} mutants to run", flush=True)

    def is_known(self, one: Mutant) -> bool:
        was = self.known.get(one.key)
        return bool(
            was
            and was["module"] == sha256(source_of(one.module))
            and (was["fate"].startswith("killed") or was["tests"] == self.tests)
        )

    def start(self) -> None:
        if self.todo:
            digest = self.tests + sha256(*map(source_of, PATH))
            self.seconds, self.calls = record(digest)
            flags = [*FILES, *(f"--deselect={name}" for name in SLOW)]
            if run_tests(flags, Loop(self)):
                raise SystemExit("tests cannot be collected")

    def loop(self, run_items: Callable[[Mutant | None, list[str]], str]) -> None:
        gc.freeze()
        fate = "survived" if self.most else in_child(lambda: run_items(None, self.fast()), 600)
        if fate != "survived":
            raise SystemExit(f"without a mutant: {fate}")
        for one in self.todo:
            tests, start = self.tests_for(one), time.monotonic()
            usual = 30 + 4 * sum(self.seconds[name] for name in tests)
            if not tests:
                fate = "survived"
            elif one.function in functions_of(one.module):
                fate = in_child(partial(run_items, one, tests), usual)
            else:
                fate = in_child(partial(imported, one, tests), usual)
            self.keep(one, fate or "timed out", time.monotonic() - start)

    def fast(self) -> list[str]:
        """Fast tests, quickest first."""
        names = sorted(self.seconds, key=lambda name: self.seconds[name])
        return [name for name in names if self.seconds[name] <= LONGEST]

    def tests_for(self, mutant: Mutant) -> list[str]:
        """Those that reach a mutant; first those that killed others of the same function."""
        surgery = "surgery" in mutant.module
        found = [name for name in self.fast() if ("surgery" in name) == surgery]
        rows = functions_of(mutant.module).get(mutant.function)
        if rows is not None:
            rows = statements_of(mutant.module).get(mutant.row, rows)
            reached = {
                test
                for test, calls in self.calls.items()
                if any(a == mutant.module and rows[0] <= b <= rows[1] for a, b in calls)
            }
            found = [one for one in found if {one, one.split("::")[0]} & reached]
        likely = [name for name, _ in self.killers[mutant.function].most_common(3)]
        found.sort(key=lambda name: name not in likely)
        if self.most is None:
            return found
        sums = accumulate(self.seconds[name] for name in found)
        return [name for name, total in zip(found, sums, strict=True) if total <= self.most]

    def keep(self, one: Mutant, fate: str, took: float) -> None:
        if fate.startswith("killed by tests"):
            self.killers[one.function][fate.removeprefix("killed by ")] += 1
        tests = "some" if self.most else self.tests
        row = {"fate": fate, "module": sha256(source_of(one.module)), "tests": tests}
        self.known[one.key] = row
        new = self.results.with_suffix(".new")
        new.write_text(json.dumps(self.known, indent=1, sort_keys=True))
        new.replace(self.results)
        self.number += 1
        if not fate.startswith("killed") or self.number % 20 == 0:
            edit = f"{one.module}:{one.row}: {one.old} -> {one.new}"
            print(f"{self.number}: {fate}, {took:.1f} s: {edit}", flush=True)


def explanations() -> dict[str, str]:
    """Why mutants survive, by a mutant's key."""
    rows = tomllib.loads(REASONS.read_text("utf-8")).get("survivor", [])
    return {
        "\t".join((row["module"], row["function"], row["line"], edit.replace(" → ", "\t"))): row[
            "why"
        ]
        for row in rows
        for edit in row["edits"]
    }


def short(text: str, most: int = 90) -> str:
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def shown(one: Mutant) -> str:
    """An edit in one line: long ones without what is the same at both ends."""
    old, new = one.old, one.new
    try:
        old, new = (ast.unparse(ast.parse(text)) for text in (old, new))
    except SyntaxError:
        return f"{short(old)} → {short(new)}"
    if len(old) > 60:
        start = len(commonprefix([old, new]))  # noqa: RUF071
        stop = len(commonprefix([old[start:][::-1], new[start:][::-1]]))  # noqa: RUF071
        old, new = (f"…{text[start : len(text) - stop]}…" for text in (old, new))
    return f"{short(old)} → {short(new)}"


def report(known: dict[str, dict[str, str]]) -> tuple[str, list[str]]:
    """What was found, in Markdown, and what is wrong with it."""
    why, total, wrong, tests = (
        explanations(),
        Counter[str](),
        [],
        sha256(*map(ROOT.joinpath, FILES)),
    )
    rows: list[list[str]] = []
    survivors: list[str] = []
    for module in PATH:
        count, digest = Counter[str](), sha256(source_of(module))
        for one in mutants_of(module):
            was = known.get(one.key, {"fate": "open", "module": digest})
            fate = was["fate"].split(" by ")[0] if was["module"] == digest else "open"
            reason = why.pop(one.key, "") if fate == "survived" else ""
            if fate == "survived":
                edit = f"{shown(one)} in {short(one.line)}"
                words = reason or "**not explained**"
                survivors.append(f"| `{one.function or module}`: {edit} | {words} |")
                if was["tests"] != tests:
                    fate = "open"
            if fate == "open" or (fate == "survived" and not reason):
                wrong.append(f"{fate}: {one.module}:{one.row}: {one.old} -> {one.new}")
            count[fate] += 1
            count["mutants"] += 1
        total += count
        rows.append([f"`{module}`", *(f"{count[name]}" for name in COLUMNS)])
    wrong += [f"explained, but no survivor: {key}" for key in why]
    rows.append(["all", *(f"{total[name]}" for name in COLUMNS)])
    head = ["module", *COLUMNS]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([INTRODUCTION, *lines, "", OUTCOME, *survivors, ""]), wrong


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    options.add_argument("--count", action="store_true", help="only list the mutants")
    options.add_argument(
        "--most",
        type=float,
        help="seconds of tests a mutant, for a first look; its survivors are run again without",
    )
    options.add_argument("modules", nargs="*", default=list(PATH))
    chosen = options.parse_args()
    if chosen.count:
        for module in chosen.modules:
            found = mutants_of(module)
            print(module, len(found))
            for one in found:
                print(f"  {one.row}: {one.old} -> {one.new}")
        return
    WORK.mkdir(exist_ok=True)
    results = WORK / "results.json"
    Run(chosen.modules, results, chosen.most).start()
    text, wrong = report(json.loads(results.read_text()))
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")
    print("\n".join(wrong))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
