"""Merge LoRA adapters into a model's weights: W + scale * alpha / rank * B A.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. Adapters are GGUF files as
llama.cpp's convert_lora_to_gguf writes them: for each changed weight the tensors `NAME.lora_a`
`[rank, n_inputs]` and `NAME.lora_b` `[n_rows, rank]`. The merged model needs no adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize, quantize

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.header_writer import (
    TensorInfo,
    header_bytes,
    metadata_entries,
    padding,
    raw_entries,
)
from reellama.gguf_tools.format.reader import (
    DEFAULT_ALIGNMENT,
    TOKEN_EMBEDDINGS,
    GGUFFile,
    Tensor,
    read_gguf,
)

LORA_A, LORA_B = ".lora_a", ".lora_b"
FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.BF16: LlamaFileType.MOSTLY_BF16,
}
CHUNK_ELEMENTS = 1 << 24  # numbers of a tensor converted at once: 64 MiB as float32

TensorProgress = Callable[[int, int], None]  # tensors written, their total


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter's header and its scaling."""

    file: GGUFFile
    scale: float  # chosen by the user
    alpha: float  # from its training; 0 means no scaling by the rank

    def delta(self, weight: Tensor, matrix: int, rows: slice) -> np.ndarray | None:
        """The update of rows of a weight, float32 `[n_rows, n_inputs]`, or None if unchanged.

        matrix: index of the expert in a weight of three dimensions, else 0.
        """
        if weight.name + LORA_A not in self.file.tensors:
            return None
        a, b = (self._matrix(weight.name + suffix, matrix) for suffix in (LORA_A, LORA_B))
        rank = b.shape[-1]
        factor = np.float32(self.scale * (self.alpha / rank if self.alpha else 1.0))
        # Token embeddings are looked up by row, so there A, not B, has a row for each token.
        is_lookup = weight.name.endswith(TOKEN_EMBEDDINGS)
        return factor * (a[rows] @ b.T if is_lookup else b[rows] @ a)

    def _matrix(self, name: str, index: int) -> np.ndarray:
        tensor = self.file.tensors[name]
        n_rows = tensor.shape[1]
        return _floats(self.file, tensor, slice(index * n_rows, (index + 1) * n_rows))


def merge_lora(
    base: str | Path,
    adapters: Sequence[tuple[str | Path, float]],
    output: str | Path,
    *,
    type_name: str | None = None,
    progress: TensorProgress | None = None,
) -> Path:
    """Write `base` with adapters merged in.

    All metadata is kept. Memory use stays at some 100 MB, as tensors are converted in pieces.

    Args:
        adapters: paths with scales.
        type_name: F16, BF16 or F32, the type of quantized and of changed weights. None means F32
            for a base in F32, else F16.
        progress: called with the tensors written and their total.

    Returns `output`. Raises ReellamaError for an adapter of another model, and for values beyond
    the range of F16.
    """
    file = read_gguf(base)
    opened = open_adapters(file, adapters)
    type_ = _main_type(file) if type_name is None else _type_named(type_name)
    infos = [
        TensorInfo(tensor.name, tensor.shape, _type_of(tensor, type_, opened))
        for tensor in file.tensors.values()
    ]
    entries = metadata_entries({"general.file_type": int(FILE_TYPES[type_])})
    return _write(file, opened, infos, entries, Path(output), progress)


def merge_where_changed(
    base: str | Path,
    adapters: Sequence[tuple[str | Path, float]],
    output: str | Path,
    metadata: Mapping[str, str],
) -> Path:
    """Write `base` with adapters merged into the weights that they change; others stay unchanged.

    Changed weights of fewer bits become Q8_0, which loses next to nothing of an adapter.

    Args:
        adapters: paths with scales.
        metadata: keys to add.

    Returns `output`, and raises as `merge_lora` does.
    """
    file = read_gguf(base)
    opened = open_adapters(file, adapters)
    infos = changed_tensors(file, opened)
    entries = metadata_entries({"general.file_type": int(LlamaFileType.MOSTLY_Q8_0), **metadata})
    return _write(file, opened, infos, entries, Path(output), None)


