"""The coordinator's page: what it knows, to read; exchanges, for operators to begin and cancel."""
