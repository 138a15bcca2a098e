"""The coordinator's Flower app: one run is one exchange.

In a deployment the run's configuration names it: ``home`` (the coordinator's folder), ``exchange``,
``sites``, ``span``, ``tokens``, ``learning-rate``, ``seed``, and if not all, who is ``invited``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from not_core.errors import ExchangeError, FormatError, HomeError
from not_core.manifest import Span
from not_core.protocol import Terms
from not_core.trust.certificates import check_name
from server.exchange import Event, Exchange, Settings, run_in_passes
from server.home import Coordinator, load

MOST_SITES = 10_000
LARGEST = 2**53 - 1
"""Of the numbers of terms, as JSON holds them."""

Value = TypeVar("Value")

Configure = Callable[[Context], tuple[Coordinator, Settings]]


def configured(context: Context) -> tuple[Coordinator, Settings]:
    """Read home and settings from the run's configuration; time limits are the home's.

    Raises:
        HomeError: It names no home.
        ExchangeError: A setting is missing or not valid.
    """
    home = context.run_config.get("home")
    if not isinstance(home, str) or not home:
        raise HomeError("the run names no home; add --run-config 'home=\"/path\"'")
    asked = settings(context.run_config)
    coordinator = load(Path(home))
    return coordinator, replace(asked, limits=coordinator.settings.limits)


def settings(config: Mapping[str, object]) -> Settings:
    """What an exchange is, from a run's configuration.

    Raises:
        ExchangeError: A setting is missing or not valid; the message says which.
    """
    mode = str(config.get("mode") or "replace")
    if mode not in ("replace", "insert"):
        raise ExchangeError("the exchange's mode is not valid, expected replace or insert")
    return Settings(
        exchange=_field(config, "exchange", "a name", _exchange_name),
        sites=_field(config, "sites", f"a number up to {MOST_SITES}", _between(0, MOST_SITES)),
        terms=Terms(
            span=_field(config, "span", "START:STOP, the first below the second", _span),
            rank=_field(config, "rank", "0 or the rank of factors", _between(0, LARGEST)) or None,
            tokens=_field(config, "tokens", "a number from 1", _between(1, LARGEST)),
            learning_rate=_field(
                config, "learning-rate", "a number between 0 and 1, such as 0.001", _rate
            ),
            seed=_field(config, "seed", "a number from 0", _between(0, LARGEST)),
        ),
        invited=_field({"invited": "", **config}, "invited", "names of sites", _site_names),
        mode="insert" if mode == "insert" else "replace",
    )


def _field(
    config: Mapping[str, object], name: str, expected: str, read: Callable[[str], Value]
) -> Value:
    try:
        return read(str(config[name]))
    except (KeyError, ValueError, FormatError):
        raise ExchangeError(
            f"the exchange's {name} is {'not valid' if name in config else 'missing'}, expected "
            f"{expected}"
        ) from None


def _exchange_name(text: str) -> str:
    return check_name(text, "exchange name")


def _site_names(text: str) -> tuple[str, ...]:
    return tuple(check_name(name, "site name") for name in text.replace(",", " ").split())


def _span(text: str) -> Span:
    start, _, stop = text.partition(":")
    return Span(start=int(start), stop=int(stop))


def _between(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not least <= (number := int(text)) <= most:
            raise ValueError
        return number

    return read


def _rate(text: str) -> float:
    if not 0 < (rate := float(text)) < 1:
        raise ValueError
    return rate


def config_of(asked: Settings) -> dict[str, Any]:
    """The configuration from which ``settings`` reads the same."""
    terms = asked.terms
    return {
        "exchange": asked.exchange,
        "sites": asked.sites,
        "span": str(terms.span),
        "tokens": terms.tokens,
        "rank": terms.rank or 0,
        "learning-rate": terms.learning_rate,
        "seed": terms.seed,
        "mode": asked.mode,
        "invited": ",".join(sorted(set(asked.invited))),
    }


def coordinator_app(
    configure: Configure, notify: Callable[[Event], None] = lambda event: None
) -> ServerApp:
    """Make the app that runs the exchange that ``configure`` names."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        coordinator, settings = configure(context)
        run_in_passes(lambda: Exchange(grid, coordinator, settings, notify))

    return app


app = coordinator_app(configured)
