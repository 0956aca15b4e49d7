"""Importance matrices: the weight of each input of each matrix, for better quantization.

While a model reads a text, the squares of the inputs of each matrix are summed up by column.
Quantization then spends its precision on the important columns. Files have the format of
llama.cpp's tools/imatrix: GGUF, with sums and a count for each matrix, or for each expert of a
matrix. The older binary format can be read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from gguf.constants import GGMLQuantizationType

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.header_writer import (
    TensorInfo,
    header_bytes,
    metadata_entries,
    write_padded,
)
from reellama.gguf_tools.format.reader import MAGIC, GGUFFile, Tensor, read_gguf
from reellama.gguf_tools.user_paths import expand_user

if TYPE_CHECKING:
    from reellama.gguf_tools.quantization.activations import Activations
    from reellama.gguf_tools.runtime.backend import Model
    from reellama.gguf_tools.runtime.context import Context
    from reellama.gguf_tools.runtime.context_settings import ContextSettings
    from reellama.gguf_tools.text.text_chunks import Block

N_CTX = 512  # tokens of a chunk, llama-imatrix's default
SUM, COUNT = ".in_sum2", ".counts"
MAX_NAME = 64  # GGML_MAX_NAME, bytes

# Parts of a prompt in order: token ids int32 `[n]` or soft tokens float32 `[n, n_embd]`.
Prompt = Sequence[Sequence[int] | np.ndarray]
PromptProgress = Callable[[float, int | None], None]  # prompts or chunks done, their total if known


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix.

    Attributes:
        sums: sums of squares by weight name, float32 `[n_experts or 1, n_inputs]`.
        counts: rows summed up by weight name, float32 `[n_experts or 1]`.
        datasets: names of the texts that were read.
        chunk_count: chunks read.
        chunk_size: tokens of a chunk.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int

    def weights(self) -> dict[str, np.ndarray]:
        """Means of the squares by weight name, float32 `[n_experts * n_inputs]`.

        An expert without tokens gets means of 1, uniform weights, as in llama.cpp.
        """
        result = {}
        for name, sums in self.sums.items():
            counts = self.counts[name][:, None]
            means = np.where(counts > 0, sums / np.maximum(counts, np.float32(1)), np.float32(1))
            result[name] = np.ascontiguousarray(means, np.float32).reshape(-1)
        return result

    def write(self, path: str | Path) -> None:
        """Write a GGUF of llama.cpp's format. Raises ReellamaError if that fails."""
        arrays: dict[str, np.ndarray] = {}
        for name in sorted(self.sums):
            arrays[name + SUM] = self.sums[name]
            arrays[name + COUNT] = self.counts[name][:, None]
        metadata = metadata_entries(
            {
                "general.type": "imatrix",
                "imatrix.datasets": self.datasets,
                "imatrix.chunk_count": self.chunk_count,
                "imatrix.chunk_size": self.chunk_size,
            }
        )
        tensors = [
            TensorInfo(name, array.shape[::-1], GGMLQuantizationType.F32)
            for name, array in arrays.items()
        ]
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            file.write(header_bytes(metadata, tensors))
            for array in arrays.values():
                write_padded(file, np.ascontiguousarray(array, "<f4").tobytes())


def read_imatrix(path: str | Path) -> Imatrix:
    """Read an importance matrix, in either of llama.cpp's formats.

    Raises GGUFError for a file that is missing, damaged, or no importance matrix.
    """
    path = expand_user(path)
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return _read_legacy(file, path)
    except OSError as error:
        raise GGUFError(f"cannot read {path}: {error.strerror}") from error
    header = read_gguf(path)
    names = [name.removesuffix(SUM) for name in header.tensors if name.endswith(SUM)]
    if header.metadata.get("general.type") != "imatrix" or not names:
        raise GGUFError(f"{path} is not an importance matrix; make one with: reellama gguf imatrix")
    sums, counts = {}, {}
    for name in names:
        if name + COUNT not in header.tensors:
            raise GGUFError(f"{path} is damaged: it has no {name}{COUNT}")
        counts[name] = np.rint(_floats(header, name + COUNT))
        flat = _floats(header, name + SUM)
        if len(flat) % len(counts[name]):
            raise GGUFError(f"{path} is damaged: {name}{SUM} and {name}{COUNT} do not match")
        sums[name] = flat.reshape(len(counts[name]), -1)
    datasets = header.metadata.get("imatrix.datasets")
    return Imatrix(
        sums,
        counts,
        tuple(map(str, datasets)) if isinstance(datasets, list) else (),
        _int(header, "imatrix.chunk_count"),
        _int(header, "imatrix.chunk_size"),
    )


