"""Saved logits of a model on a text, in the format of `llama-perplexity --kl-divergence-base`.

A file has the text's tokens, and for each scored position the log-probabilities of all tokens in
16 bits, down to 16 below the largest. A reference that is too large to be loaded together with
another model needs to run only once.
https://github.com/ggml-org/llama.cpp/tree/master/tools/perplexity
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring.divergence import MIN_LOG_PROBABILITY
from reellama.gguf_tools.sizes import show_size
from reellama.gguf_tools.user_paths import expand_user

MAGIC = b"_logits_"
HEADER = struct.Struct("<8siii")  # magic, n_ctx, n_vocab, n_chunks; then the tokens
LEVELS = 65535  # of 16 bits
SCALE_SLOTS = 4  # uint16 at the start of a row, which are two float32: the scale and the minimum


@dataclass(frozen=True, eq=False)
class SavedLogits:
    """A file of logits for the second half of each chunk."""

    path: Path
    n_vocab: int
    chunks: np.ndarray  # int32 [n_chunks, n_ctx], token ids
    rows: np.ndarray  # uint16 [n_chunks, scored positions, row_slots(n_vocab)], on disk

    @property
    def n_ctx(self) -> int:
        """Tokens of a chunk."""
        return int(self.chunks.shape[1])

    def log_probabilities(self, chunk: int, positions: slice) -> np.ndarray:
        """The log probabilities at scored positions of a chunk: float32 `[n, n_vocab]`.

        positions: counted from the first scored one.
        """
        rows = np.ascontiguousarray(self.rows[chunk, positions])
        scales = np.ascontiguousarray(rows[:, :SCALE_SLOTS]).view("<f4")
        values = rows[:, SCALE_SLOTS : SCALE_SLOTS + self.n_vocab].astype(np.float32)
        return values * scales[:, :1] + scales[:, 1:]

    def put(self, chunk: int, positions: slice, logits: np.ndarray) -> None:
        """Write logits float32 `[n, n_vocab]`, for `log_probabilities` to read."""
        self.rows[chunk, positions] = encode_rows(logits)


def row_slots(n_vocab: int) -> int:
    """Number of uint16 of a position: scale and minimum, then an even number of values."""
    return 2 * ((n_vocab + 1) // 2) + SCALE_SLOTS


def scored_positions(n_ctx: int) -> int:
    """Number of scored positions of a chunk: its second half without the last."""
    return n_ctx - 1 - n_ctx // 2


def encode_rows(logits: np.ndarray) -> np.ndarray:
    """Logits float32 `[n, n_vocab]` -> uint16 `[n, row_slots(n_vocab)]`, as llama.cpp rounds."""
    greatest = logits.max(axis=1, keepdims=True)
    least = np.maximum(
        logits.min(axis=1, keepdims=True), greatest + np.float32(MIN_LOG_PROBABILITY)
    )
    log_sum = np.log(np.exp(logits - greatest).sum(axis=1, dtype=np.float64)).astype(np.float32)
    scale = (greatest - least) / np.float32(LEVELS)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    rows = np.zeros((len(logits), row_slots(logits.shape[1])), np.uint16)
    rows[:, :SCALE_SLOTS] = np.concatenate(
        [scale, least - greatest - log_sum[:, None]], axis=1, dtype="<f4"
    ).view(np.uint16)
    # Halves go to the even number, as in llama.cpp's nearest_int.
    levels = np.rint((logits - least) * inverse).clip(0, LEVELS)
    rows[:, SCALE_SLOTS : SCALE_SLOTS + logits.shape[1]] = levels.astype(np.uint16)
    return rows


def read_logits(path: str | Path) -> SavedLogits:
    """Open a file that `saving_logits` or llama-perplexity has written.

    Raises ReellamaError for a file that is missing, truncated or in another format.
    """
    path = expand_user(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            magic, n_ctx, n_vocab, n_chunks = HEADER.unpack(head.ljust(HEADER.size, b"\0"))
            if magic != MAGIC or min(n_ctx, n_vocab, n_chunks) < 1:
                raise ReellamaError(
                    f"{path} has no saved logits: make it with --save-logits, or llama-perplexity"
                )
            needed = _size(n_ctx, n_vocab, n_chunks)
            if size < needed:
                raise ReellamaError(
                    f"{path} is cut off: it has {size:,} bytes of {needed:,}; make it again"
                )
            tokens = np.fromfile(file, "<i4", n_chunks * n_ctx)
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    return SavedLogits(
        path, n_vocab, tokens.reshape(n_chunks, n_ctx), _rows(path, "r", n_ctx, n_vocab, n_chunks)
    )


@contextmanager
def saving_logits(path: Path, n_vocab: int, chunks: np.ndarray) -> Iterator[SavedLogits]:
    """A context with a new file to `put` logits into. It is written atomically.

    Raises ReellamaError if the disk is too full.
    """
    n_chunks, n_ctx = chunks.shape
    needed, free = _size(n_ctx, n_vocab, n_chunks), shutil.disk_usage(path.absolute().parent).free
    if needed > free:
        raise ReellamaError(
            f"the logits take {show_size(needed)}, and {show_size(free)} are free for {path}: give "
            "another place, or fewer chunks"
        )
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(HEADER.pack(MAGIC, n_ctx, n_vocab, n_chunks))
            file.write(np.ascontiguousarray(chunks, "<i4").tobytes())
            file.truncate(needed)
        rows = _rows(temporary, "r+", n_ctx, n_vocab, n_chunks)
        yield SavedLogits(path, n_vocab, chunks, rows)
        rows.flush()


def _size(n_ctx: int, n_vocab: int, n_chunks: int) -> int:
    of_rows = 2 * scored_positions(n_ctx) * row_slots(n_vocab)
    return HEADER.size + n_chunks * (4 * n_ctx + of_rows)


def _rows(path: Path, mode: str, n_ctx: int, n_vocab: int, n_chunks: int) -> np.memmap:
    shape = (n_chunks, scored_positions(n_ctx), row_slots(n_vocab))
    start = HEADER.size + 4 * n_chunks * n_ctx
    return np.memmap(path, "<u2", mode, start, shape)  # type: ignore[call-overload]  # the mode
