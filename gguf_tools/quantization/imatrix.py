"""Importance matrices: the weight of each input of each matrix, for better quantization.

While a model reads a text, the squares of the inputs of each matrix are summed up by column.
Quantization then spends its precision on the important columns. Files are llama.cpp's own
(tools/imatrix): GGUF, with a sum and a count for each matrix; the older binary format can be read.
A mixture of experts has a row and a count for each expert.
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

if TYPE_CHECKING:
    from reellama.gguf_tools.quantization.activations import Activations
    from reellama.gguf_tools.runtime.backend import Model
    from reellama.gguf_tools.runtime.context import Context
    from reellama.gguf_tools.runtime.context_settings import ContextSettings
    from reellama.gguf_tools.text.text_chunks import Block

N_CTX = 512  # tokens of a chunk, llama-imatrix's default
SUM, COUNT = ".in_sum2", ".counts"
MAX_NAME = 64  # GGML_MAX_NAME, bytes

# Token ids int32 `[n]` or soft tokens float32 `[n, n_embd]`, one after another.
Prompt = Sequence[Sequence[int] | np.ndarray]
PromptProgress = Callable[[float, int | None], None]  # prompts or chunks done, their total if known


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix.

    `sums` maps names of weights to sums of squares, float32 `[n_experts or 1, n_inputs]`; `counts`
    to how many rows went into each, float32 `[n_experts or 1]`. `datasets` are the texts that it
    was made from, `chunk_count` and `chunk_size` how many pieces of how many tokens these were.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int

    def weights(self) -> dict[str, np.ndarray]:
        """Return the means of the squares, float32 `[n_experts * n_inputs]`.

        For an expert without tokens they are 1, as in llama.cpp: uniform weights.
        """
        result = {}
        for name, sums in self.sums.items():
            counts = self.counts[name][:, None]
            means = np.where(counts > 0, sums / np.maximum(counts, np.float32(1)), np.float32(1))
            result[name] = np.ascontiguousarray(means, np.float32).reshape(-1)
        return result

    def write(self, path: str | Path) -> None:
        """Write it as llama.cpp's GGUF. Raises ReellamaError when that cannot be done."""
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

    Raises GGUFError, in one line, for a file that is missing, damaged, or something else.
    """
    path = Path(path).expanduser()
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
    """Collect an importance matrix from prompts of at most `n_ctx` positions, each read alone.

    A prompt is a sequence of parts: token ids, or soft tokens float32 `[n, n_embd]`. A part of
    fewer than 16 positions is read and not counted, which is llama.cpp's rule. Raises GGUFError for
    a file that cannot be loaded, ReellamaError for a prompt that does not fit.
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
    begun: Imatrix | None = None,
    save: Callable[[Imatrix], None] | None = None,
    save_every: int = 0,
    progress: PromptProgress | None = None,
) -> Imatrix:
    """Collect from a text file, cut into chunks of `n_ctx` tokens; all of them, or `n_chunks`.

    The text is cut and read as llama.cpp's tool does it (`reellama.gguf_tools.text.text_chunks`),
    with logits for every position. process_output: count the output matrix too. begun: what an
    earlier run has collected from the first chunks, which are not read again. save is called with
    what there is after every `save_every` chunks or a few more. Raises ReellamaError for a text
    that cannot be read or is shorter than a chunk, and for a `begun` from another text.
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
    n_begun = _go_on(activations, begun, datasets, n_ctx)
    with load_model(model, n_gpu_layers=n_gpu_layers, n_ctx=n_ctx) as loaded:
        chunks = text_chunks.split(loaded, content, n_ctx, Path(text_file))[:n_chunks]
        if begun is not None and n_begun >= len(chunks):
            return begun
        n_all, chunks = len(chunks), chunks[n_begun:]
        saved = 0.0
        for block in _read_chunks(loaded, chunks, settings, activations):
            if progress is not None:
                progress(n_begun + block.n_chunks_done, n_all)
            whole = block.positions.stop == n_ctx  # else some chunks are half read
            if save and save_every and whole and block.n_chunks_done - saved >= save_every:
                saved = block.n_chunks_done
                save(_imatrix(activations, model, n_ctx, datasets))
    return _imatrix(activations, model, n_ctx, datasets)


def _read_chunks(
    model: Model, chunks: np.ndarray, settings: ContextSettings, activations: Activations
) -> Iterator[Block]:
    """Let a model read chunks int32 `[n_chunks, n_ctx]`; yield after each block of them."""
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


def _go_on(
    activations: Activations, begun: Imatrix | None, datasets: tuple[str, ...], n_ctx: int
) -> int:
    """Put back what was collected; returns how many chunks that was."""
    if begun is None:
        return 0
    if (begun.datasets, begun.chunk_size) != (datasets, n_ctx):
        raise ReellamaError(
            f"what is there was collected from {', '.join(begun.datasets) or 'an unnamed text'} in "
            f"chunks of {begun.chunk_size}, not from {datasets[0]} in chunks of {n_ctx}"
        )
    activations.sums = {name: sums.astype(np.float64) for name, sums in begun.sums.items()}
    activations.counts = {name: n.astype(np.int64) for name, n in begun.counts.items()}
    return begun.chunk_count


def _imatrix(
    activations: Activations, model: str | Path, n_ctx: int, datasets: Sequence[str]
) -> Imatrix:
    """The importance matrix of what was collected."""
    if not activations.sums:
        raise ReellamaError(f"nothing was collected from {model}: give it longer texts")
    most = max(int(count.max()) for count in activations.counts.values())
    return Imatrix(
        {name: sums.astype(np.float32) for name, sums in activations.sums.items()},
        {name: counts.astype(np.float32) for name, counts in activations.counts.items()},
        tuple(datasets),
        max(most // n_ctx, 1),
        n_ctx,
    )


def _read(context: Context, prompt: Prompt, n_ctx: int, activations: Activations) -> None:
    """Decode one prompt from position 0, with outputs everywhere.

    In the last layer llama.cpp skips positions without an output, which would not be counted.
    """
    context.clear()
    start = 0
    for part in prompt:
        run = np.asarray(part)
        if start + len(run) > n_ctx:
            raise ReellamaError(f"a prompt takes more than the {n_ctx} positions of the context")
        for i in range(0, len(run), context.n_batch):
            piece = run[i : i + context.n_batch]
            try:
                context.decode(piece, start, first_output=0)
            finally:
                activations.check()
            start += len(piece)


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

    int32 count of entries; for each its name's length, name, chunks, length, float32 values; then
    the count of chunks, and the length and name of the text.
    """
    size = path.stat().st_size
    file.seek(0)

    def take(n: int) -> bytes:
        if not 0 <= n <= size - file.tell():
            raise GGUFError(f"{path} is not an importance matrix, or it is damaged")
        return file.read(n)

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    sums, counts = {}, {}
    for _ in range(number()):
        name = take(number()).decode("utf-8", "replace")
        n_chunks = number()
        sums[name] = np.frombuffer(take(4 * number()), "<f4").reshape(1, -1)
        counts[name] = np.array([n_chunks], np.float32)
    if not sums or any(len(name.encode()) >= MAX_NAME for name in sums):
        raise GGUFError(f"{path} is not an importance matrix, or it is damaged")
    chunk_count, datasets = 0, tuple[str, ...]()
    if file.tell() < size:
        chunk_count = number()
        datasets = (take(number()).decode("utf-8", "replace"),)
    return Imatrix(sums, counts, datasets, chunk_count, 0)
