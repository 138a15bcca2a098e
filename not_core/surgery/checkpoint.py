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
from not_core.errors import CheckpointError, FormatError, NotError
from not_core.manifest import MOST_LAYERS
from not_core.surgery import digests
from not_core.surgery import tokenizer as tokenizers
from not_core.surgery.anatomy import Anatomy, anatomy, classes
from not_core.surgery.blueprint import build, check_tensors
from not_core.surgery.layer_config import layer_entries
from not_core.surgery.source import Source
from not_core.surgery.tensors import (
    FLOATS,
    SafetensorsFiles,
    Tensors,
    read_names,
    shown,
    table_digest,
)

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_BYTES = 16 * 1024 * 1024
"""Largest config or shard index that is read."""
GENERATION_CONFIG = "generation_config.json"
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".pth.tar")
# Fields with which a file leads transformers to code, or to another config than itself.
_ELSEWHERE = ("auto_map", "configuration_files")
# What a config class goes by beside its fields; the last makes layers unlike by their number.
_NOT_FIELDS = frozenset({"attribute_map", "sub_configs", "per_layer_config"})


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
        kept = tuple(name for name in self.tensors.names() if not name.endswith(part.row.ignored))
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
        """All layers, for a plan to take from.

        Raises:
            CheckpointError: The tensors are not those that the class loads.
        """
        layers: dict[int, dict[str, str]] = {}
        for name in self.names:
            if part := self.anatomy.layer_of(name):
                layers.setdefault(part[0], {})[part[1]] = name
        if sorted(layers) != list(range(self.layers)):
            raise CheckpointError(
                f"the weights hold {len(layers)} layers, config.json says {self.layers}; "
                "get an undamaged copy"
            )
        model = build(self.config, self.anatomy)
        check_tensors(self.tensors, self.names, model, self.anatomy)
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
            CheckpointError: The checkpoint holds none, or one that cannot be loaded.
        """
        if not self.has_tokenizer:
            raise CheckpointError(
                f"no tokenizer in {self.origin}; "
                "copy the model's tokenizer files (tokenizer.json and its config) there"
            )
        return tokenizers.load(self.origin)

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are files of a tokenizer; a GGUF file is taken to hold one."""
        return self.origin.is_file() or bool(tokenizers.files_of(self.origin))

    @cached_property
    def tokenizer_digest(self) -> str | None:
        """SHA-256 of what turns text into ids; None for a checkpoint without a tokenizer.

        Raises:
            CheckpointError: It cannot be loaded.
        """
        return tokenizers.digest(self.tokenizer) if self.has_tokenizer else None


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
    refuse_strays(path, CheckpointError)
    if (path / tokenizers.TEMPLATES).is_dir():
        refuse_strays(path / tokenizers.TEMPLATES, CheckpointError)
    config = _config(path)
    part = anatomy(config)
    where = _locate(path)
    return Checkpoint(path, config, part, SafetensorsFiles(_canonical_names(where, part)))


def refuse_strays(folder: Path, error: type[NotError]) -> None:
    """Refuse files that lead out of a folder, and pickles, which run code when opened.

    Args:
        folder: Of a model or an organ.
        error: What to raise.
    """
    # The hub client's cache keeps a snapshot as links to files beside it, in the same repository.
    snapshots = next((up for up in folder.resolve().parents if up.name == "snapshots"), None)
    store = snapshots.parent / "blobs" if snapshots else None
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and (store is None or file.resolve().parent != store):
            raise error(
                f"{file.name} in {folder} is a link that leads elsewhere; copy the file there"
            )
        if not file.is_file() and not file.is_dir():
            raise error(
                f"{file.name} in {folder} is neither file nor folder; get an undamaged copy"
            )
        if file.name.lower().endswith(PICKLES):
            raise error(
                f"{file.name} in {folder} is a pickle, which runs code when it is opened; remove "
                "it, and convert the weights to safetensors if there are no others"
            )
        most = tokenizers.FILE_BYTES
        bounded = file.name in tokenizers.FILES or file.name.endswith(tokenizers.TEMPLATE)
        if bounded and file.stat().st_size > most:
            raise error(
                f"{file.name} in {folder} has more than {most} bytes; get an undamaged copy"
            )


def check_config(raw: Mapping[str, Any]) -> None:
    """Refuse a config that no class should be built from.

    Raises:
        UnknownFamilyError: The family is not supported, or is no decoder.
        CheckpointError: The number of layers, the type of the weights, or a value that cannot be
            hashed.
    """
    part = anatomy(dict(raw))
    for field in (part.layer_count, "num_hidden_layers"):
        count = raw.get(field, 1)
        if type(count) is not int or not 1 <= count <= MOST_LAYERS:
            raise CheckpointError(
                f"{field} in config.json is {ascii(count)[:40]}, expected a number from 1 to "
                f"{MOST_LAYERS}; get an undamaged copy"
            )
    config_class, _ = classes(part.family)
    for field in raw:
        if field in _NOT_FIELDS or callable(getattr(config_class, field, None)):
            raise CheckpointError(
                f"{shown(field)} in config.json is a part of the class {config_class.__name__} "
                "that no file may set; remove it, or get an undamaged copy"
            )
    _check_quantization(raw.get("quantization_config"))
    for field in ("dtype", "torch_dtype"):
        dtype = raw.get(field)
        if dtype is not None and str(dtype).removeprefix("torch.") not in FLOATS:
            raise CheckpointError(
                f"{field} in config.json is {ascii(dtype)[:40]}, expected one of "
                f"{', '.join(FLOATS)}; get an undamaged copy"
            )
    try:
        canonical.encode(dict(raw))
    except ValueError:
        raise CheckpointError(
            "config.json holds a number that RFC 8785 cannot write, such as infinity or an integer "
            "beyond 2**53; get an undamaged copy"
        ) from None


