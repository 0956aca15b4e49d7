"""Write GGUF headers, whose metadata may be copied from other files byte by byte.

Copying entries as bytes keeps every key with its exact type, even unknown ones.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import DEFAULT_ALIGNMENT, MAGIC, read_gguf

VERSION = 3

Value = bool | int | float | str | Sequence[str]


class TensorInfo(NamedTuple):
    """A tensor to be written. The shape is in ggml's order: the length of a row first."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        n_elements = 1
        for length in self.shape:
            n_elements *= length
        return n_elements // block * block_bytes


def raw_entries(path: Path) -> dict[str, bytes]:
    """Return the metadata of a GGUF file: the bytes of each entry (key, type, value) by key.

    Raises GGUFError, as `read_gguf`.
    """
    spans = read_gguf(path).spans
    try:
        with path.open("rb") as file:
            head = file.read(max((end for _, end in spans.values()), default=0))
    except OSError as error:
        raise GGUFError(f"cannot read {path}: {error.strerror}") from error
    return {key: head[start:end] for key, (start, end) in spans.items()}


def metadata_entry(key: str, value: Value) -> bytes:
    """Return an entry: a bool, an int as UINT32, a float as FLOAT32, a str, or an array of str."""
    if isinstance(value, bool):
        return typed_entry(key, GGUFValueType.BOOL, struct.pack("<?", value))
    if isinstance(value, int):
        return typed_entry(key, GGUFValueType.UINT32, struct.pack("<I", value))
    if isinstance(value, float):
        return typed_entry(key, GGUFValueType.FLOAT32, struct.pack("<f", value))
    if isinstance(value, str):
        return typed_entry(key, GGUFValueType.STRING, _text(value))
    elements = struct.pack("<IQ", GGUFValueType.STRING, len(value)) + b"".join(map(_text, value))
    return typed_entry(key, GGUFValueType.ARRAY, elements)


def typed_entry(key: str, type_: GGUFValueType, value: bytes) -> bytes:
    """Return an entry of any type, from the bytes of its value."""
    return _text(key) + struct.pack("<I", type_) + value


def value_type(key: str, entry: bytes) -> GGUFValueType:
    """Return the type of an entry, as `raw_entries` gives it."""
    start = 8 + len(key.encode("utf-8"))
    return GGUFValueType(int.from_bytes(entry[start : start + 4], "little"))


def metadata_entries(values: Mapping[str, Value]) -> dict[str, bytes]:
    """Return the entries of several keys, in the form of `raw_entries`."""
    return {key: metadata_entry(key, value) for key, value in values.items()}


def header_bytes(entries: Mapping[str, bytes], tensors: Iterable[TensorInfo]) -> bytes:
    """Return the header of a GGUF file, padded to where the first tensor's data begins.

    The tensors' data must follow in the same order, each padded by `padding`.
    """
    infos, offset = [], 0
    for tensor in tensors:
        shape = _trimmed(tensor.shape)
        infos.append(_text(tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        infos[-1] += struct.pack("<IQ", int(tensor.type), offset)
        offset += aligned_size(tensor.n_bytes)
    counts = struct.pack("<IQQ", VERSION, len(infos), len(entries))
    result = b"".join((MAGIC, counts, *entries.values(), *infos))
    return result + padding(len(result))


def file_size(entries: Mapping[str, bytes], tensors: Sequence[TensorInfo]) -> int:
    """Return the size in bytes of a file with these entries and tensors."""
    return len(header_bytes(entries, tensors)) + sum(
        aligned_size(tensor.n_bytes) for tensor in tensors
    )


def write_padded(file: BinaryIO, data: bytes) -> None:
    """Write a tensor's data and its padding."""
    file.write(data)
    file.write(padding(len(data)))


def aligned_size(n_bytes: int) -> int:
    """Return `n_bytes` rounded up to the alignment."""
    return -(-n_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def padding(n_bytes: int) -> bytes:
    """Return the zeros that follow `n_bytes` bytes."""
    return bytes(aligned_size(n_bytes) - n_bytes)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as ggml writes it, without the dimensions of length one at its end."""
    n_dims = max((i + 1 for i, length in enumerate(shape) if length > 1), default=1)
    return shape[:n_dims]


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data
