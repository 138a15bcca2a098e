"""A recipient's measuring bench: its model with and without an organ, on the same documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata

from pydantic import TypeAdapter, ValidationError

from client import progress
from client.home import Site
from not_core import atomic, canonical
from not_core.learning import device as devices
from not_core.learning.evaluation import Reading, read_losses
from not_core.surgery import plan as plans
from not_core.surgery.assemble import Sources, assemble
from not_core.surgery.checkpoint import Checkpoint

BLOCK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Readings:
    """Losses on held-out records and on general text."""

    domain: Reading
    general: Reading


_READINGS = TypeAdapter(Readings)


@dataclass(frozen=True)
class Bench:
    """What a site measures with; ``held_out`` and ``general`` are documents."""

    site: Site
    host: Checkpoint
    held_out: Sequence[str]
    general: Sequence[str]

    @cached_property
    def key(self) -> str:
        """Digest of everything that the readings of the model alone depend on."""
        return canonical.digest(
            {
                "base": self.host.weights_digest,
                "documents": [
                    canonical.sha256(text.encode()) for text in (*self.held_out, *self.general)
                ],
                "block_tokens": BLOCK_TOKENS,
                "device": self.site.settings.device,
                "threads": self.site.settings.threads,
                "libraries": [metadata.version(name) for name in ("torch", "transformers")],
            }
        )

    def before(self) -> Readings:
        """Losses of the model as it is: measured once and kept in the site's home."""
        kept = self.site.place("work", f"before-{self.key[:32]}.json")
        if kept.is_file():
            try:
                return _READINGS.validate_json(kept.read_bytes())
            except ValidationError:
                kept.unlink()
        readings = self.read(plans.identity(self.host.layers), {})
        atomic.write(kept, _READINGS.dump_json(readings), mode=0o600)
        return readings

    def read(self, plan: plans.Plan, sources: Sources) -> Readings:
        """Losses of the model of a plan."""
        settings = self.site.settings
        total = BLOCK_TOKENS * (len(self.held_out) + len(self.general))
        with (
            devices.threads(settings.threads or None),
            progress.writer(self.site, "measuring", total) as advance,
        ):
            model = assemble(plan, self.host, sources).to(devices.pick(settings.device))
            domain, general = (
                read_losses(
                    model,
                    self.host.tokenizer,
                    texts,
                    block_tokens=BLOCK_TOKENS,
                    advance=advance,
                )
                for texts in (self.held_out, self.general)
            )
        return Readings(domain, general)
