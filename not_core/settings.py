"""Settings that an operator edits: a TOML file, read into a dataclass with its rules."""

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from not_core.errors import HomeError, NotError

T = TypeVar("T")


def read(path: Path, cls: type[T], make: str) -> T:
    """Read a file of settings.

    Args:
        path: The file.
        cls: A pydantic dataclass.
        make: The command that makes the file, for the message where there is none.

    Raises:
        HomeError: It is missing or not valid.
    """
    if not path.is_file():
        raise HomeError(f"no {path.name} in {path.parent}; make a home with {make}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HomeError(f"{path} is not TOML ({error}); correct it") from None
    return parsed(table, cls, str(path))


def parsed(table: dict[str, Any], cls: type[T], what: str, wrong: type[NotError] = HomeError) -> T:
    """Settings from plain data.

    Raises:
        NotError: A value is missing or not valid; of the class ``wrong``.
    """
    try:
        return TypeAdapter(cls).validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        # A field that is not known may hold a secret.
        hidden = ("missing", "missing_argument", "extra_forbidden", "unexpected_keyword_argument")
        found = "" if first["type"] in hidden else f", not {first['input']!r:.60}"
        raise wrong(f"{what}: {where}: {first['msg']}{found}; correct it") from None
