"""What an exchange is asked for with, at the command line or the page; the catalogue keeps it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic.dataclasses import dataclass

from not_core.canonical import Name
from not_core.errors import ExchangeError
from not_core.manifest import Positive, Span
from not_core.protocol import Terms
from not_core.settings import parsed


def _span(said: object) -> Span:
    start, _, stop = str(said).partition(":")
    try:
        return Span(start=int(start), stop=int(stop))
    except ValueError:
        raise ValueError("expected START:STOP, the first below the second") from None


def _names(said: Any) -> list[str]:
    return sorted(set(said.replace(",", " ").split() if isinstance(said, str) else said))


WORDS = ConfigDict(
    extra="forbid",
    alias_generator=lambda name: name.replace("_", "-"),
    validate_by_name=True,
    validate_by_alias=True,
    serialize_by_alias=True,
)
"""Numbers may be text, as in a form."""


@dataclass(frozen=True, slots=True, kw_only=True, config=WORDS)
class Asked(Terms):
    """What an exchange is: what donors train, and among whom.

    Attributes:
        exchange: Its name; a name is resumed, not begun again.
        span: Layers, START:STOP in words.
        rank: Of factors; None, 0 in words, trains the layers whole.
        sites: To wait for; 0 for as many as are invited.
        mode: How recipients put organs in.
        invited: Names of the sites that take part; all that come, if there are none.
    """

    exchange: Name
    span: Annotated[Span, BeforeValidator(_span), PlainSerializer(str)]
    rank: Annotated[
        Positive | None,
        BeforeValidator(lambda said: None if said in (0, "0") else said),
        PlainSerializer(lambda rank: rank or 0),
    ]
    sites: Annotated[int, Field(ge=0, le=10_000)] = 0
    mode: Literal["replace", "insert"] = "replace"
    invited: Annotated[tuple[Name, ...], BeforeValidator(_names), PlainSerializer(",".join)] = ()

    @classmethod
    def of(cls, terms: Terms, **more: Any) -> "Asked":
        """On such terms."""
        return cls(**{one.name: getattr(terms, one.name) for one in fields(Terms)}, **more)

    @property
    def terms(self) -> Terms:
        """What donors are told."""
        return Terms(**{one.name: getattr(self, one.name) for one in fields(Terms)})

    @property
    def words(self) -> dict[str, Any]:
        """Words and numbers from which ``read`` reads the same."""
        return dict(TypeAdapter(Asked).dump_python(self, mode="json"))


def read(words: Mapping[str, object]) -> Asked:
    """What is asked for, from words and numbers.

    Raises:
        ExchangeError: Something is missing or not valid; the message says what.
    """
    return parsed(dict(words), Asked, "exchange asked for", ExchangeError)
