"""The folder that the guides work in: a small real model, and records of two institutions."""

import json
from collections.abc import Sequence
from pathlib import Path

from not_core import atomic
from not_core.learning.records import split
from simulations.material import domains
from simulations.material.model import base_model
from simulations.material.sources import Report

MODEL = "SmolLM2"
HOSPITAL, CLINIC, HELD_OUT, GENERAL = 400, 40, 20, 40
"""Records of each file."""


def write(out: Path, report: Report) -> dict[str, int]:
    """Write the folder: a link to the demo's model, and records as JSON lines.

    Two records each are given to one made-up patient, for privacy by subject.

    Returns:
        Records in each file.

    Raises:
        OutputExistsError: ``out`` is taken.
        SourceError: Model or text cannot be fetched.
    """
    atomic.refuse_existing(out)
    model = base_model(None, report)
    texts = [record.text for record in domains.abstracts(report)]
    parts = split(texts[: 2 * HOSPITAL], CLINIC + HELD_OUT, seed=0)
    files = {
        "hospital.jsonl": parts.train[:HOSPITAL],
        "clinic.jsonl": parts.held_out[:CLINIC],
        "clinic-held-out.jsonl": parts.held_out[CLINIC:][:HELD_OUT],
        "general.jsonl": [record.text for record in domains.general(report)][:GENERAL],
    }
    with atomic.folder(out) as work:
        (work / MODEL).symlink_to(model)
        for name, chosen in files.items():
            (work / name).write_text(lines(chosen), encoding="utf-8")
    return {name: len(chosen) for name, chosen in files.items()}


def lines(texts: Sequence[str]) -> str:
    """Records as JSON lines."""
    return "".join(
        json.dumps({"text": text, "patient": f"p{number // 2}"}) + "\n"
        for number, text in enumerate(texts)
    )
