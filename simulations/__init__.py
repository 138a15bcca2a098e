"""Many sites on one machine: the demo exchange, experiments and benchmarks."""
