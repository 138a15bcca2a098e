"""Steps from each version of the catalogue's tables to the next, for Alembic.

A step that was released is never changed; another one follows it, and ``NEWEST`` is its number.
"""

NEWEST = "0005"
"""The version that this program reads and writes."""
