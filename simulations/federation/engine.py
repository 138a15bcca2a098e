"""Flower's simulation engine as this package runs it: quiet, on so many threads, Ray below."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from not_core.errors import ExchangeError


def play(server: ServerApp, client: ClientApp, nodes: int, *, threads: int, parallel: int) -> None:
    """Run apps on the engine until the server's ends.

    Args:
        server: The coordinator's.
        client: Every site's; it knows its own by ``partition-id``.
        nodes: Sites.
        threads: CPU threads a site.
        parallel: Sites at work at one time.

    Raises:
        ExchangeError: It could not be carried out.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.simulation import run_simulation

    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # In a thread of its own, Ray leaves the program's signal handlers in their places, and a signal
    # ends the program without the engine's noisy end; Ray's processes end with this one.
    thread = ThreadPoolExecutor(1)
    try:
        thread.submit(
            run_simulation,
            server,
            client,
            num_supernodes=nodes,
            backend_config={
                "client_resources": {"num_cpus": threads, "num_gpus": 0.0},
                "init_args": {
                    "num_cpus": threads * min(parallel, nodes),
                    "logging_level": logging.ERROR,
                    "log_to_driver": False,
                },
            },
        ).result()
        thread.shutdown()
    except RuntimeError as error:
        raise ExchangeError(
            f"Flower's simulation engine ended: {error}; see that no other runs here and memory "
            "is free, then run it again: it goes on"
        ) from error
