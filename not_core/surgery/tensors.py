"""Named tensors that are read one by one and only when asked for, and the files they lie in.

Whoever holds a ``Tensors`` holds no weights. Reading goes through the safetensors library;
writing streams, so that memory follows the largest tensor, not the file.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from not_core.errors import CheckpointError
from not_core.manifest import TensorFacts

if TYPE_CHECKING:
    import torch

HEADER_BYTES = 16 * 1024 * 1024
"""Longest safetensors header that is parsed; a hundred thousand tensors take less."""

PIECE_BYTES = 4 * 1024 * 1024
"""Of a tensor that is only hashed, so much is in memory at once."""

# Code in a file's header -> torch's name, bytes of an item.
_TYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
}
_CODES = {name: code for code, (name, _) in _TYPES.items()}
ITEM_BYTES = dict(_TYPES.values())
"""Bytes of one number, by torch's name of its type."""

FLOATS = ("float64", "float32", "bfloat16", "float16")
"""Types in which a model can be computed, and which can be rounded to each other."""


@dataclass(frozen=True, slots=True)
class Form:
    """A tensor's type, such as ``float32``, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.parameters * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


class Tensors(Protocol):
    """Read access to named tensors."""

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, on the CPU.

        Args:
            name: Which.
            shared: Whether it may share memory with a file or with other readers; whoever writes
                to it must then clone it first.
        """


@dataclass(frozen=True, slots=True)
class Held:
    """Tensors in memory."""

    tensors: Mapping[str, "torch.Tensor"]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.tensors))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor."""
        return form_of(self.tensors[name])

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor."""
        tensor = self.tensors[name]
        return tensor if shared else tensor.clone()


@dataclass(frozen=True, slots=True)
class Renamed:
    """Some tensors of ``source`` under other names: new name -> name there."""

    source: Tensors
    where: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """All new names, sorted."""
        return tuple(sorted(self.where))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""
        return self.source.form(self.where[name])

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, on the CPU."""
        return self.source.read(self.where[name], shared=shared)


@dataclass(frozen=True, slots=True)
class Cast:
    """Tensors of ``source`` in the types that ``dtypes`` gives; the others as they are."""

    source: Tensors
    dtypes: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self.source.names()

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it."""
        form = self.source.form(name)
        return Form(self.dtypes.get(name, form.dtype), form.shape)

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, rounded to its new type."""
        import torch

        dtype = getattr(torch, self.form(name).dtype)
        return self.source.read(name, shared=shared).to(dtype)


@dataclass(frozen=True)
class SafetensorsFiles:
    """Tensors spread over safetensors files; ``where``: name -> (file, name in the file)."""

    where: Mapping[str, tuple[Path, str]]
    _open: dict[tuple[Path, str], Any] = field(default_factory=dict, repr=False, compare=False)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.where))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor, without reading it.

        Raises:
            CheckpointError: The file is damaged, lacks it, or its type is not known.
        """
        path, stored = self.where[name]
        try:
            part = self._file(path, "pread").get_slice(stored)
            code = part.get_dtype()
        except Exception as error:  # the library's own error type is not exported for this
            raise _damaged(path, error) from None
        if code not in _TYPES:
            raise CheckpointError(
                f"{name} is stored as {code}; expected one of {', '.join(sorted(_TYPES))}"
            )
        return Form(_TYPES[code][0], tuple(part.get_shape()))

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor, on the CPU; ``shared`` maps the file instead of copying from it."""
        path, stored = self.where[name]
        try:
            tensor: torch.Tensor = self._file(path, "mmap" if shared else "pread").get_tensor(
                stored
            )
        except Exception as error:  # see form
            raise _damaged(path, error) from None
        return tensor

    def digest(self, name: str) -> str:
        """SHA-256 of one tensor's bytes, which are never there as a whole.

        Raises:
            CheckpointError: The file is damaged or lacks it.
        """
        path, stored = self.where[name]
        self.form(name)  # which has the file's header checked
        start, size = self._place(path, stored)
        found = hashlib.sha256()
        with path.open("rb") as file:
            file.seek(start)
            while size:
                piece = file.read(min(size, PIECE_BYTES))
                if not piece:
                    raise CheckpointError(f"{path.name} was cut off; get an undamaged copy")
                found.update(piece)
                size -= len(piece)
        return found.hexdigest()

    def _place(self, path: Path, stored: str) -> tuple[int, int]:
        """Where a tensor's bytes begin in a file, and how many they are."""
        if (path, "header") not in self._open:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self._open[path, "header"] = (8 + length, json.loads(file.read(length)))
        data, header = self._open[path, "header"]
        start, stop = header[stored]["data_offsets"]
        return data + start, stop - start

    def files(self) -> tuple[Path, ...]:
        """The files, sorted."""
        return tuple(sorted({path for path, _ in self.where.values()}))

    def _file(self, path: Path, backend: str) -> Any:
        if (path, backend) not in self._open:
            self._open[path, backend] = open_safetensors(path, backend)
        return self._open[path, backend]


