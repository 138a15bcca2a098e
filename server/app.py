"""The coordinator's Flower app: one run is one exchange.

In a deployment the run's configuration names it: ``home`` (the coordinator's folder), ``exchange``.
What that is, the home's catalogue says.
"""

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from not_core.errors import ExchangeError, HomeError
from server.exchange import Exchange, Settings, run_in_passes
from server.home import Coordinator, load
from server.progress import Event

Configure = Callable[[Context], tuple[Coordinator, Settings]]


def configured(context: Context) -> tuple[Coordinator, Settings]:
    """The home that a run's configuration names, and the exchange as it was asked for there.

    Raises:
        HomeError: It names no home.
        ExchangeError: None of its name was asked for.
    """
    home = context.run_config.get("home")
    if not isinstance(home, str) or not home:
        raise HomeError("the run names no home; add --run-config 'home=\"/path\"'")
    coordinator, name = load(Path(home)), context.run_config.get("exchange")
    for one in coordinator.catalogue.schedule.begun():
        if one.name == name:
            return coordinator, Settings(asked=one.asked, limits=coordinator.settings.limits)
    raise ExchangeError(f"no exchange {name!r} was asked for; see 'organ-coordinator exchange'")


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
