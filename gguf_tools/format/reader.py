"""Read and validate a GGUF file's header, and read its token embeddings.

llama.cpp and `gguf.GGUFReader` trust the counts and lengths in a header. This module refuses a
truncated or malicious file with a one-line error before they open it. It reads only the header,
which has a few MB however large the file is.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.header_cursor import BLOCK, HeaderCursor
from reellama.gguf_tools.format.header_metadata import HeaderMetadata
from reellama.gguf_tools.format.tensor_types import REMOVED, tensor_type
from reellama.gguf_tools.user_paths import expand_user

if TYPE_CHECKING:  # numpy is imported late: reading a header does not need it
    import numpy as np

T = TypeVar("T")

MAGIC = b"GGUF"
LFS = b"version https://git-lfs.github.com/spec/"  # the first bytes of a Git LFS pointer
VERSIONS = (2, 3)  # version 1 had 32-bit counts and lived for six weeks of 2023
DEFAULT_ALIGNMENT = 32  # bytes, where the key general.alignment is absent
MAX_ALIGNMENT = 1 << 20  # files in use have 32 to 4096
MAX_KEYS = 1 << 16  # files in use have fewer than 100
MAX_TENSORS = 1 << 17  # the largest mixtures of experts in use have some 20,000
MAX_LAYERS = 1 << 10  # llama.cpp stops at 512
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_NAME = 64  # GGML_MAX_NAME, bytes; names of architectures are shorter still
TOKEN_EMBEDDINGS = "token_embd.weight"

# Architectures whose graph in llama.cpp multiplies the embeddings of token ids by sqrt(n_embd), but
# not the embeddings of a batch of embeddings. The first Gemmas, and models with another scale
# (Granite, MiniCPM, Grok), multiply both.
SCALES_TOKENS_ONLY = frozenset({"gemma3", "gemma3n", "gemma4", "gemma-embedding"})


@dataclass(frozen=True)
class Tensor:
    """One tensor's entry in the header."""

    name: str
    shape: tuple[int, ...]  # in ggml's order: the length of a row first
    type: GGMLQuantizationType
    offset: int  # of its first byte, from the start of the file
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GGUFFile:
    """The header of a GGUF file. All tensors lie inside the file.

    Attributes:
        path: of the file.
        version: of the format.
        size: of the whole file in bytes.
        metadata: int, float, bool, str, or a list of one of these, by key.
        tensors: by name.
        spans: the range of bytes of each metadata entry (key, type, value) in the file, by key.
    """

    path: Path
    version: int
    size: int
    metadata: HeaderMetadata
    tensors: dict[str, Tensor]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as "llama" or "gemma3"."""
        name = self._get("general.architecture", str)
        # It is shown in messages, which must be one line without control characters.
        if not name.isprintable() or len(name) >= MAX_NAME:
            raise GGUFError(f"{self.path} is damaged: general.architecture is {name!r:.80}")
        return name

    @cached_property
    def n_embd(self) -> int:
        """Width of a token's embedding, and of a soft token."""
        return self.hparam("embedding_length")

    @cached_property
    def n_layer(self) -> int:
        """Number of layers (blocks), without the output layer."""
        n_layer = self.hparam("block_count")
        if n_layer > MAX_LAYERS:
            raise GGUFError(f"{self.path} is damaged: it claims to have {n_layer:,} layers")
        return n_layer

    @cached_property
    def n_ctx_train(self) -> int:
        """Context length that the model was trained with."""
        return self.hparam("context_length")

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the chat template, or None."""
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template.strip() else None

    @property
    def embedding_scale(self) -> float:
        """The factor on a row of the token embeddings that makes it act as its token.

        Some architectures (Gemma 3) multiply token embeddings by sqrt(n_embd) before soft tokens
        enter the graph. For these the factor is sqrt(n_embd), for all others 1.0.
        """
        return math.sqrt(self.n_embd) if self.architecture in SCALES_TOKENS_ONLY else 1.0

    def hparam(self, name: str) -> int:
        """Return the positive integer "{architecture}.{name}". Raises GGUFError without one."""
        key = f"{self.architecture}.{name}"
        value = self._get(key, int)
        if value <= 0:
            raise GGUFError(f"{self.path} is damaged: {key} is {value}")
        return value

    def token(self, name: str) -> str:
        """Return the text of a special token ("bos", "eos", "unknown"), or ""."""
        index = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if not isinstance(index, int):
            return ""
        return self.metadata.text("tokenizer.ggml.tokens", index) or ""

    def copy(self) -> GGUFFile:
        """A copy of this file's header with a dictionary of tensors of its own."""
        return replace(self, tensors=dict(self.tensors))

    def _get(self, key: str, kind: type[T]) -> T:
        value = self.metadata.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise GGUFError(f"{self.path} is not a language model: its header has no {key}")
        return value


