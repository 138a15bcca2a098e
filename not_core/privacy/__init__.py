"""Differential privacy: units, sampling, clipping, noise, accounting, the ledger and the audit."""
