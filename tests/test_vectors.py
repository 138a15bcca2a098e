"""Fixed sealed files: what each must come to, in both implementations, and that they are theirs."""

import ast
import inspect
import re
import shutil
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from second import generate, reading
from second.federation import Trust, trust
from second.primitives import RefusedError, SealingKey
from second.sealed import Files
from second.world import world

from not_core import canonical, errors, protocol
from not_core.errors import NotError
from not_core.trust import (
    addressees,
    archive,
    certificates,
    delivery,
    federation,
    keys,
    offer,
    profile,
    revocation,
    sealing,
    seen,
    signing,
    statement,
)

FOLDER = Path(__file__).parent / "vectors" / "v1"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))


@cache
def said(name: str) -> dict[str, str]:
    """The lines beside a vector."""
    rows = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(row.split(": ", 1) for row in rows)


def file_of(name: str) -> Path:
    return FOLDER / f"{said(name).get('file', name)}.organ"


def with_those_before(name: str) -> list[str]:
    return [*said(name).get("after", "").split(), name]


class Reader:
    """A site's folder, made of the fixed keys, with its memory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def open(self, name: str) -> tuple[str, Path]:
        """What opening comes to, and where the organ is if it was opened."""
        facts = said(name)
        home = self.place / facts["opens-as"]
        if not home.exists():
            shutil.copytree(FOLDER / "identities" / facts["opens-as"], home)
            for path in [home, *home.rglob("*")]:
                path.chmod(0o700 if path.is_dir() else 0o600)
        for part in ("root.pem", "federation.crl"):
            (home / part).unlink(missing_ok=True)
            if (FOLDER / "trust" / facts["trust"] / part).exists():
                shutil.copy(FOLDER / "trust" / facts["trust"] / part, home)
        out = self.place / f"opened-{len(list(self.place.iterdir()))}"
        try:
            opened = sealing.open_sealed(
                file_of(name),
                keys.load(home),
                out,
                exchange=facts.get("exchange"),
                now=int(facts["now"]),
            )
        except NotError as error:
            return error.code, out
        assert opened.path == out
        return "ok", out


class SecondReader:
    """The same, of the second implementation."""

    def __init__(self) -> None:
        self.memory = reading.Memory()

    def open(self, name: str) -> tuple[str, Files]:
        facts = said(name)
        try:
            files = reading.read(
                file_of(name).read_bytes(),
                self.known(facts["trust"]),
                self.keys(facts["opens-as"]),
                int(facts["now"]),
                facts.get("exchange"),
                self.memory,
            )
        except RefusedError as refusal:
            return refusal.code, {}
        return "ok", files

    @staticmethod
    def known(name: str) -> Trust:
        place = FOLDER / "trust" / name
        listed = place / "federation.crl"
        return trust(
            (place / "root.pem").read_bytes(), listed.read_bytes() if listed.exists() else None
        )

    @staticmethod
    def keys(site: str) -> list[SealingKey]:
        w = world()
        found = {"north": [w.north], "south": [w.south, w.old], "west": [w.west]}
        return [one.sealing for one in found[site]]


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str, tmp_path: Path) -> None:
    first, second = Reader(tmp_path), SecondReader()
    *before, last = with_those_before(name)
    for one in before:
        assert (first.open(one)[0], second.open(one)[0]) == ("ok", "ok")
    there = set(tmp_path.iterdir())
    code, out = first.open(last)
    assert code == said(last)["expect"]
    second_code, files = second.open(last)
    assert second_code == code
    left = set(tmp_path.iterdir()) - there - {tmp_path / said(last)["opens-as"]}
    if code == "ok":
        assert left == {out}
        assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    else:
        assert left == set()


def test_there_are_enough_and_each_file_is_described() -> None:
    files = {path.stem for path in FOLDER.glob("*.organ")}
    assert len(files) >= 30
    assert files == {file_of(name).stem for name in NAMES}
    assert len({path.read_bytes() for path in FOLDER.glob("*.organ")}) == len(files)


def test_the_generator_reproduces_every_byte(tmp_path: Path) -> None:
    generate.main(tmp_path / "v1")
    ours, kept = (
        {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path / "v1", FOLDER)
    )
    assert sorted(ours) == sorted(kept)
    assert [path for path, data in ours.items() if data != kept[path]] == []


OPENING: tuple[ModuleType, ...] = (
    addressees,
    archive,
    canonical,
    certificates,
    delivery,
    federation,
    offer,
    profile,
    revocation,
    sealing,
    seen,
    signing,
    statement,
)
"""All that opening goes through."""

OF_THE_MACHINE = {"output-exists", "key-file"}
"""Codes that no file causes: where it is to go is taken, or the reader's own folder is spoiled."""


def test_every_code_of_a_refusal_has_a_vector() -> None:
    raised = {
        node.exc.func.id
        for module in OPENING
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    codes = {
        getattr(errors, name).code
        for name in raised
        if issubclass(getattr(errors, name, ValueError), NotError)
    }
    assert codes >= {"format", "wraps", "unseal"}
    shown = {said(name)["expect"] for name in NAMES}
    assert shown == codes - OF_THE_MACHINE | {"ok"}


def test_the_coordinator_refuses_what_it_can_see(tmp_path: Path) -> None:
    """Without a key: all that is refused before a wrap is opened, by the same code."""
    later = {"unseal", "archive", "organ", "rollback", "not-addressed"}
    checked = 0
    for name in NAMES:
        facts = said(name)
        place = FOLDER / "trust" / facts["trust"]
        try:
            known = federation.load_trust(place)
            delivery.verify_sealed(
                file_of(name), known, now=int(facts["now"]), exchange=facts.get("exchange")
            )
            found = "ok"
        except NotError as error:
            found = error.code
            assert found == facts["expect"]
            checked += 1
        assert found == facts["expect"] or found == "ok", name
        if facts["expect"] in later | {"ok"}:
            assert found == "ok"
    assert checked > 60


@pytest.mark.parametrize("value", [protocol.Enrolment, protocol.Receipt, protocol.Admission])
def test_the_page_names_every_field_of_what_sites_sign(value: type[Any]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "format.md").read_text()
    table = page.split(f"\n**{value.__name__}**")[1].split("\n\n")[1]
    named = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert {name for row in named for name in row} == {one.name for one in fields(value)}