# The headers read last, by the file's path and stamp. A vocabulary takes some time to read, and
# several parts of a program need the header of the same file.
_header_cache: dict[tuple[Path, int, int, int, int], GGUFFile] = {}
MAX_CACHED_HEADERS = 4
MAX_CACHED_BYTES = 16 << 20  # of a header; larger ones are not cached
# Nanoseconds. A file modified more recently may change again without another modification time.
SETTLED = 2 * 10**9


def read_gguf(path: str | Path) -> GGUFFile:
    """Read and check the header of a GGUF file, without the tensors' data.

    Raises GGUFError, with a one-line message, for a file that is missing, unreadable, truncated,
    damaged, not a GGUF, or of an unknown version or tensor type.
    """
    path = expand_user(path)
    try:
        # Refuse pipes and devices, which might block forever.
        file_stat = os.stat(path)
        if not stat.S_ISREG(file_stat.st_mode):
            raise GGUFError(f"{path} is not a regular file; give the path of a .gguf file")
        stamp = (file_stat.st_dev, file_stat.st_ino, file_stat.st_size, file_stat.st_mtime_ns)
        key = (path, *stamp)
        if cached := _header_cache.get(key):
            return cached.copy()
        buffered = max(DEFAULT_BUFFER_SIZE, min(BLOCK, file_stat.st_size))
        with BufferedReader(FileIO(path), buffered) as file:
            size = os.fstat(file.fileno()).st_size
            cursor = HeaderCursor(file, size, path)
            header = _read_header(cursor, size, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise GGUFError(f"cannot read {path}: {reason}") from error
    settled = time.time_ns() - file_stat.st_mtime_ns > SETTLED
    if settled and cursor.position <= MAX_CACHED_BYTES:
        _header_cache[key] = header.copy()
        for old in list(_header_cache)[:-MAX_CACHED_HEADERS]:
            _header_cache.pop(old, None)
    return header


def token_embeddings(path: str | Path, ids: Sequence[int] | None = None) -> np.ndarray:
    """Return rows of `token_embd.weight`, dequantized: float32 `[len(ids) or n_vocab, n_embd]`.

    ids: of the rows to read; None for all. `GGUFFile.embedding_scale` is not applied. Raises
    GGUFError if the file has no such tensor, and IndexError for an id outside of the vocabulary.
    """
    import numpy as np
    from gguf.quants import dequantize

    file = read_gguf(path)
    tensor = file.tensors.get(TOKEN_EMBEDDINGS)
    if tensor is None or len(tensor.shape) != 2:
        raise GGUFError(f"{file.path} is not a language model: it has no {TOKEN_EMBEDDINGS}")
    n_vocab = tensor.shape[1]
    rows: np.ndarray = np.memmap(
        file.path, np.uint8, "r", tensor.offset, (n_vocab, tensor.n_bytes // n_vocab)
    )
    if ids is not None:
        chosen = np.asarray(ids, np.int64).reshape(-1)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < n_vocab:
            raise IndexError(f"token ids go from 0 to {n_vocab - 1} in {file.path}")
        if not chosen.size:
            return np.empty((0, tensor.shape[0]), np.float32)
        rows = rows[chosen]
    try:
        return np.ascontiguousarray(dequantize(rows, tensor.type), np.float32)
    except NotImplementedError as error:
        raise GGUFError(
            f"token embeddings of type {tensor.type.name} cannot be read from {file.path}; "
            "update the package: pip install -U gguf"
        ) from error


def _read_header(cursor: HeaderCursor, size: int, path: Path) -> GGUFFile:
    if size < len(MAGIC) or (magic := cursor.take(len(MAGIC))) != MAGIC:
        if size > len(LFS) and magic + cursor.take(len(LFS) - len(MAGIC)) == LFS:
            raise GGUFError(
                f"{path} is a Git LFS pointer, which stands for the file: run `git lfs pull` there"
            )
        if path.suffix == ".safetensors":
            raise GGUFError(f"{path} is not a GGUF file; convert its folder: reellama gguf convert")
        raise GGUFError(f"{path} is not a GGUF file; give the path of a .gguf file")
    version = cursor.number("<I")
    if version not in VERSIONS:
        # A big-endian file's small version number is in the other two bytes.
        swapped = version and not version & 0xFFFF
        format_ = "big-endian" if swapped else f"GGUF version {version}"
        raise GGUFError(f"{path} is {format_}, which is not supported; convert the model again")
    n_tensors = cursor.count(MAX_TENSORS, "tensors")
    metadata, spans = _read_metadata(cursor, cursor.count(MAX_KEYS, "keys"))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    # In Python a bool is an int, so True would pass for 1.
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT:
        raise cursor.damaged(f"general.alignment is {alignment!r:.40}")
    if alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment}, not a power of two")
    tensors = _read_tensors(cursor, n_tensors, alignment)
    _check_extents(cursor, list(tensors.values()), size)
    return GGUFFile(path, version, size, metadata, tensors, spans)


def _read_metadata(
    cursor: HeaderCursor, n_keys: int
) -> tuple[HeaderMetadata, dict[str, tuple[int, int]]]:
    """The values by key, and the spans of their entries."""
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(n_keys):
        start = cursor.position
        key = cursor.string()
        if not key:
            raise cursor.damaged("it has a key without a name")
        if key in values:
            raise cursor.damaged(f"it has the key {key!r:.80} twice")
        values[key] = cursor.value()
        spans[key] = start, cursor.position
    return HeaderMetadata(values), spans


def _read_tensors(cursor: HeaderCursor, n_tensors: int, alignment: int) -> dict[str, Tensor]:
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(n_tensors):
        name = cursor.string()
        if len(name.encode()) >= MAX_NAME:
            raise cursor.damaged(f"a tensor's name is too long: {name!r:.80}")
        if name in entries:
            raise cursor.damaged(f"it has the tensor {name!r} twice")
        n_dims = cursor.number("<I")
        if n_dims > MAX_DIMS:
            raise cursor.damaged(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(cursor.number("<Q") for _ in range(n_dims))
        entries[name] = shape, cursor.number("<I"), cursor.number("<Q")
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for name, (shape, type_id, offset) in entries.items():
        if offset % alignment or offset >= 1 << 63:
            signed = offset - (offset >> 63 << 64)
            raise cursor.damaged(f"tensor {name!r} starts at an odd place: {signed:,}")
        type_, n_bytes = _measure(cursor, name, shape, type_id)
        tensors[name] = Tensor(name, shape, type_, data_start + offset, n_bytes)
    return tensors


def _check_extents(cursor: HeaderCursor, tensors: list[Tensor], size: int) -> None:
    """Raise GGUFError if a tensor reaches beyond the end of the file or into another."""
    tensors.sort(key=lambda tensor: tensor.offset)
    end = max((tensor.offset + tensor.n_bytes for tensor in tensors), default=0)
    if end > size:
        raise GGUFError(
            f"{cursor.path} is cut off: it has {size:,} bytes of at least {end:,}; "
            "download it again"
        )
    for first, second in pairwise(tensors):
        if first.offset + first.n_bytes > second.offset:
            raise cursor.damaged(f"tensors {first.name!r} and {second.name!r} overlap")


def _measure(
    cursor: HeaderCursor, name: str, shape: tuple[int, ...], type_id: int
) -> tuple[GGMLQuantizationType, int]:
    """Return a tensor's type and its size in bytes."""
    try:
        type_ = tensor_type(type_id)
    except ValueError:
        removed = REMOVED.get(type_id)
        problem = (
            f"type {removed}, which llama.cpp reads no longer; download or convert the model again"
            if removed
            else f"type {type_id}, which is not known here; update the package: pip install -U gguf"
        )
        raise GGUFError(f"{cursor.path}: tensor {name!r} is of {problem}") from None
    block, block_bytes = GGML_QUANT_SIZES[type_]
    n_elements = math.prod(shape)
    if n_elements <= 0 or n_elements >= 1 << 63:
        raise cursor.damaged(f"tensor {name!r} has the shape {shape}")
    if (shape[0] if shape else 1) % block:
        raise cursor.damaged(f"rows of tensor {name!r} are no multiple of {block}")
    return type_, n_elements // block * block_bytes
