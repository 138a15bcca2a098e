"""The coordinator's Flower app: one run is one exchange.

In a deployment the run's configuration names it: ``home`` (the coordinator's folder), ``exchange``,
``sites``, ``span``, ``tokens``, ``learning-rate`` and ``seed``.
"""

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from not_core.errors import ExchangeError, HomeError
from not_core.manifest import Span
from not_core.protocol import Terms
from server.exchange import Event, Exchange, Settings
from server.home import Coordinator, load

Configure = Callable[[Context], tuple[Coordinator, Settings]]


def configured(context: Context) -> tuple[Coordinator, Settings]:
    """Read home and settings from the run's configuration.

    Raises:
        HomeError: It names no home.
        ExchangeError: A setting is missing or not valid.
    """
    config = context.run_config
    home = config.get("home")
    if not isinstance(home, str) or not home:
        raise HomeError("the run names no home; add --run-config 'home=\"/path\"'")
    try:
        start, _, stop = str(config["span"]).partition(":")
        terms = Terms(
            span=Span(start=int(start), stop=int(stop)),
            rank=int(str(config["rank"])) or None,
            tokens=int(str(config["tokens"])),
            learning_rate=float(str(config["learning-rate"])),
            seed=int(str(config["seed"])),
        )
        settings = Settings(
            exchange=str(config["exchange"]), sites=int(str(config["sites"])), terms=terms
        )
    except (KeyError, ValueError) as error:
        raise ExchangeError(
            "the run's configuration needs exchange, sites, span START:STOP, rank (0 for whole "
            f"layers), tokens, learning-rate and seed; {type(error).__name__} in what was given"
        ) from None
    return load(Path(home)), settings


def coordinator_app(
    configure: Configure, notify: Callable[[Event], None] = lambda event: None
) -> ServerApp:
    """Make the app that runs the exchange that ``configure`` names."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        coordinator, settings = configure(context)
        Exchange(grid, coordinator, settings, notify).run()

    return app


app = coordinator_app(configured)