def collect(
    model: str | Path,
    prompts: Iterable[Prompt],
    *,
    n_ctx: int = N_CTX,
    n_threads: int | None = None,
    n_gpu_layers: int = 0,
    datasets: Sequence[str] = (),
    progress: PromptProgress | None = None,
) -> Imatrix:
    """Collect an importance matrix from prompts, each read alone.

    Parts of fewer than 16 positions are read but not counted, as in llama.cpp.

    Args:
        n_ctx: the most positions of a prompt.
        n_threads: None means one for each core.
        datasets: names to record in the matrix.

    Raises GGUFError for a model that cannot be loaded, and ReellamaError for a prompt of more than
    `n_ctx` positions.
    """
    from reellama.gguf_tools.quantization.activations import Activations
    from reellama.gguf_tools.runtime.backend import load_model
    from reellama.gguf_tools.runtime.context import Context
    from reellama.gguf_tools.runtime.context_settings import ContextSettings

    activations = Activations()
    settings = ContextSettings(n_batch=min(n_ctx, 2048), n_threads=n_threads)
    with (
        load_model(model, n_gpu_layers=n_gpu_layers, n_ctx=n_ctx) as loaded,
        Context(
            loaded, n_ctx, settings, n_outputs=settings.n_batch, on_node=activations.callback
        ) as context,
    ):
        total = len(prompts) if isinstance(prompts, Sequence) else None
        for done, prompt in enumerate(prompts, 1):
            _read(context, prompt, n_ctx, activations)
            if progress is not None:
                progress(done, total)
    return _imatrix(activations, model, n_ctx, datasets)


def collect_from_text(
    model: str | Path,
    text_file: str | Path,
    *,
    n_ctx: int = N_CTX,
    n_chunks: int | None = None,
    n_threads: int | None = None,
    n_gpu_layers: int = 0,
    process_output: bool = False,
    resume_from: Imatrix | None = None,
    save: Callable[[Imatrix], None] | None = None,
    save_every: int = 0,
    progress: PromptProgress | None = None,
) -> Imatrix:
    """Collect an importance matrix from a text file, cut into chunks of `n_ctx` tokens.

    The text is cut and read as by llama.cpp's tools/imatrix (see `text_chunks`), with logits for
    every position.

    Args:
        n_chunks: chunks to read; None means all.
        n_threads: None means one for each core.
        process_output: count the output matrix too.
        resume_from: the matrix of an earlier run over the first chunks, which are skipped.
        save: called with the matrix so far, after every `save_every` chunks or a few more.

    Raises ReellamaError for a text that cannot be read or is shorter than a chunk, and for a
    `resume_from` of another text or chunk size.
    """
    from reellama.gguf_tools.quantization.activations import Activations
    from reellama.gguf_tools.runtime.backend import load_model
    from reellama.gguf_tools.runtime.context_settings import ContextSettings
    from reellama.gguf_tools.text import text_chunks

    if n_ctx < 16 or (n_chunks is not None and n_chunks < 1):
        raise ReellamaError("a chunk has at least 16 tokens, and at least one is needed")
    content = text_chunks.read_text(text_file)
    activations = Activations(process_output=process_output)
    settings, datasets = ContextSettings(n_threads=n_threads), (str(text_file),)
    n_before = _resume(activations, resume_from, datasets, n_ctx)
    with load_model(model, n_gpu_layers=n_gpu_layers, n_ctx=n_ctx) as loaded:
        chunks = text_chunks.split(loaded, content, n_ctx, Path(text_file))[:n_chunks]
        if resume_from is not None and n_before >= len(chunks):
            return resume_from
        n_all, chunks = len(chunks), chunks[n_before:]
        saved = 0.0
        for block in _read_chunks(loaded, chunks, settings, activations):
            if progress is not None:
                progress(n_before + block.n_chunks_done, n_all)
            at_end = block.positions.stop == n_ctx  # else some chunks are half read
            if save and save_every and at_end and block.n_chunks_done - saved >= save_every:
                saved = block.n_chunks_done
                save(_imatrix(activations, model, n_ctx, datasets))
    return _imatrix(activations, model, n_ctx, datasets)