def open_safetensors(path: Path, backend: str = "pread") -> Any:
    """Open a safetensors file for lazy reading; its header is bounded before it is parsed.

    Args:
        path: A regular file.
        backend: ``pread`` copies what is read; ``mmap`` shares the file's pages.

    Raises:
        CheckpointError: Missing, truncated or malformed: a header that is too long, tensors that
            overlap or leave gaps, or fewer or more bytes than the header says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{path.name} is not a regular file; get an undamaged copy")
            length = int.from_bytes(file.read(8), "little")
        if length > HEADER_BYTES:
            raise CheckpointError(
                f"{path.name} announces a header of {length} bytes, more than {HEADER_BYTES}; "
                "get an undamaged copy"
            )
        return safe_open(path, framework="pt", backend=backend)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def read_names(path: Path) -> tuple[str, ...]:
    """Names of the tensors in one safetensors file, sorted."""
    return tuple(sorted(open_safetensors(path).keys()))


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path.name} cannot be read as safetensors ({error}); get an undamaged copy"
    )


def shown(name: str) -> str:
    """A tensor's name as a message may show it: no control characters, at most one line."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name[:200])


def form_of(tensor: "torch.Tensor") -> Form:
    """Type and shape of a tensor."""
    return Form(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def tensor_digest(tensor: "torch.Tensor") -> str:
    """SHA-256 of a tensor's bytes in row-major order."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def tensor_facts(tensors: Tensors) -> tuple[TensorFacts, ...]:
    """What a manifest says of tensors, in order of name; they are read one at a time."""
    forms = {name: tensors.form(name) for name in tensors.names()}
    return tuple(
        TensorFacts(
            name=name,
            dtype=form.dtype,
            shape=form.shape,
            sha256=tensor_digest(tensors.read(name, shared=True)),
        )
        for name, form in forms.items()
    )


def finite(tensor: "torch.Tensor") -> bool:
    """Whether a tensor holds no NaN and no infinity; needs no memory of the tensor's size."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # float8 has no reductions
        tensor = tensor.to(torch.float32)
    low, high = torch.aminmax(tensor)  # either is NaN when any value is
    return bool(torch.isfinite(low) and torch.isfinite(high))


def write_safetensors(
    path: Path,
    tensors: Tensors,
    names: tuple[str, ...],
    seen: Callable[[str, "torch.Tensor"], None] = lambda name, tensor: None,
) -> None:
    """Stream tensors to a new safetensors file, one at a time.

    Args:
        path: File to make; what is there is replaced.
        tensors: Where they are read from.
        names: Which.
        seen: Called with each tensor while it is written, in another thread.

    Source: the safetensors format, https://github.com/huggingface/safetensors#format.
    """
    forms = {name: tensors.form(name) for name in names}
    # Wide types first: every tensor then starts at a multiple of its item's size.
    order = sorted(forms, key=lambda name: (-ITEM_BYTES[forms[name].dtype], name))
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in order:
        form = forms[name]
        table[name] = {
            "dtype": _CODES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [start, start + form.bytes],
        }
        start += form.bytes
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file, ThreadPoolExecutor(1) as aside:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, tensor in read_ahead(tensors, order):
            watching = aside.submit(seen, name, tensor)  # hashing takes as long as writing does
            file.write(_bytes(tensor))
            watching.result()


def read_ahead(tensors: Tensors, names: Sequence[str]) -> "Iterator[tuple[str, torch.Tensor]]":
    """Read tensors in order, each while the one before it is being used."""
    with ThreadPoolExecutor(1) as ahead:
        coming = None
        for name in names:
            this, coming = coming, (name, ahead.submit(tensors.read, name))
            if this is not None:
                yield this[0], this[1].result()
        if coming is not None:
            yield coming[0], coming[1].result()


def table_digest(facts: Iterator[tuple[str, Form, str]]) -> str:
    """Digest of a set of tensors from each one's name, form and SHA-256, in order of name."""
    from not_core import canonical

    return canonical.digest(
        [[name, form.dtype, list(form.shape), digest] for name, form, digest in sorted(facts)]
    )


def digest_of(tensors: Tensors) -> str:
    """The ``table_digest`` of tensors, read one by one."""
    return table_digest(
        (name, tensors.form(name), tensor_digest(tensors.read(name, shared=True)))
        for name in tensors.names()
    )


def _bytes(tensor: "torch.Tensor") -> Any:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
