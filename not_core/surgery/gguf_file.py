"""GGUF files read lazily: one tensor is dequantised when it is asked for.

Names come from the gguf package's own tables. What its converter changed on the way in is undone
here, as the family's anatomy says: rows permuted for another rotary layout, matrices transposed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core.errors import CheckpointError, UnknownFamilyError
from not_core.surgery.anatomy import Anatomy, anatomy
from not_core.surgery.checkpoint import Checkpoint, check_config
from not_core.surgery.layer_config import fitting_fields
from not_core.surgery.tensors import Form

if TYPE_CHECKING:
    import torch

MAGIC = b"GGUF"


@dataclass(frozen=True)
class GgufTensors:
    """Tensors of one GGUF file under the names of the Hugging Face class."""

    where: dict[str, Any]
    config: dict[str, Any]
    anatomy: Anatomy

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.where))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""
        return Form("float32", tuple(self._restored(name, _meta(self.where[name])).shape))

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor as float32, on the CPU; never shared."""
        import torch
        from gguf import dequantize

        entry = self.where[name]
        values = torch.from_numpy(dequantize(entry.data, entry.tensor_type).copy())
        return self._restored(name, values).contiguous()

    def _restored(self, name: str, values: "torch.Tensor") -> "torch.Tensor":
        return _restore(name, values, self.config, self.anatomy)


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file without reading its weights.

    Raises:
        CheckpointError: Missing, or not GGUF.
        UnknownFamilyError: The architecture is not supported.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}; give a .gguf file or a model folder")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise CheckpointError(f"{path} is not GGUF; get an undamaged copy")
    from gguf import GGUFReader
    from transformers import AutoConfig

    try:
        reader = GGUFReader(path)
        raw = AutoConfig.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        ).to_dict()
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as GGUF ({type(error).__name__}); get an undamaged copy"
        ) from error
    dropped = {"quantization_config", "_name_or_path"}
    config = {key: value for key, value in raw.items() if key not in dropped}
    config["dtype"] = "float32"
    part = anatomy(config)
    check_config(fitting_fields(config, part) | {part.layer_count: config[part.layer_count]})
    if not part.row.gguf:
        raise UnknownFamilyError(
            f"GGUF files of family {part.family} are not read; use the model's safetensors"
        )
    where = _names(reader, config, part)
    # A GGUF without an output matrix ties it to the embedding.
    config["tie_word_embeddings"] = part.head not in where
    return Checkpoint(path, config, part, GgufTensors(where, config, part))


def _names(reader: Any, config: dict[str, Any], part: Anatomy) -> dict[str, Any]:
    """Map the class's tensor names to the file's tensors."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoConfig, AutoModelForCausalLM

    architectures = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    table = get_tensor_name_map(architectures[part.family], config[part.layer_count])
    there = {entry.name: entry for entry in reader.tensors}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), trust_remote_code=False
        )
    where = {}
    for name in model.state_dict():
        stem, dot, kind = name.rpartition(".")
        entry = there.get(f"{table.get_name(stem)}{dot}{kind}")
        if entry is not None:
            where[name] = entry
        elif name != part.head:
            raise CheckpointError(f"the GGUF file lacks {name}; get a complete copy")
    return where


def _meta(entry: Any) -> "torch.Tensor":
    import torch

    return torch.empty(tuple(int(side) for side in reversed(entry.shape)), device="meta")


def _restore(
    name: str, values: "torch.Tensor", config: dict[str, Any], part: Anatomy
) -> "torch.Tensor":
    """Undo what GGUF's converter did to one tensor."""
    for infix, field in part.row.permuted:
        if infix in name:
            # (heads, half, 2, ...) as stored -> (heads, 2, half, ...) as the class rotates
            split = values.reshape(config[field], -1, 2, *values.shape[1:])
            return split.transpose(1, 2).reshape(values.shape)
    return values.T if name.endswith(part.row.transposed) else values