def _check_quantization(said: Any) -> None:
    listed = said.get("modules_to_not_convert") if isinstance(said, dict) else None
    strings = isinstance(listed, list) and all(isinstance(name, str) for name in listed)
    if not (said is None or isinstance(said, dict)) or not (listed is None or strings):
        raise CheckpointError(
            "quantization_config in config.json is no object, or its modules_to_not_convert no "
            "list of names; get an undamaged copy"
        )


def _config(folder: Path) -> dict[str, Any]:
    raw = _json(folder, CONFIG, "expected a Hugging Face model folder")
    check_config(raw)
    for name in (CONFIG, GENERATION_CONFIG, tokenizers.TOKENIZER_CONFIG):
        _refuse_elsewhere(folder, name)
    from transformers import AutoConfig

    # Defaults that the file leaves out are filled in by the class, so that two files for one
    # model compare equal.
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).to_dict()
    except Exception as error:  # the library raises whatever its validators raise
        raise CheckpointError(
            f"config.json in {folder} is not a valid {raw['model_type']} config "
            f"({type(error).__name__}); get an undamaged copy"
        ) from error
    config.pop("_name_or_path", None)  # a path of this machine, which a graft would carry on
    return config


def _refuse_elsewhere(folder: Path, name: str) -> None:
    """Refuse a file that leads transformers to code, which it would offer to run."""
    if not (folder / name).exists():
        return
    said = _json(folder, name, "get an undamaged copy")
    if found := [field for field in _ELSEWHERE if said.get(field)]:
        raise CheckpointError(
            f"{name} in {folder} has {found[0]}, which leads transformers to code or to another "
            "config; remove that field to use the class that transformers has for the family"
        )


def _json(folder: Path, name: str, expected: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise CheckpointError(f"no {name} in {folder}; {expected}")
    try:
        raw = canonical.plain(canonical.read_bounded(folder / name, JSON_BYTES), name)
    except FormatError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name} in {folder} is not a JSON object; {expected}")
    return raw


def _locate(folder: Path) -> dict[str, Path]:
    """Where each tensor lies, as transformers would find it."""
    single, index = folder / SINGLE, folder / INDEX
    if index.exists():
        if single.exists():
            raise CheckpointError(
                f"{folder} holds both {SINGLE} and {INDEX}, of which programs load one or the "
                "other; remove what is not the model"
            )
        return _indexed(folder)
    if single.is_file():
        return dict.fromkeys(read_names(single), single)
    raise CheckpointError(f"no weights in {folder}; expected {SINGLE} or {INDEX}")


def _indexed(folder: Path) -> dict[str, Path]:
    """Where each tensor lies by the index, which must say the same as the shards."""
    table = _json(folder, INDEX, "get an undamaged copy").get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{INDEX} in {folder} has no weight_map; get an undamaged copy")
    files = {file.name: file for file in folder.iterdir() if file.is_file()}
    named: dict[str, set[str]] = {}
    for name, file in table.items():
        if not isinstance(file, str) or file not in files:
            raise CheckpointError(
                f"{INDEX} in {folder} names {ascii(file)[:80]}, which is missing from the folder "
                "or outside it; download it again"
            )
        named.setdefault(file, set()).add(name)
    for file, names in sorted(named.items()):
        if odd := sorted(names ^ set(read_names(files[file]))):
            holds = "does not hold" if odd[0] in names else "holds beside what it names"
            raise CheckpointError(
                f"{INDEX} in {folder} disagrees with {file}, which {holds} {shown(odd[0])}; "
                "download the model again"
            )
    return {name: files[file] for name, file in table.items()}


def _canonical_names(where: Mapping[str, Path], part: Anatomy) -> dict[str, tuple[Path, str]]:
    """Name tensors as the causal-LM class does.

    A checkpoint saved from the base class, as GPT-2's was, lacks the trunk's prefix.
    """
    bare = part.layers.removeprefix(part.trunk)
    trunk = part.trunk if any(name.startswith(bare) for name in where) else ""
    heads = {part.head, part.row.former_head}
    found: dict[str, tuple[Path, str]] = {}
    for name, path in where.items():
        known = part.head if name in heads else trunk + name
        if known in found:
            raise CheckpointError(
                f"the weights hold both {shown(name)} and {shown(found[known][1])}, which are one "
                "tensor; remove what is not the model's"
            )
        found[known] = (path, name)
    return found


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            )
        )
    except (HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name} is neither a model folder nor a hub id that can be reached; "
            "give a folder with config.json and model.safetensors, or a .gguf file"
        ) from error
