"""Long lists of the page, a part at a time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a list is shown.

    Attributes:
        page: Its number, from 1; the last one where there are fewer than were asked for.
        pages: How many there are; 1 where the list is empty.
        start: Where it begins, from 0.
        most: Items of it.
    """

    page: int
    pages: int
    start: int
    most: int


def part(items: int, page: int, most: int) -> Part:
    """Page ``page`` of a list of so many items, of at most ``most`` a page."""
    pages = max(1, -(-items // most))
    page = min(page, pages)
    return Part(page, pages, (page - 1) * most, most)