def changed_tensors(file: GGUFFile, adapters: Sequence[LoraAdapter]) -> list[TensorInfo]:
    """The tensors that `merge_where_changed` writes."""
    infos = []
    for tensor in file.tensors.values():
        type_ = tensor.type
        if _is_changed(tensor, adapters) and type_ not in FILE_TYPES:
            fits = tensor.shape[0] % GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0][0] == 0
            type_ = GGMLQuantizationType.Q8_0 if fits else GGMLQuantizationType.F16
        infos.append(TensorInfo(tensor.name, tensor.shape, type_))
    return infos


def _write(
    file: GGUFFile,
    adapters: Sequence[LoraAdapter],
    infos: Sequence[TensorInfo],
    entries: Mapping[str, bytes],
    output: Path,
    progress: TensorProgress | None,
) -> Path:
    """Write tensors of the types in `infos`, with the metadata of `file` and further `entries`."""
    with replacing(output) as temporary, temporary.open("wb") as out:
        out.write(header_bytes(raw_entries(file.path) | dict(entries), infos))
        for done, info in enumerate(infos):
            if progress is not None:
                progress(done, len(infos))
            for piece in _pieces(file, info, adapters):
                out.write(piece)
            out.write(padding(info.n_bytes))
        if progress is not None:
            progress(len(infos), len(infos))
    return output


def merged_size(file: GGUFFile) -> int:
    """An upper bound of the bytes that `merge_lora` writes, without metadata."""
    block_bytes = GGML_QUANT_SIZES[_main_type(file)][1]
    return sum(max(t.n_bytes, t.n_elements * block_bytes) for t in file.tensors.values())


