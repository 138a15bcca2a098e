"""Checkpoints, layer plans, and organs cut out of and put into models."""
