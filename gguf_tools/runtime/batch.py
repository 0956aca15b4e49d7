"""Batches for `llama_decode`: arrays, and a `llama_batch` that points into them.

batch = SpanBatch([BatchSpan(tokens, start=0, sequence=0, first_output=0)], has_mrope=False)
llama_cpp.llama_decode(context, batch.llama_batch)
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np


def as_pointer(array: np.ndarray) -> Any:
    """A ctypes pointer to an array's first number; the array must outlive it."""
    c_type = np.ctypeslib.as_ctypes_type(array.dtype)
    return array.ctypes.data_as(ctypes.POINTER(c_type))


@dataclass(frozen=True)
class BatchSpan:
    """Consecutive positions of one sequence, a part of a batch."""

    inputs: np.ndarray  # token ids int32 [n], or embeddings float32 [n, n_embd]
    start: int  # position of the first input
    sequence: int
    first_output: int  # index within the span from which logits are computed
    # For embeddings in a model with M-RoPE, int32 [3, n]: offsets from `start` in time, height and
    # width. None means consecutive positions, as of text.
    offsets: np.ndarray | None = None
    n_sequences: int = 1  # the inputs belong to this many sequences, from `sequence` on


class SingleTokenBatch:
    """A reusable batch of one token of one sequence."""

    def __init__(self) -> None:
        self._token, self._position = np.zeros(1, np.int32), np.zeros(1, np.int32)
        self._outputs = np.ones(1, np.int8)
        self._batch = llama.llama_batch(
            n_tokens=1,
            token=as_pointer(self._token),
            pos=as_pointer(self._position),
            logits=as_pointer(self._outputs),
        )

    def fill(self, token: int, position: int) -> Any:
        """The `llama_batch` of this token, valid until the next call."""
        self._token[0], self._position[0] = token, position
        return self._batch


class TokenPerSequenceBatch:
    """A reusable batch of one token in each of up to `n` sequences."""

    def __init__(self, n: int) -> None:
        self._tokens, self._positions = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._sequences, self._ones = np.zeros(n, np.int32), np.ones(n, np.int32)
        self._outputs = np.ones(n, np.int8)
        # llama.cpp takes a list of sequences for each position: here of one.
        self._lists = (self._sequences.ctypes.data + 4 * np.arange(n)).astype(np.uintp)
        lists = ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        self._batch = llama.llama_batch(
            token=as_pointer(self._tokens),
            pos=as_pointer(self._positions),
            n_seq_id=as_pointer(self._ones),
            seq_id=ctypes.cast(self._lists.ctypes.data, lists),
            logits=as_pointer(self._outputs),
        )

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> Any:
        """The `llama_batch` of these tokens, valid until the next call."""
        n = self._batch.n_tokens = len(tokens)
        self._tokens[:n], self._positions[:n], self._sequences[:n] = tokens, positions, sequences
        return self._batch


class SpanBatch:
    """A batch of spans of several sequences, all of token ids or all of embeddings.

    llama_batch: points into arrays of this object, which must outlive its decoding.
    """

    def __init__(self, spans: Sequence[BatchSpan], *, has_mrope: bool) -> None:
        lengths = [len(span.inputs) for span in spans]
        self.n_tokens = sum(lengths)
        is_embeddings = spans[0].inputs.ndim == 2
        inputs = _joined([span.inputs for span in spans])
        self._inputs = np.ascontiguousarray(inputs, np.float32 if is_embeddings else np.int32)
        # With M-RoPE an embedding has positions in time, height and width, and a fourth that is 0.
        n_axes = 4 if has_mrope and is_embeddings else 1
        self._positions = np.zeros((n_axes, self.n_tokens), np.int32)
        self._positions[:3] = _joined([_positions(span)[:n_axes] for span in spans], axis=1)
        outputs = _joined([np.arange(len(s.inputs)) >= s.first_output for s in spans])
        self._outputs = outputs.astype(np.int8)
        # llama.cpp takes a list of sequences for each position: a pointer into `_sequences`, where
        # all positions of a span share a list.
        counts = np.array([span.n_sequences for span in spans])
        sequences = _joined([s.sequence + np.arange(s.n_sequences) for s in spans])
        self._sequences = sequences.astype(np.int32)
        self._n_sequences = np.repeat(counts, lengths).astype(np.int32)
        firsts = np.repeat(np.cumsum(counts) - counts, lengths)
        self._lists = (self._sequences.ctypes.data + 4 * firsts).astype(np.uintp)
        lists = ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        self.llama_batch = llama.llama_batch(
            n_tokens=self.n_tokens,
            pos=as_pointer(self._positions),
            n_seq_id=as_pointer(self._n_sequences),
            seq_id=ctypes.cast(self._lists.ctypes.data, lists),
            logits=as_pointer(self._outputs),
        )
        setattr(self.llama_batch, "embd" if is_embeddings else "token", as_pointer(self._inputs))


def _joined(parts: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
    """The parts as one array. A single part, the usual and longest case, is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _positions(span: BatchSpan) -> np.ndarray:
    """A span's positions in time, height and width, int32 `[3, n]`; all equal for text."""
    if span.offsets is None:
        return np.tile(span.start + np.arange(len(span.inputs)), (3, 1))
    return span.start + span.offsets
