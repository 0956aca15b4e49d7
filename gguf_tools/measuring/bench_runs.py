"""The batches that a test of `bench` decodes.

As in llama-batched-bench, the prompts of all sequences follow each other and are cut into full
batches. Tokens are generated one of each sequence at a time.
https://github.com/ggml-org/llama.cpp/tree/master/tools/batched-bench
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.measuring.bench_tests import BenchTest
from reellama.gguf_tools.runtime.batch import BatchSpan
from reellama.gguf_tools.runtime.context import Context

Run = Callable[[BenchTest, int], None]  # (test, first position)

SOFT_TOKEN_SCALE = 0.02  # standard deviation of random embeddings, about that of real ones


def make_run(context: Context, test: BenchTest) -> Run:
    """Return a function that runs `test`, or a shorter one of its kind, in all sequences at once.

    The random inputs are made here, so that a run only decodes.
    """
    if test.kind == "tg":
        write = _one_by_one(context, test.n, test.n_parallel)
        return lambda test, start: write(test.n, start)
    rows = _embeddings(context, test.n) if test.kind == "sp" else _tokens(context, test.n)
    read = _in_batches(context, rows, test.n_parallel)
    if test.kind != "pg":
        return lambda test, start: read(test.n, start)
    answer = _one_by_one(context, test.n_gen, test.n_parallel)

    def read_and_write(test: BenchTest, start: int) -> None:
        read(test.n, start)
        answer(test.n_gen, start + test.n)

    return read_and_write


def make_fill(context: Context, test: BenchTest) -> Callable[[], None]:
    """Return a function that fills every sequence with `test.depth` random tokens."""
    if not test.depth:
        return lambda: None
    read = _in_batches(context, _tokens(context, test.depth), test.n_parallel)
    return lambda: read(test.depth, 0)


def _one_by_one(context: Context, n: int, n_parallel: int) -> Callable[[int, int], None]:
    """A function that decodes up to n tokens, each after the one before is computed."""
    tokens = _tokens(context, n)
    numbers = tokens.tolist()

    def run(n: int, start: int) -> None:
        for i in range(n):
            if n_parallel == 1:
                context.decode_token(numbers[i], start + i)
            else:
                token = tokens[i : i + 1]
                context.decode_batch([BatchSpan(token, start + i, s, 0) for s in range(n_parallel)])
            context.synchronize()

    return run


def _in_batches(context: Context, rows: np.ndarray, n_parallel: int) -> Callable[[int, int], None]:
    """A function that reads up to all rows into each sequence, with logits for the last row."""

    def run(n: int, start: int) -> None:
        for spans in _batches(rows[:n], start, n_parallel, context.n_batch):
            context.decode_batch(spans)
        context.synchronize()

    return run


def _batches(
    rows: np.ndarray, start: int, n_parallel: int, n_batch: int
) -> Iterator[list[BatchSpan]]:
    """The rows for all sequences, one sequence after another, in batches of n_batch positions."""
    n = len(rows)
    for first in range(0, n * n_parallel, n_batch):
        spans = []
        i, end = first, min(first + n_batch, n * n_parallel)
        while i < end:
            sequence, at = divmod(i, n)
            part = rows[at : at + end - i]
            last = len(part) - (at + len(part) == n)  # logits of a sequence's last position alone
            spans.append(BatchSpan(part, start + at, sequence, last))
            i += len(part)
        yield spans


def _embeddings(context: Context, n: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((n, context.n_embd), np.float32)
    return rows * np.float32(SOFT_TOKEN_SCALE)


def _tokens(context: Context, n: int) -> np.ndarray:
    """Random tokens int32 `[n]`, the first BOS where the model is used with one."""
    tokens = np.random.default_rng(0).integers(0, context.n_vocab, n, np.int32)
    vocab = context.model.vocab
    if llama.llama_vocab_get_add_bos(vocab):
        tokens[0] = llama.llama_vocab_bos(vocab)
    return tokens
