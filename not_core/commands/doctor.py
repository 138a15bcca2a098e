"""``organ doctor``: what of this machine's set-up keeps models and organs from working."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from not_core.checkup import Check, disk, examined
from not_core.commands.program import Json, checked
from not_core.errors import SetupError

DISTRIBUTION = "organ-exchange"
EXTRAS = ("simulation", "comparison", "keys")
"""What a site can do without."""
LEAST_MEMORY = 2**30
"""Bytes below which importing torch and a small model would not fit."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(doctor)


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Model folder, .gguf file or hub id to check, too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for what keeps models and organs from working here, and say what to do.

    Nothing is changed and no network is used. Exit code 1 if anything is wrong.

    Example: organ doctor --model SmolLM2/
    """
    from not_core.cache import cache_place

    checks: list[Check] = [
        ("python", _python),
        ("packages", _packages),
        ("extras", _extras),
        ("torch", _torch),
        ("device", _device),
        ("precision", _precision),
        ("memory", _memory),
        ("disk", lambda: disk(cache_place(), f"models that are not needed, in {cache_place()}")),
        ("cache", _cache),
        ("hub", _hub),
    ]
    if model is not None:
        checks.append(("model", lambda: _model(model)))
    checked(examined(checks, Path.cwd()), as_json)


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages() -> str:
    """Whether what a site needs is there, in versions that do."""
    wrong = [*_lacking(""), *_lacking("site")]
    if wrong:
        raise SetupError(f"{', '.join(wrong)}; run pip install '{DISTRIBUTION}[site]'")
    return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)} and all that a site needs"


def _extras() -> str:
    """Which optional parts are there; none need be."""
    found = {extra: [*_lacking(extra)] for extra in EXTRAS}
    return "; ".join(
        f"{extra}: {', '.join(lacks)} (pip install '{DISTRIBUTION}[{extra}]')"
        if lacks
        else f"{extra}: there"
        for extra, lacks in found.items()
    )


def _lacking(extra: str) -> Iterator[str]:
    """What an extra asks for and is absent or too old, in words."""
    from packaging.requirements import Requirement

    try:
        wanted = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise SetupError(
            f"{DISTRIBUTION} runs without being installed; run pip install '{DISTRIBUTION}[site]'"
        ) from None
    for text in wanted:
        one = Requirement(text)
        asked = one.marker.evaluate({"extra": extra}) if one.marker else not extra
        if not asked or one.name == DISTRIBUTION:
            continue
        try:
            there = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield f"{one.name} is not installed"
            continue
        if not one.specifier.contains(there, prereleases=True):
            yield f"{one.name} is {there}, expected {one.specifier}"


def _torch() -> str:
    """Whether it can be loaded, and for what it was built."""
    if importlib.util.find_spec("torch") is None:
        raise SetupError(f"torch is not installed; run pip install '{DISTRIBUTION}[site]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        raise SetupError(
            f"torch is installed and cannot be loaded ({type(error).__name__}: a library that it "
            "needs is absent or of another version); install it anew, of the build for this machine"
        ) from error
    build = torch.version.cuda or torch.version.hip
    kind = f"built for {'CUDA' if torch.version.cuda else 'ROCm'} {build}" if build else "CPU build"
    return f"{torch.__version__}, {kind}, {torch.get_num_threads()} threads"


def _device() -> str:
    _torch()
    import torch

    from not_core.learning import device

    found = device.pick()
    if found.type == "cpu" and shutil.which("nvidia-smi"):
        raise SetupError(
            f"there is an NVIDIA driver, and torch {torch.__version__} finds no GPU; install "
            "torch's build for that driver's CUDA, or give --device cpu where there is an option"
        )
    return str(found)


def _precision() -> str:
    _torch()
    from not_core.learning import device

    found = device.precision("auto", device.pick())
    set_by = f", by {device.VARIABLE}" if device.VARIABLE in os.environ else ""
    return f"frozen models compute in {found}{set_by}"


def _memory() -> str:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # macOS does not tell
        return "cannot be told here"
    if free < LEAST_MEMORY:
        raise SetupError(
            f"{free / 2**30:.1f} GiB of memory are free, {LEAST_MEMORY / 2**30:.0f} are needed; "
            "end other programs"
        )
    return f"{free / 2**30:.1f} GiB free"


def _cache() -> str:
    """Where fetched models are, and which."""
    from not_core.cache import cache_place

    place = cache_place()
    if not place.exists():
        return f"{place}, made when it is needed; 'organ-simulate fetch' fills it"
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise SetupError(f"{place} cannot be written to; change its permissions or its owner")
    models = sorted(path.name for path in place.glob("models/*"))
    there = ", ".join(models) or "no model; 'organ-simulate fetch' brings the demo's"
    return f"{place}: {there}"


def _hub() -> str:
    """Whether hub ids can be used, and which are there without a network."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return "not installed; model folders and .gguf files only"
    from huggingface_hub.constants import HF_HUB_CACHE

    kept = sorted(path.name.removeprefix("models--").replace("--", "/")
                  for path in Path(HF_HUB_CACHE).glob("models--*"))  # fmt: skip
    there = ", ".join(kept) or "no model"
    flags = [name for name in OFFLINE if os.environ.get(name, "").lower() in {"1", "true", "yes"}]
    if flags:
        return f"offline, by {flags[0]}: of hub ids only what is in {HF_HUB_CACHE}: {there}"
    return f"{HF_HUB_CACHE}: {there}; others are fetched"


def _model(name: str) -> str:
    from not_core.surgery.checkpoint import open_checkpoint

    host = open_checkpoint(name)
    host.source  # noqa: B018 - tensors are compared with what the class loads
    return f"{name}: {host.anatomy.family} of {host.layers} layers"
