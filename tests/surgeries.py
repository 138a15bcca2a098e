"""What the tests of surgery do again and again: cut an organ, put it in, run what comes out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from not_core.manifest import Span
from not_core.surgery import graft
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.organ import Label, Organ, describe, extract
from not_core.surgery.plan import Graft, Mode, compose
from not_core.surgery.tensors import Held

IDS = torch.tensor([[3, 5, 7, 9, 11, 2, 4, 8]])
Change = Callable[[torch.Tensor], torch.Tensor]


def cut_of(host: Checkpoint, start: int, stop: int, name: str = "o") -> Organ:
    """An untrained organ, as it is stored."""
    span = Span(start=start, stop=stop)
    cut = extract(host, span)
    return Organ(describe(host, span, cut, Label(name=name), training=None), cut)


def organ_of(
    host: Checkpoint, start: int, stop: int, name: str = "o", change: Change = lambda t: t
) -> Organ:
    """An organ in memory whose weights were changed, as training would."""
    span = Span(start=start, stop=stop)
    cut = extract(host, span)
    tensors = Held({key: change(cut.read(key)) for key in cut.names()})
    return Organ(describe(host, span, tensors, Label(name=name), training=None), tensors)


def shifted(by: float) -> Change:
    return lambda tensor: tensor + by


def put(host: Checkpoint, out: Path, *grafts: tuple[Organ, Mode, int], **how: Any) -> Path:
    """Write a graft of several organs, each with mode and position."""
    organs = {organ.manifest.digest: organ for organ, _, _ in grafts}
    plan = compose(
        host.layers,
        [
            Graft(organ=organ.manifest.digest, count=len(organ), mode=mode, position=position)
            for organ, mode, position in grafts
        ],
    )
    graft.transplant(plan, host, organs, out, **how)
    return out


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def generated(model: Any, cache: bool) -> torch.Tensor:
    """Ten tokens of greedy text."""
    found: torch.Tensor = model.generate(
        IDS,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=10,
        min_new_tokens=10,
        do_sample=False,
        use_cache=cache,
        pad_token_id=0,
    )
    return found


def layers_run(model: torch.nn.Module, host: Checkpoint) -> int:
    """How many layers run in one forward pass: a stale config may run fewer than there are."""
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_: ran.append(1))
        for layer in model.get_submodule(host.anatomy.layers.removesuffix("."))
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    return len(ran)