def open_adapters(
    base: GGUFFile, adapters: Sequence[tuple[str | Path, float]]
) -> list[LoraAdapter]:
    """Read the headers of adapters, given as paths with scales, and check that they fit `base`.

    Raises ReellamaError for a file that is missing or no adapter of this model, and for a base that
    cannot be merged.
    """
    if int(base.metadata.get("split.count", 1)) > 1:
        raise ReellamaError(f"{base.path} is a part of a split model: join it with `quantize COPY`")
    if base.metadata.get("general.alignment", DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
        raise ReellamaError(f"{base.path} has a general.alignment that cannot be written")
    return [_open(path, scale, base) for path, scale in adapters]


def _open(path: str | Path, scale: float, base: GGUFFile) -> LoraAdapter:
    file = read_gguf(path)
    kind = file.metadata.get("general.type"), file.metadata.get("adapter.type")
    if kind != ("adapter", "lora"):
        raise GGUFError(f"{file.path} is not a GGUF LoRA adapter")
    if file.architecture != base.architecture:
        raise ReellamaError(
            f"{file.path} is for models of architecture {file.architecture}, and {base.path} is "
            f"{base.architecture}"
        )
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise ReellamaError(f"{file.path} acts only after certain words, and cannot be merged")
    for name in file.tensors:
        # llama.cpp ignores an adapter's tensors for norms.
        if not name.endswith("_norm.weight"):
            _check_pair(file, name, base)
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    return LoraAdapter(file, scale, float(alpha) if isinstance(alpha, (int, float)) else 0.0)


def _check_pair(file: GGUFFile, name: str, base: GGUFFile) -> None:
    """Raise if an adapter's tensor lacks its pair or its weight, or has the wrong shape."""
    weight_name = name.removesuffix(LORA_A).removesuffix(LORA_B)
    pair = [file.tensors.get(weight_name + suffix) for suffix in (LORA_A, LORA_B)]
    weight = base.tensors.get(weight_name)
    if weight is None:
        raise ReellamaError(f"{file.path} changes {weight_name}, which {base.path} does not have")
    a, b = pair
    if a is None or b is None:
        raise GGUFError(f"{file.path} is damaged: of {weight_name} it has one half only")
    if weight_name.endswith(TOKEN_EMBEDDINGS):
        shape, matches = (b.shape[1:2] + a.shape[1:2]), a.shape[:1] == b.shape[:1]
    else:
        shape, matches = (a.shape[:1] + b.shape[1:2]), a.shape[1:2] == b.shape[:1]
    matches &= a.shape[2:] == b.shape[2:] == weight.shape[2:]
    if not matches or shape != weight.shape[:2]:
        raise ReellamaError(f"{file.path} does not fit {base.path}: {weight_name} has other shapes")


def _main_type(file: GGUFFile) -> GGMLQuantizationType:
    """F32 for a model in F32, else F16."""
    matrices = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
    in_f32 = all(tensor.type == GGMLQuantizationType.F32 for tensor in matrices)
    return GGMLQuantizationType.F32 if in_f32 else GGMLQuantizationType.F16


def _type_named(name: str) -> GGMLQuantizationType:
    for type_ in FILE_TYPES:
        if type_.name == name.upper():
            return type_
    raise ReellamaError(f"a merged model is in F32, F16 or BF16, not in {name}")


def _type_of(
    tensor: Tensor, type_: GGMLQuantizationType, adapters: Sequence[LoraAdapter]
) -> GGMLQuantizationType:
    """The type of a merged tensor; unchanged F32 tensors (norms, biases, routers) stay F32."""
    stays = tensor.type == GGMLQuantizationType.F32 and not _is_changed(tensor, adapters)
    return tensor.type if stays else type_


def _is_changed(tensor: Tensor, adapters: Sequence[LoraAdapter]) -> bool:
    return any(tensor.name + LORA_A in adapter.file.tensors for adapter in adapters)


def _pieces(file: GGUFFile, info: TensorInfo, adapters: Sequence[LoraAdapter]) -> Iterator[bytes]:
    """A tensor's data, merged, in pieces of whole rows."""
    tensor = file.tensors[info.name]
    n_rows = tensor.shape[1] if len(tensor.shape) > 1 else 1
    n_matrices = tensor.n_elements // (tensor.shape[0] * n_rows)
    step = max(1, CHUNK_ELEMENTS // tensor.shape[0])
    for matrix in range(n_matrices):
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
            first = matrix * n_rows
            if info.type == tensor.type and not _is_changed(tensor, adapters):
                yield _raw(file, tensor, slice(first + rows.start, first + rows.stop)).tobytes()
                continue
            values = _floats(file, tensor, slice(first + rows.start, first + rows.stop))
            for adapter in adapters:
                if (delta := adapter.delta(tensor, matrix, rows)) is not None:
                    values = values + delta
            yield _encoded(values, info, file)


def _floats(file: GGUFFile, tensor: Tensor, rows: slice) -> np.ndarray:
    """Rows of a tensor, counted over all its matrices: float32 `[n_rows, n_inputs]`."""
    try:
        floats = dequantize(_raw(file, tensor, rows), tensor.type)
    except NotImplementedError as error:
        raise GGUFError(
            f"{tensor.name} of {file.path} is of type {tensor.type.name}, which cannot be read"
        ) from error
    return np.asarray(floats, np.float32).reshape(rows.stop - rows.start, tensor.shape[0])


def _raw(file: GGUFFile, tensor: Tensor, rows: slice) -> np.ndarray:
    """Rows of a tensor as they are stored: uint8 `[n_rows, bytes of a row]`."""
    row_bytes = tensor.n_bytes * tensor.shape[0] // tensor.n_elements
    offset = tensor.offset + rows.start * row_bytes
    n_rows = rows.stop - rows.start
    raw = np.fromfile(file.path, np.uint8, n_rows * row_bytes, offset=offset)
    return raw.reshape(n_rows, row_bytes)


def _encoded(values: np.ndarray, info: TensorInfo, file: GGUFFile) -> bytes:
    if info.type == GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ReellamaError(f"{info.name} of {file.path} has values beyond F16: choose F32")
        return half.tobytes()
    return bytes(quantize(values, info.type).tobytes())
