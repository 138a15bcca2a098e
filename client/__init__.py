"""One site: private records, policy, keys, log; donor and recipient of organs."""
