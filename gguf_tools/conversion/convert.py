"""Convert a Hugging Face folder of safetensors to one GGUF file, without torch.

    convert("SmolLM2-135M-Instruct", "F16", "smollm2-f16.gguf")

Weights are not quantized here, see `quantize`. llama.cpp computes the same tokens and, within the
precision of the type, the same logits as transformers; the result's `notes` list the exceptions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import (
    GGML_QUANT_VERSION,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
    quantize,
)

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.conversion import hyperparameters
from reellama.gguf_tools.conversion.architectures import Architecture, Config, read_config
from reellama.gguf_tools.conversion.hf_folder import model_name, reporting_damage
from reellama.gguf_tools.conversion.hf_tensors import HFTensor, read_rows, read_tensors
from reellama.gguf_tools.conversion.hf_tokenizer import Vocabulary, add_vocabulary, read_vocabulary
from reellama.gguf_tools.conversion.tensor_plan import PlannedTensor, language_tensors, plan_tensors
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
}
CHUNK = 4 << 20  # numbers that are converted at a time, which bounds the memory
HEADER_ROOM = 64 << 20  # bytes, more than the largest header in use
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """The file that was written. `notes` are lines on where llama.cpp differs from the model."""

    path: Path
    type: str
    n_tensors: int
    n_bytes: int
    notes: list[str]


def convert(
    folder: str | Path,
    type_: str | None = None,
    output: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a folder's model, tokenizer and chat template as a GGUF file.

    `type_` is F32, F16 or BF16; None is the type that most weights have, which loses nothing.
    Vectors and norms are F32 always. `output` is NAME-TYPE.gguf in the current folder unless given;
    `force` replaces it. `progress` is called with the bytes written and the total.
    Memory does not grow with the model. Raises ReellamaError, in one line, and writes nothing when
    the folder is incomplete or damaged, the model or its tokenizer is one that llama.cpp cannot
    run as it is, the disk is too full, or F16 cannot hold a weight.
    """
    folder = Path(folder).expanduser()
    architecture, config = read_config(folder)
    tensors = language_tensors(read_tensors(folder), config)
    type_ = (type_ or _main_type(tensors)).upper()
    if type_ not in FILE_TYPES:
        raise ReellamaError(
            f"cannot convert to {type_}: give F32, F16 or BF16, and quantize the result"
        )
    with reporting_damage(folder / "config.json"):
        plan = plan_tensors(folder, architecture, config, tensors, GGMLQuantizationType[type_])
        notes = hyperparameters.notes(architecture, config)
    n_rows = next(tensor.shape[0] for tensor in plan if tensor.name == TOKEN_EMBEDDINGS)
    vocabulary = read_vocabulary(folder, n_rows)
    path = Path(output or f"{model_name(folder)}-{type_}.gguf").expanduser()
    _check_place(path, sum(tensor.n_bytes for tensor in plan), force)
    with replacing(path) as temporary:
        with reporting_damage(folder / "config.json"):
            alignment = _write_header(
                temporary, folder, architecture, config, vocabulary, plan, FILE_TYPES[type_]
            )
        with temporary.open("ab") as file:
            _write_tensors(file, plan, alignment, progress)
        n_bytes = temporary.stat().st_size
    return Converted(path, type_, len(plan), n_bytes, [*notes, *vocabulary.notes])


def _main_type(tensors: Mapping[str, HFTensor]) -> str:
    """The GGUF type that stores most weights without loss."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.n_bytes
    main = max(sizes, key=lambda dtype: sizes[dtype], default="F32")
    return main if main in FILE_TYPES else "F32"


def _check_place(path: Path, n_bytes: int, force: bool) -> None:
    if path.exists() and not force:
        raise ReellamaError(f"{path} is there already; --force replaces it")
    if not path.parent.is_dir():
        raise ReellamaError(f"cannot save {path}: there is no folder {path.parent}")
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes + HEADER_ROOM:
        raise ReellamaError(
            f"cannot save {path}: it takes {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        )


def _write_header(
    path: Path,
    folder: Path,
    architecture: Architecture,
    config: Config,
    vocabulary: Vocabulary,
    plan: list[PlannedTensor],
    file_type: LlamaFileType,
) -> int:
    """Write the header; returns the alignment of the tensors' data."""
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[architecture.arch])
    writer.add_type(GGUFType.MODEL)
    writer.add_name(model_name(folder))
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(len(vocabulary.tokens))
    hyperparameters.add_hyperparameters(writer, architecture, config)
    add_vocabulary(writer, vocabulary)
    for tensor in plan:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, raw_dtype=tensor.type
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    return int(writer.data_alignment)


def _write_tensors(
    file: BinaryIO, plan: list[PlannedTensor], alignment: int, progress: Progress | None
) -> None:
    total, done = sum(tensor.n_bytes for tensor in plan), 0
    for tensor in plan:
        file.write(bytes(-file.tell() % alignment))
        for chunk in _chunks(tensor):
            file.write(chunk.data)
            done += chunk.nbytes
            if progress:
                progress(done, total)
    file.write(bytes(-file.tell() % alignment))


def _chunks(tensor: PlannedTensor) -> Iterator[np.ndarray]:
    """A tensor's data as bytes, a few rows at a time."""
    n_rows = tensor.shape[0]
    step = max(1, CHUNK * n_rows // max(1, int(np.prod(tensor.shape))))
    rows = np.arange(n_rows) if tensor.rows is None else tensor.rows
    for start in range(0, n_rows, step):
        part = rows[start : start + step]
        if tensor.source is not None:
            numbers = read_rows(tensor.source, part)
        else:
            assert tensor.values is not None
            numbers = tensor.values[part]
        if tensor.offset:
            numbers = numbers + np.float32(tensor.offset)
        yield np.ascontiguousarray(_encode(tensor, numbers)).view(np.uint8)


def _encode(tensor: PlannedTensor, numbers: np.ndarray) -> np.ndarray:
    if tensor.type != GGMLQuantizationType.F16:
        return quantize(numbers, tensor.type)
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16)
    if np.isinf(halves).any() and np.isfinite(numbers[np.isinf(halves)]).any():
        raise ReellamaError(
            f"{tensor.name} has numbers beyond {np.finfo(np.float16).max:,.0f}, which F16 cannot "
            "hold; convert to BF16"
        )
    return halves
