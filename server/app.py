"""The coordinator's Flower app: one run is one exchange.

In a deployment the run's configuration names it: ``home`` (the coordinator's folder), ``exchange``,
``sites``, ``span``, ``tokens``, ``learning-rate``, ``seed``, and if not all, who is ``invited``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from not_core.errors import ExchangeError, FormatError, HomeError
from not_core.manifest import Span
from not_core.protocol import Terms
from not_core.trust.certificates import check_name
from server.exchange import Event, Exchange, Settings
from server.home import Coordinator, load

PATIENCE_SECONDS = 300.0
ENROL_SECONDS = 60.0

Configure = Callable[[Context], tuple[Coordinator, Settings]]


def configured(context: Context) -> tuple[Coordinator, Settings]:
    """Read home and settings from the run's configuration.

    Raises:
        HomeError: It names no home.
        ExchangeError: A setting is missing or not valid.
    """
    home = context.run_config.get("home")
    if not isinstance(home, str) or not home:
        raise HomeError("the run names no home; add --run-config 'home=\"/path\"'")
    asked = settings(context.run_config)
    return load(Path(home)), asked


def settings(config: Mapping[str, object]) -> Settings:
    """What an exchange is, from a run's configuration.

    Raises:
        ExchangeError: A setting is missing or not valid.
    """
    try:
        start, _, stop = str(config["span"]).partition(":")
        terms = Terms(
            span=Span(start=int(start), stop=int(stop)),
            rank=int(str(config["rank"])) or None,
            tokens=int(str(config["tokens"])),
            learning_rate=float(str(config["learning-rate"])),
            seed=int(str(config["seed"])),
        )
        return Settings(
            exchange=check_name(str(config["exchange"]), "exchange name"),
            sites=int(str(config["sites"])),
            terms=terms,
            invited=tuple(
                check_name(name, "site name")
                for name in str(config.get("invited", "")).replace(",", " ").split()
            ),
            mode="insert" if config.get("mode") == "insert" else "replace",
            patience_seconds=PATIENCE_SECONDS,
            enrol_seconds=ENROL_SECONDS,
        )
    except (KeyError, ValueError, FormatError) as error:
        raise ExchangeError(
            "an exchange needs a name, sites, span START:STOP, rank (0 for whole layers), tokens, "
            f"learning-rate and seed; {type(error).__name__} in what was given"
        ) from None


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
        while Exchange(grid, coordinator, settings, notify).run():
            pass

    return app


app = coordinator_app(configured)
