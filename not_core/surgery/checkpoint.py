"""A model as a checkpoint: a config and named tensors, read one by one and only when asked for.

Sources: a folder with safetensors (one file or shards with an index), a GGUF file, or a hub id,
which the hub client resolves to a folder. Pickled weights are never opened.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from not_core import canonical
from not_core.errors import CheckpointError
from not_core.surgery.anatomy import Anatomy, anatomy

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Tensors(Protocol):
    """Read access to named tensors."""

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, on the CPU."""


@dataclass(frozen=True)
class SafetensorsFiles:
    """Tensors spread over safetensors files; ``where``: name -> (file, name in the file)."""

    where: Mapping[str, tuple[Path, str]]
    _open: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.where))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        file, stored = self._file(name)
        return tuple(file.get_slice(stored).get_shape())

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, on the CPU."""
        file, stored = self._file(name)
        tensor: torch.Tensor = file.get_tensor(stored)
        return tensor

    def _file(self, name: str) -> tuple[Any, str]:
        path, stored = self.where[name]
        if path not in self._open:
            self._open[path] = open_safetensors(path)
        return self._open[path], stored


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file for lazy reading.

    Raises:
        CheckpointError: Missing, truncated or malformed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as safetensors ({error}); get an undamaged copy"
        ) from None


@dataclass(frozen=True)
class Checkpoint:
    """One model: config, tensors by canonical name, and the folder or file it came from.

    Attributes:
        origin: Folder or GGUF file.
        config: The config as plain JSON data.
        anatomy: The family's parts.
        tensors: Where tensors are read from, by the names of the causal-LM class.
    """

    origin: Path
    config: dict[str, Any]
    anatomy: Anatomy
    tensors: Tensors

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.config[self.anatomy.layer_count])

    @property
    def tied(self) -> bool:
        """Whether the output projection is the embedding."""
        return bool(self.config.get("tie_word_embeddings", True))

    def names(self) -> tuple[str, ...]:
        """Names that make up the model: no recomputed buffers, no copy of a tied head."""
        part = self.anatomy
        return tuple(
            name
            for name in self.tensors.names()
            if not name.endswith(part.ignored) and not (self.tied and name == part.head)
        )

    def layer_names(self, index: int) -> dict[str, str]:
        """Tensors of layer ``index``: name within the layer -> name in the model."""
        return self._by_layer.get(index, {})

    @cached_property
    def _by_layer(self) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        for name in self.names():
            if part := self.anatomy.layer_of(name):
                found.setdefault(part[0], {})[part[1]] = name
        return found

    def frame_names(self) -> tuple[str, ...]:
        """Tensors outside all layers: embeddings, final norm, head."""
        return tuple(name for name in self.names() if self.anatomy.layer_of(name) is None)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over all tensors' names, types, shapes and bytes; sharding does not matter."""
        table = [
            [name, dtype_name(tensor), list(tensor.shape), tensor_digest(tensor)]
            for name, tensor in self.read_all()
        ]
        return canonical.digest(table)

    def read_all(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Every tensor in order of name, one at a time."""
        for name in self.names():
            yield name, self.tensors.read(name)

    @cached_property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer.

        Raises:
            CheckpointError: The checkpoint holds none.
        """
        from transformers import AutoTokenizer

        try:
            if self.origin.is_file():
                return AutoTokenizer.from_pretrained(
                    self.origin.parent, gguf_file=self.origin.name, local_files_only=True
                )
            return AutoTokenizer.from_pretrained(self.origin, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"no tokenizer in {self.origin}; "
                "copy the model's tokenizer files (tokenizer.json and its config) there"
            ) from error

    @cached_property
    def tokenizer_digest(self) -> str | None:
        """SHA-256 of the vocabulary (token -> id); None for a checkpoint without a tokenizer."""
        try:
            vocabulary = self.tokenizer.get_vocab()
        except CheckpointError:
            return None
        return canonical.digest(vocabulary)


def dtype_name(tensor: "torch.Tensor") -> str:
    """Name of a tensor's type, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def tensor_digest(tensor: "torch.Tensor") -> str:
    """SHA-256 of a tensor's bytes in row-major order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a model folder, GGUF file or hub id without reading its weights.

    Args:
        source: Folder with ``config.json`` and safetensors; a ``.gguf`` file; or a hub id such as
            ``HuggingFaceTB/SmolLM2-135M``, which is downloaded unless hub access is switched off.

    Raises:
        CheckpointError: Nothing there, no weights, or only pickled weights.
        UnknownFamilyError: The family is not supported.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        from not_core.surgery.gguf_file import open_gguf

        return open_gguf(path)
    if not path.is_dir():
        path = _from_hub(str(source))
    config = _config(path)
    part = anatomy(config)
    where = _locate(path)
    return Checkpoint(path, config, part, SafetensorsFiles(_canonical_names(where, part)))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no config.json in {folder}; expected a Hugging Face model folder")
    raw = canonical.plain(path.read_bytes(), "config.json")
    if not isinstance(raw, dict):
        raise CheckpointError(f"config.json in {folder} is not a JSON object")
    anatomy(raw)  # refuses encoders and unknown families before transformers sees the file
    from transformers import AutoConfig

    # Defaults that the file leaves out are filled in by the class, so that two files for one
    # model compare equal.
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    except Exception as error:  # the library raises whatever its validators raise
        raise CheckpointError(
            f"config.json in {folder} is not a valid {raw['model_type']} config "
            f"({type(error).__name__}); get an undamaged copy"
        ) from error
    return config


def _locate(folder: Path) -> dict[str, Path]:
    if (folder / INDEX).is_file():
        index = canonical.plain((folder / INDEX).read_bytes(), INDEX)
        table = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(table, dict) or not table:
            raise CheckpointError(f"{INDEX} in {folder} has no weight_map; get an undamaged copy")
        where = {}
        for name, file in table.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(f"{INDEX} in {folder} names a file outside the folder")
            if not (folder / file).is_file():
                raise CheckpointError(f"shard {file} is missing from {folder}; download it again")
            where[str(name)] = folder / file
        return where
    single = folder / SINGLE
    if single.is_file():
        return dict.fromkeys(open_safetensors(single).keys(), single)
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles:
        raise CheckpointError(
            f"{folder} holds pickled weights only ({pickles[0]}), which are never opened; "
            "convert the model to safetensors first"
        )
    raise CheckpointError(f"no weights in {folder}; expected {SINGLE} or {INDEX}")


def _canonical_names(where: Mapping[str, Path], part: Anatomy) -> dict[str, tuple[Path, str]]:
    """Add the trunk's prefix where a checkpoint was saved from the base class, as GPT-2's was."""
    bare = part.layers.removeprefix(part.trunk)
    trunk = part.trunk if any(name.startswith(bare) for name in where) else ""
    return {
        name if name == part.head else trunk + name: (path, name) for name, path in where.items()
    }


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"])
        )
    except (HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name} is neither a model folder nor a hub id that can be reached; "
            "give a folder with config.json and model.safetensors, or a .gguf file"
        ) from error
