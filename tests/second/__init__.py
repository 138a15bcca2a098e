"""A second implementation of the sealed format, from docs/format.md and public specifications.

It imports nothing of this project, and makes every random choice from a fixed seed. It writes the
vectors in ``tests/vectors/v1`` and reads them; it is slow, and no program uses it.
"""
