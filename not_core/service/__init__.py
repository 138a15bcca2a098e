"""Long-running processes: Flower's own programs, kept running, with installed code only."""
