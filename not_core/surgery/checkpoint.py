"""A model as a checkpoint: a config and named tensors, read one by one and only when asked for.

Sources: a folder with safetensors (one file or shards with an index), a GGUF file, or a hub id,
which the hub client resolves to a folder. Pickled weights are never opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from not_core import canonical
from not_core.errors import CheckpointError
from not_core.surgery import digests
from not_core.surgery.anatomy import Anatomy, anatomy
from not_core.surgery.layer_config import layer_entries
from not_core.surgery.source import Source
from not_core.surgery.tensors import SafetensorsFiles, Tensors, read_names, table_digest

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_BYTES = 64 * 1024 * 1024
"""Largest config or shard index that is read."""
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class Checkpoint:
    """One model: config, tensors by canonical name, and the folder or file it came from.

    Attributes:
        origin: Folder or GGUF file.
        config: The config as plain JSON data, fields that the file leaves out filled in.
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

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names that make up the model: no recomputed buffers, no copy of a tied head."""
        part = self.anatomy
        kept = tuple(
            name for name in self.tensors.names() if not name.endswith(part.row.ignored or ("\0",))
        )
        if not self.tied or part.head not in kept:
            return kept
        head, embedding = (digests.read_digest(self, name) for name in (part.head, part.embedding))
        if head != embedding:
            raise CheckpointError(
                f"config.json ties {part.head} to {part.embedding}, but the weights hold two "
                "different ones; set tie_word_embeddings to what the model needs"
            )
        return tuple(name for name in kept if name != part.head)

    @cached_property
    def source(self) -> Source:
        """All layers, for a plan to take from."""
        layers: dict[int, dict[str, str]] = {}
        for name in self.names:
            if part := self.anatomy.layer_of(name):
                layers.setdefault(part[0], {})[part[1]] = name
        if sorted(layers) != list(range(self.layers)):
            raise CheckpointError(
                f"the weights hold {len(layers)} layers, config.json says {self.layers}; "
                "get an undamaged copy"
            )
        return Source(
            tensors=self.tensors, layers=layers, entries=layer_entries(self.config, self.anatomy)
        )

    @cached_property
    def frame(self) -> tuple[str, ...]:
        """Tensors outside all layers: embeddings, final norm, head."""
        return tuple(name for name in self.names if self.anatomy.layer_of(name) is None)

    @cached_property
    def tensor_digests(self) -> Mapping[str, str]:
        """SHA-256 of each tensor's bytes; read once, then kept while the files do not change."""
        return digests.tensor_digests(self)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over all tensors' names, types, shapes and bytes; sharding does not matter."""
        return table_digest(
            (name, self.tensors.form(name), digest) for name, digest in self.tensor_digests.items()
        )

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


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a model folder, GGUF file or hub id without reading its weights.

    Args:
        source: Folder with ``config.json`` and safetensors; a ``.gguf`` file; or a hub id such as
            ``HuggingFaceTB/SmolLM2-135M``, which is downloaded unless hub access is switched off.

    Raises:
        CheckpointError: Nothing there, no weights, pickled weights, or files that lead elsewhere.
        UnknownFamilyError: The family is not supported.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        from not_core.surgery.gguf_file import open_gguf

        return open_gguf(path)
    if not path.is_dir():
        path = _from_hub(str(source))
    _refuse_strays(path)
    config = _config(path)
    part = anatomy(config)
    where = _locate(path)
    return Checkpoint(path, config, part, SafetensorsFiles(_canonical_names(where, part)))


def _refuse_strays(folder: Path) -> None:
    """Refuse files that lead out of the folder, and pickles, which run code when opened."""
    # The hub client's cache keeps a snapshot as links to files beside it, in the same repository.
    snapshot = folder.resolve().parent
    store = snapshot.parent / "blobs" if snapshot.name == "snapshots" else None
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and (store is None or file.resolve().parent != store):
            raise CheckpointError(
                f"{file.name} in {folder} is a link that leads elsewhere; copy the file there"
            )
        if not file.is_file() and not file.is_dir():
            raise CheckpointError(
                f"{file.name} in {folder} is neither file nor folder; get an undamaged copy"
            )
        if file.suffix in PICKLES:
            raise CheckpointError(
                f"{folder} holds pickled weights ({file.name}), which run code when they are "
                "opened; remove them, and convert the model to safetensors if it has none"
            )


def _config(folder: Path) -> dict[str, Any]:
    raw = _json(folder, CONFIG, "expected a Hugging Face model folder")
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
    config.pop("_name_or_path", None)  # a path of this machine, which a graft would carry on
    return config


def _json(folder: Path, name: str, expected: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise CheckpointError(f"no {name} in {folder}; {expected}")
    with (folder / name).open("rb") as file:
        data = file.read(JSON_BYTES + 1)
    if len(data) > JSON_BYTES:
        raise CheckpointError(f"{name} in {folder} has more than {JSON_BYTES} bytes; {expected}")
    raw = canonical.plain(data, name)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name} in {folder} is not a JSON object; {expected}")
    return raw


def _locate(folder: Path) -> dict[str, Path]:
    if (folder / INDEX).is_file():
        table = _json(folder, INDEX, "get an undamaged copy").get("weight_map")
        if not isinstance(table, dict) or not table:
            raise CheckpointError(f"{INDEX} in {folder} has no weight_map; get an undamaged copy")
        where = {}
        for name, file in table.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(f"{INDEX} in {folder} names a file outside the folder")
            if not (folder / file).is_file():
                raise CheckpointError(f"shard {file} is missing from {folder}; download it again")
            where[str(name)] = folder / file
        _agree(folder, where)
        return where
    single = folder / SINGLE
    if single.is_file():
        return dict.fromkeys(read_names(single), single)
    raise CheckpointError(f"no weights in {folder}; expected {SINGLE} or {INDEX}")


def _agree(folder: Path, where: Mapping[str, Path]) -> None:
    """Refuse an index that names tensors which its shards do not hold."""
    held = {file: set(read_names(file)) for file in set(where.values())}
    absent = sorted(name for name, file in where.items() if name not in held[file])
    if absent:
        raise CheckpointError(
            f"{INDEX} in {folder} names {absent[0]}, which {where[absent[0]].name} does not hold; "
            "download the model again"
        )


def _canonical_names(where: Mapping[str, Path], part: Anatomy) -> dict[str, tuple[Path, str]]:
    """Name tensors as the causal-LM class does.

    A checkpoint saved from the base class, as GPT-2's was, lacks the trunk's prefix.
    """
    bare = part.layers.removeprefix(part.trunk)
    trunk = part.trunk if any(name.startswith(bare) for name in where) else ""
    heads = {part.head, part.row.former_head}
    return {
        part.head if name in heads else trunk + name: (path, name) for name, path in where.items()
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
