"""All vectors."""

from second import admission, inner, outer
from second.world import Case, world

PARTS = (
    outer.valid,
    outer.framing,
    outer.forms,
    outer.signatures,
    admission.certificates,
    admission.revocations,
    admission.audiences_and_dates,
    admission.memories,
    inner.wraps,
    inner.bodies,
    inner.archives,
    inner.folders,
)


def cases() -> list[Case]:
    """What each file is, who opens it when, and what must come of it."""
    found = [one for part in PARTS for one in part(world())]
    assert len({one.name for one in found}) == len(found)
    return found
