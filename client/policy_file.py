"""``policy.toml`` as its operator reads and changes it: each field, its value, what it means."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import tomli_w

from client.home import IDENTITY, POLICY, Home, policy_of
from client.home import policy as parsed
from client.policy import Policy
from not_core import atomic, canonical
from not_core.errors import HomeError

SET = "set"
"""Event of the log: the operator has changed a field of the policy by command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One field of a policy.

    Attributes:
        field: Its name.
        value: As ``policy.toml`` would have it; ``absent`` where the field is left out.
        default: Whether that is the value of a field that is left out.
        means: What it says.
    """

    field: str
    value: str
    default: bool
    means: str


def listed(policy: Policy) -> list[Term]:
    """All fields of a policy."""
    means = _meanings()
    return [
        Term(
            field=one.name,
            value=_words(getattr(policy, one.name)),
            default=getattr(policy, one.name) == one.default,
            means=means.get(one.name, ""),
        )
        for one in fields(Policy)
    ]


def change(home: Home, settings: Sequence[str]) -> list[tuple[str, str, str]]:
    """Change fields of a site's policy, all or none; comments stay where that is possible.

    Args:
        home: The site's.
        settings: ``FIELD=VALUE`` each, the value as in TOML or a bare word; empty for the default.

    Returns:
        Field, value before and value after, of those whose value is another now.

    Raises:
        HomeError: No such field, a value that it cannot have, or a file that is not valid; nothing
            has changed then.
    """
    with atomic.locked(home.folder / IDENTITY):  # no task holds that for long
        return _change(home, settings)


def _change(home: Home, settings: Sequence[str]) -> list[tuple[str, str, str]]:
    path = home.folder / POLICY
    before = policy_of(home.folder)
    text = path.read_text(encoding="utf-8")
    table = tomllib.loads(text)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise HomeError(f"{setting} sets nothing; expected FIELD=VALUE, or FIELD= for default")
        if name not in Policy.__dataclass_fields__:
            raise HomeError(f"a policy has no field {name}; see 'organ-site policy'")
        table.pop(name, None)
        if value:
            table[name] = _value(value)
        text = _edited(text, name, table)
    after = parsed(table)
    if not _says(text, table):
        text = tomli_w.dumps(table)
    changed = [
        (old.field, old.value, new.value)
        for old, new in zip(listed(before), listed(after), strict=True)
        if old.value != new.value
    ]
    data = text.encode()
    for name, _, value in changed:
        home.log.append(SET, what=f"policy {name} = {value}", digest=canonical.sha256(data))
    atomic.write(path, data, mode=path.stat().st_mode & 0o777)
    return changed


def _value(text: str) -> Any:
    """A value in TOML, or else the word itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _edited(text: str, name: str, table: Mapping[str, Any]) -> str:
    """A file's text with another value of a field that has a line of its own, or a new line.

    Who calls compares what it says: it is not sure to be right.
    """
    line = re.compile(rf"^{name}[ \t]*=[^#\n]*?([ \t]*#.*)?$\n?", re.MULTILINE)
    if name not in table:
        return line.sub("", text)
    new = tomli_w.dumps({name: table[name]}).rstrip("\n").replace("\n", " ")
    found = line.search(text)
    if found is None:
        return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{new}\n"
    return f"{text[: found.start()]}{new}{found[1] or ''}\n{text[found.end() :]}"


def _says(text: str, table: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == table
    except tomllib.TOMLDecodeError:  # of a field that had several lines one was replaced
        return False


def _words(value: Any) -> str:
    """A value as TOML has it."""
    if value is None:
        return "absent"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_words, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def _meanings() -> dict[str, str]:
    """What each field means, in the words of the class's own documentation."""
    text = (Policy.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()).replace("``", "") for name, words in found}
