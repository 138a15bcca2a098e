"""Organs as values and the verbs on them.

``import not_core as nc`` gives the verbs of the ``organ`` command under their names, for programs
and notebooks: paths and values in, values out. They load what they need when they are first used,
so that the coordinator, which has no torch, can import this package.

Rooms, lowest first: values (``errors``, ``canonical``, ``atomic``, ``manifest``), ``trust`` (keys,
federation, signing, sealing), ``protocol`` (the messages of an exchange), ``surgery`` (checkpoints,
plans, organs) and beside it ``privacy`` (what training costs those whom the records are about),
``learning`` (records, training, evaluation), ``verbs`` (what commands do) and ``commands`` (the
``organ`` command line). Nothing here knows a site, a coordinator or a simulation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from not_core.learning.evaluation import Change, Reading
    from not_core.learning.guard import Guard
    from not_core.learning.recipe import Recipe
    from not_core.manifest import Manifest
    from not_core.privacy.ledger import Ledger
    from not_core.privacy.report import AuditReport
    from not_core.surgery.merge import Average, Ties
    from not_core.trust.keys import Identity
    from not_core.trust.sealing import OpenedOrgan
    from not_core.verbs.folders import OrganFolder, SealedFile
    from not_core.verbs.inspection import Differing, InspectedModel, diff, families, inspect, ledger
    from not_core.verbs.learning import RecoveredModel, Trained, recover, train
    from not_core.verbs.measurement import audit, compare, evaluate
    from not_core.verbs.surgery import Excised, Grafted, excise, expand, extract, merge, transplant
    from not_core.verbs.trust import Verified, load_identity, open, rewrap, seal, sign, verify

__all__ = [
    "AuditReport",
    "Average",
    "Change",
    "Differing",
    "Excised",
    "Grafted",
    "Guard",
    "Identity",
    "InspectedModel",
    "Ledger",
    "Manifest",
    "OpenedOrgan",
    "OrganFolder",
    "Reading",
    "Recipe",
    "RecoveredModel",
    "SealedFile",
    "Ties",
    "Trained",
    "Verified",
    "audit",
    "compare",
    "diff",
    "evaluate",
    "excise",
    "expand",
    "extract",
    "families",
    "inspect",
    "ledger",
    "load_identity",
    "merge",
    "open",
    "recover",
    "rewrap",
    "seal",
    "sign",
    "train",
    "transplant",
    "verify",
]

_ROOMS = {
    "learning.evaluation": "Change Reading",
    "learning.guard": "Guard",
    "learning.recipe": "Recipe",
    "manifest": "Manifest",
    "privacy.ledger": "Ledger",
    "privacy.report": "AuditReport",
    "surgery.merge": "Average Ties",
    "trust.keys": "Identity",
    "trust.sealing": "OpenedOrgan",
    "verbs.folders": "OrganFolder SealedFile",
    "verbs.inspection": "Differing InspectedModel diff families inspect ledger",
    "verbs.learning": "RecoveredModel Trained recover train",
    "verbs.measurement": "audit compare evaluate",
    "verbs.surgery": "Excised Grafted excise expand extract merge transplant",
    "verbs.trust": "Verified load_identity open rewrap seal sign verify",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562).

    Raises:
        AttributeError: There is no such name.
        ModuleNotFoundError: It takes a package of a site's install, ``organ-exchange[site]``.
    """
    for room, names in _ROOMS.items():
        if name in names.split():
            found = getattr(import_module(f"{__name__}.{room}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