def _read_chunks(
    model: Model, chunks: np.ndarray, settings: ContextSettings, activations: Activations
) -> Iterator[Block]:
    """Let a model read chunks int32 `[n_chunks, n_ctx]`; yields each block after it is read."""
    from reellama.gguf_tools.runtime.context import Context
    from reellama.gguf_tools.text import text_chunks

    n_chunks, n_ctx = chunks.shape
    with Context(
        model,
        n_ctx,
        settings,
        n_seq=text_chunks.n_side_by_side(n_chunks, n_ctx),
        n_outputs=settings.n_ubatch,
        may_encode=True,
        on_node=activations.callback,
    ) as context:
        yield from text_chunks.read_side_by_side(
            [context], chunks, settings, first_output=0, after_decode=activations.check
        )


def _resume(
    activations: Activations, earlier: Imatrix | None, datasets: tuple[str, ...], n_ctx: int
) -> int:
    """Set the sums and counts of `activations` to those of an earlier run; returns its chunks."""
    if earlier is None:
        return 0
    if (earlier.datasets, earlier.chunk_size) != (datasets, n_ctx):
        raise ReellamaError(
            f"what is there was collected from {', '.join(earlier.datasets) or 'an unnamed text'} "
            f"in chunks of {earlier.chunk_size}, not from {datasets[0]} in chunks of {n_ctx}"
        )
    activations.sums = {name: sums.astype(np.float64) for name, sums in earlier.sums.items()}
    activations.counts = {name: n.astype(np.int64) for name, n in earlier.counts.items()}
    return earlier.chunk_count


def _imatrix(
    activations: Activations, model: str | Path, n_ctx: int, datasets: Sequence[str]
) -> Imatrix:
    """The importance matrix of the collected activations."""
    if not activations.sums:
        raise ReellamaError(f"nothing was collected from {model}: give it longer texts")
    n_rows = max(int(count.max()) for count in activations.counts.values())
    return Imatrix(
        {name: sums.astype(np.float32) for name, sums in activations.sums.items()},
        {name: counts.astype(np.float32) for name, counts in activations.counts.items()},
        tuple(datasets),
        max(n_rows // n_ctx, 1),
        n_ctx,
    )


def _read(context: Context, prompt: Prompt, n_ctx: int, activations: Activations) -> None:
    """Decode one prompt from position 0, with outputs everywhere.

    In the last layer llama.cpp skips positions without an output, which would not be counted.
    """
    context.clear()
    start = 0
    for part in prompt:
        tokens = np.asarray(part)  # ids [n] or soft tokens [n, n_embd]
        if start + len(tokens) > n_ctx:
            raise ReellamaError(f"a prompt takes more than the {n_ctx} positions of the context")
        for i in range(0, len(tokens), context.n_batch):
            batch = tokens[i : i + context.n_batch]
            try:
                context.decode(batch, start, first_output=0)
            finally:
                activations.check()
            start += len(batch)


def _floats(header: GGUFFile, name: str) -> np.ndarray:
    tensor: Tensor = header.tensors[name]
    if tensor.type != GGMLQuantizationType.F32:
        raise GGUFError(f"{header.path} is damaged: {name} is not of type F32")
    return np.fromfile(header.path, "<f4", tensor.n_elements, offset=tensor.offset)


def _int(header: GGUFFile, key: str) -> int:
    value = header.metadata.get(key)
    return value if isinstance(value, int) else 0


def _read_legacy(file: BinaryIO, path: Path) -> Imatrix:
    """Read the older format: means of squares times the count of chunks, without experts' counts.

    The file has the int32 count of entries, and for each entry the length of its name, the name,
    the count of chunks, the count of values, and the values in float32; at the end the count of
    chunks, the length of the text's name, and that name.
    """
    size = path.stat().st_size
    file.seek(0)

    def read(n: int) -> bytes:
        if not 0 <= n <= size - file.tell():
            raise GGUFError(f"{path} is not an importance matrix, or it is damaged")
        return file.read(n)

    def read_int() -> int:
        return int(struct.unpack("<i", read(4))[0])

    sums, counts = {}, {}
    for _ in range(read_int()):
        name = read(read_int()).decode("utf-8", "replace")
        n_chunks = read_int()
        sums[name] = np.frombuffer(read(4 * read_int()), "<f4").reshape(1, -1)
        counts[name] = np.array([n_chunks], np.float32)
    if not sums or any(len(name.encode()) >= MAX_NAME for name in sums):
        raise GGUFError(f"{path} is not an importance matrix, or it is damaged")
    chunk_count, datasets = 0, tuple[str, ...]()
    if file.tell() < size:
        chunk_count = read_int()
        datasets = (read(read_int()).decode("utf-8", "replace"),)
    return Imatrix(sums, counts, datasets, chunk_count, 0)
