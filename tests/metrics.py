"""Prometheus' figures as tests compare them."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


def figures(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """What ``/metrics`` says, by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
