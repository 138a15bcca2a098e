"""A site's page, on loopback: what waits for its operator's word, what was spent, what left."""
