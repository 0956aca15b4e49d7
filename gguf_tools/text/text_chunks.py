"""Decode chunks of a text side by side, as llama-perplexity and llama-imatrix do.

The rounding of kernels depends on the shapes of a batch and on the processor. So results equal
those of llama.cpp's tools only with the same shapes: as many chunks side by side as fit a batch,
and as many positions of each as fit a micro-batch.
https://github.com/ggml-org/llama.cpp/tree/master/tools/perplexity
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.backend import Model
from reellama.gguf_tools.runtime.batch import BatchSpan
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.user_paths import expand_user

N_CTX = 512  # tokens of a chunk: the default of the tools, and of most published results


class Block(NamedTuple):
    """A block of tokens that is decoded at once: the same positions of several chunks."""

    chunks: slice
    positions: slice
    n_chunks_done: float  # after this block, including fractions of chunks


def read_text(path: str | Path) -> bytes:
    """Read a text file as `-f` of llama.cpp's tools does, without one newline at the end.

    Raises ReellamaError if the file cannot be read.
    """
    try:
        return expand_user(path).read_bytes().removesuffix(b"\n")
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error


def tokenize(model: Model, text: bytes) -> np.ndarray:
    """The token ids of a text as in llama.cpp's tools, int32 `[n]`.

    BOS comes first if the model adds it. Names of special tokens are plain text.
    """
    size = len(text) + 8
    while True:
        tokens = (llama.llama_token * size)()
        count = llama.llama_tokenize(model.vocab, text, len(text), tokens, size, True, False)
        if count >= 0:
            return np.array(tokens[:count], np.int32)
        size = -count


def split(model: Model, content: bytes, n_ctx: int, text: Path) -> np.ndarray:
    """Tokenize a text and split it into chunks, int32 `[n_chunks, n_ctx]`.

    An incomplete chunk at the end is dropped. Raises ReellamaError, which names the file `text`,
    for a text of less than one chunk.
    """
    tokens = tokenize(model, content)
    if len(tokens) < n_ctx:
        raise ReellamaError(
            f"{text} has {len(tokens):,} tokens for {model.path}, too few for one chunk of "
            f"{n_ctx:,}; take a longer text or a smaller --ctx"
        )
    return tokens[: len(tokens) // n_ctx * n_ctx].reshape(-1, n_ctx)


def with_bos(model: Model, chunks: np.ndarray) -> np.ndarray:
    """A copy of the chunks whose first tokens are replaced by BOS, if the model adds BOS."""
    chunks = chunks.copy()
    if llama.llama_vocab_get_add_bos(model.vocab):
        chunks[:, 0] = llama.llama_vocab_bos(model.vocab)
    return chunks


def n_side_by_side(n_chunks: int, n_ctx: int, n_batch: int = ContextSettings.n_batch) -> int:
    """The number of chunks of `n_ctx` tokens that are read side by side.

    >>> n_side_by_side(100, 512), n_side_by_side(3, 512), n_side_by_side(100, 4096)
    (4, 3, 1)
    """
    return max(1, min(n_chunks, n_batch // n_ctx))


def blocks(n_chunks: int, n_ctx: int, settings: ContextSettings) -> Iterator[Block]:
    """Yield the blocks in order: for each group of chunks, consecutive ranges of positions.

    Blocks are the micro-batches into which llama.cpp would split a batch of whole chunks, so that
    the logits of only one micro-batch are kept.
    """
    side_by_side = n_side_by_side(n_chunks, n_ctx, settings.n_batch)
    for first in range(0, n_chunks, side_by_side):
        size = min(side_by_side, n_chunks - first)
        step = max(1, min(settings.n_ubatch, settings.n_batch) // size)
        for start in range(0, n_ctx, step):
            end = min(start + step, n_ctx)
            done = first + size * end / n_ctx
            yield Block(slice(first, first + size), slice(start, end), done)


def read_side_by_side(
    contexts: Sequence[Context],
    chunks: np.ndarray,
    settings: ContextSettings,
    first_output: int,
    after_decode: Callable[[], None] = lambda: None,
) -> Iterator[Block]:
    """Let each context decode the chunks, and yield each block after it is decoded.

    After each block a context has the logits of the block's positions from `first_output` on, chunk
    after chunk.

    Args:
        contexts: contexts with `n_side_by_side` sequences.
        chunks: int32 `[n_chunks, n_ctx]`.
        first_output: position in a chunk from which logits are computed.
        after_decode: called after each decoding of each context.
    """
    inputs = with_bos(contexts[0].model, chunks)
    for block in blocks(len(chunks), chunks.shape[1], settings):
        start = block.positions.start
        for context in contexts:
            if start == 0:
                context.clear()
            context.decode_batch(
                [
                    BatchSpan(tokens, start, sequence, first_output - start)
                    for sequence, tokens in enumerate(inputs[block.chunks, block.positions])
                ]
            )
            after_decode()
        yield block
