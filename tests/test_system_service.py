"""The exchange as it is deployed: real servers over TLS on loopback."""

from collections.abc import Callable

from deployment import Deployment
from exchanges import by_hand

from server import home as coordinator_home
from simulations import exchange as simulation


def organs(scenario: simulation.Scenario, exchange: str = "trial") -> dict[str, str]:
    """Organ digests of an exchange, by donor."""
    coordinator = coordinator_home.load(scenario.coordinator)
    found = coordinator.catalogue.donations(exchange)
    coordinator.catalogue.close()
    return {donor: digest for digest, donor, _ in found}


def test_servers_make_the_organs_that_a_simulation_makes(
    make_scenario: Callable[[str], simulation.Scenario],
) -> None:
    simulated = make_scenario("simulated")
    simulation.prepare(simulated)
    by_hand(simulated)
    served = make_scenario("served")
    simulation.prepare(served)
    with Deployment(served).serving() as deployment:
        assert deployment.exchange("trial") == "completed"
    assert organs(served) == organs(simulated)
