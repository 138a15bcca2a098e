"""Speed and memory of what sites and coordinator do."""
