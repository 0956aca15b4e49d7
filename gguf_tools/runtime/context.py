"""A llama.cpp context: decoding, and logits."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context_settings import (
    ContextSettings,
    check_memory,
    context_parameters,
)
from reellama.gguf_tools.runtime.free_cores import short_computation
from reellama.gguf_tools.runtime.interrupt import MIN_INTERRUPTIBLE_BATCH, DecodeInterrupt
from reellama.gguf_tools.runtime.lora import apply_adapters


def as_pointer(array: np.ndarray) -> Any:
    """A ctypes pointer to an array's first number; the array must outlive it."""
    kind = np.ctypeslib.as_ctypes_type(array.dtype)
    return array.ctypes.data_as(ctypes.POINTER(kind))


@dataclass(frozen=True)
class BatchSpan:
    """Consecutive positions of one sequence, a part of a batch."""

    inputs: np.ndarray  # token ids int32 [n], or embeddings float32 [n, n_embd]
    start: int  # position of the first
    sequence: int
    first_output: int  # logits are computed from this one on, counted within the span
    # For embeddings in a model with M-RoPE: how far each lies from `start` in time, down and to
    # the right, int32 [3, n]. None: one position after another, as text.
    offsets: np.ndarray | None = None
    n_sequences: int = 1  # how many sequences have these positions, from `sequence` on


class SingleTokenBatch:
    """A batch of one token of one sequence, whose memory is used again and again."""

    def __init__(self) -> None:
        self._token, self._position = np.zeros(1, np.int32), np.zeros(1, np.int32)
        self._wanted = np.ones(1, np.int8)
        self._batch = llama.llama_batch(
            n_tokens=1,
            token=as_pointer(self._token),
            pos=as_pointer(self._position),
            logits=as_pointer(self._wanted),
        )

    def fill(self, token: int, position: int) -> Any:
        """Return the `llama_batch` of this token. It holds until the next call."""
        self._token[0], self._position[0] = token, position
        return self._batch


class TokenPerSequenceBatch:
    """A batch of one token in each of up to `n` sequences, whose memory is used again and again."""

    def __init__(self, n: int) -> None:
        self._tokens, self._positions = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._sequences, self._ones = np.zeros(n, np.int32), np.ones(n, np.int32)
        self._wanted = np.ones(n, np.int8)
        # Each position has a list of its sequences: here of one.
        self._lists = (self._sequences.ctypes.data + 4 * np.arange(n)).astype(np.uintp)
        lists = ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        self._batch = llama.llama_batch(
            token=as_pointer(self._tokens),
            pos=as_pointer(self._positions),
            n_seq_id=as_pointer(self._ones),
            seq_id=ctypes.cast(self._lists.ctypes.data, lists),
            logits=as_pointer(self._wanted),
        )

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> Any:
        """Return the `llama_batch` of these tokens. It holds until the next call."""
        n = self._batch.n_tokens = len(tokens)
        self._tokens[:n], self._positions[:n], self._sequences[:n] = tokens, positions, sequences
        return self._batch


class Context(Closeable):
    """Owns a llama_context of `n_seq` sequences of `n_ctx` positions each.

    With `unified` they share `n_ctx` positions, of which several may have the same one. `n_ctx` 0
    takes as many as the model was trained with. At most `n_outputs` positions of a batch have
    logits. `swa_full` keeps positions outside the attention window, for a context that is rewound.
    `may_encode` lets a model be an encoder, all of whose positions are outputs and whose batches
    fit a micro-batch. `on_node` is a `ggml_backend_sched_eval_callback`, called around every node
    of the graph. Close it, or use it in a `with` block. Raises ReellamaError for settings that this
    model or machine does not take.
    """

    def __init__(
        self,
        model: backend.Model,
        n_ctx: int,
        settings: ContextSettings = ContextSettings(),
        *,
        n_seq: int = 1,
        n_outputs: int = 1,
        swa_full: bool = False,
        may_encode: bool = False,
        unified: bool = False,
        on_node: Any = None,
    ) -> None:
        if n_ctx < 0:
            raise ReellamaError(f"n_ctx is {n_ctx}, but must be 0 or more")
        settings.check()
        if not (model.continues_text or (may_encode and not _is_encoder_decoder(model))):
            raise ReellamaError(
                f"{model.path} is not a model that continues text: it writes none, and has no "
                "perplexity"
            )
        n_separate = 1 if unified else n_seq
        check_memory(model, n_separate * n_ctx, settings.type_k, settings.type_v, swa_full=swa_full)
        parameters = context_parameters(n_separate * n_ctx, settings, n_seq, n_outputs)
        parameters.kv_unified = unified
        parameters.swa_full = swa_full
        if on_node is not None:
            parameters.cb_eval = on_node
        context = _init_context(model, parameters, settings)
        self.model = model
        self._ctrl_c = DecodeInterrupt()
        self._pointer = context
        # The finalizer keeps the model and the callbacks for as long as the context lives.
        self._free = weakref.finalize(self, _free, context, model, self._ctrl_c, on_node)
        # llama.cpp rounds up; use no more than was asked for.
        self.n_ctx = min(n_ctx or 2**31, int(llama.llama_n_ctx(context)) // n_separate)
        self.n_batch = int(llama.llama_n_batch(context))
        self.n_ubatch = int(llama.llama_n_ubatch(context))
        self.n_outputs = n_outputs
        self.n_embd = int(llama.llama_model_n_embd_inp(model.ptr))
        self.n_vocab = int(llama.llama_vocab_n_tokens(model.vocab))
        rope = llama.llama_model_rope_type(model.ptr)
        self.has_mrope = rope in (llama.LLAMA_ROPE_TYPE_MROPE, llama.LLAMA_ROPE_TYPE_IMROPE)
        self._single_token = SingleTokenBatch()
        self._token_per_sequence = TokenPerSequenceBatch(n_seq)
        self._rows: dict[int, np.ndarray] = {}  # of logits, by their addresses
        self._follows_load = settings.n_threads is None

    @property
    def ptr(self) -> Any:
        """The `llama_context *`. Raises ReellamaError when the context was closed."""
        if not self._free.alive:
            raise ReellamaError(f"the context of {self.model.path} was closed: make another one")
        return self._pointer

    @property
    def n_threads(self) -> int:
        """How many threads compute at present."""
        return int(llama.llama_n_threads(self.ptr))

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """Compute with one thread in the block, whatever the load: beside work of this process that
        takes the other cores, several threads would spin while they wait for each other."""
        n_threads, follows_load = self.n_threads, self._follows_load
        self._follows_load = False
        llama.llama_set_n_threads(self.ptr, 1, 1)
        try:
            yield
        finally:
            self._follows_load = follows_load
            llama.llama_set_n_threads(self.ptr, n_threads, n_threads)

    def set_adapters(self, adapters: Sequence[tuple[Path, float]]) -> None:
        """Apply GGUF LoRA adapters, each with its scale. The model owns and frees them."""
        apply_adapters(self.ptr, self.model, adapters)

    def clear(self) -> None:
        """Forget all positions."""
        llama.llama_memory_clear(llama.llama_get_memory(self.ptr), False)

    def state(self) -> np.ndarray:
        """What the memory holds of sequence 0, as `load_state` takes it: uint8 `[bytes]`."""
        found = np.empty(llama.llama_state_seq_get_size(self.ptr, 0), np.uint8)
        n = llama.llama_state_seq_get_data(self.ptr, as_pointer(found), len(found), 0)
        return found[:n]

    def load_state(self, state: np.ndarray) -> bool:
        """Put `state` of another context of the same model and settings into sequence 0.

        Returns whether it could: after a failure the memory may hold some of it.
        """
        return bool(llama.llama_state_seq_set_data(self.ptr, as_pointer(state), len(state), 0))

    def decode(
        self,
        inputs: np.ndarray,
        start: int,
        *,
        first_output: int | None = None,
        offsets: np.ndarray | None = None,
        causal: bool = True,
    ) -> None:
        """Decode token ids int32 `[n]` or embeddings float32 `[n, n_embd]` from position `start`.

        n is at most n_batch; `offsets` is as in BatchSpan, and without `causal` all inputs see each
        other. Logits are computed for the positions of `inputs` from `first_output` on, by default
        for the last; n asks for none. Raises KeyboardInterrupt when Ctrl-C came meanwhile, and
        ReellamaError when llama.cpp fails; after either the KV cache may hold some of the
        positions.
        """
        n = len(inputs)
        first_output = n - 1 if first_output is None else first_output
        self.decode_batch([BatchSpan(inputs, start, 0, first_output, offsets)], causal=causal)

    def decode_batch(self, spans: Sequence[BatchSpan], *, causal: bool = True) -> None:
        """Decode spans of several sequences at once, all of token ids or all of embeddings.

        Together they have at most n_batch positions, or n_ubatch without `causal`: then all inputs
        of a sequence see each other. Raises as `decode` does.
        """
        lengths = [len(span.inputs) for span in spans]
        n, soft = sum(lengths), spans[0].inputs.ndim == 2
        # A single span, the usual and longest case, is not copied.
        inputs = spans[0].inputs if len(spans) == 1 else np.concatenate([s.inputs for s in spans])
        inputs = np.ascontiguousarray(inputs, np.float32 if soft else np.int32)
        # Embeddings have a position in each of four directions where the model uses M-RoPE: text,
        # and what stands in its place, the same in the first three and 0 in the last.
        directions = 4 if self.has_mrope and soft else 1
        positions = np.zeros((directions, n), np.int32)
        positions[:3] = np.concatenate([self._positions(s)[:directions] for s in spans], axis=1)
        if not causal and n > self.n_ubatch:
            raise ReellamaError(
                f"{n} soft tokens that see each other do not fit into a micro-batch of "
                f"{self.n_ubatch}: set n_ubatch and n_batch to {n} or more"
            )
        outputs = np.concatenate([np.arange(len(s.inputs)) >= s.first_output for s in spans])
        outputs = outputs.astype(np.int8)
        # Each position has a list of its sequences: a pointer to the first of them among all.
        numbers = np.array(
            [i for s in spans for i in range(s.sequence, s.sequence + s.n_sequences)]
        )
        numbers = numbers.astype(np.int32)
        n_sequences = np.repeat([s.n_sequences for s in spans], lengths).astype(np.int32)
        firsts = np.cumsum([0, *(s.n_sequences for s in spans[:-1])])
        lists = (numbers.ctypes.data + 4 * np.repeat(firsts, lengths)).astype(np.uintp)
        batch = llama.llama_batch(
            n_tokens=n,
            pos=as_pointer(positions),
            n_seq_id=as_pointer(n_sequences),
            seq_id=ctypes.cast(lists.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=as_pointer(outputs),
        )
        setattr(batch, "embd" if soft else "token", as_pointer(inputs))
        watched = self._ctrl_c.watch_decode(self.ptr)
        with (
            watched if n >= MIN_INTERRUPTIBLE_BATCH else nullcontext(),
            nullcontext() if causal else self._non_causal_attention(),
            self._computing(),
        ):
            self._check(llama.llama_decode(self.ptr, batch), spans[0].start)

    def _positions(self, span: BatchSpan) -> np.ndarray:
        """The positions of a span: `[3, n]` in a model with M-RoPE, else the same three times."""
        if span.offsets is None:
            return np.tile(span.start + np.arange(len(span.inputs)), (3, 1))
        if not self.has_mrope:
            raise ReellamaError(
                f"{self.model.path} has no M-RoPE: it takes soft tokens one after another, without "
                "positions in a picture"
            )
        return span.start + span.offsets

    @contextmanager
    def _non_causal_attention(self) -> Iterator[None]:
        llama.llama_set_causal_attn(self.ptr, False)
        try:
            yield
        finally:
            llama.llama_set_causal_attn(self.ptr, True)

    def decode_token(self, token: int, position: int) -> None:
        """Decode one token id and compute its logits: as `decode`, with less overhead."""
        batch = self._single_token.fill(token, position)
        with self._computing():
            self._check(llama.llama_decode(self.ptr, batch), position)

    def decode_one_token_per_sequence(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> None:
        """Decode one token id of each of these sequences, with logits: with less overhead."""
        batch = self._token_per_sequence.fill(tokens, positions, sequences)
        with self._computing():
            self._check(llama.llama_decode(self.ptr, batch), positions[0])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute with as many threads as the load leaves room for, unless a number was given."""
        with short_computation() as n:
            if self._follows_load and n != self.n_threads:
                llama.llama_set_n_threads(self.ptr, n, n)
            yield

    def _check(self, status: int, start: int) -> None:
        if status and not self._ctrl_c.interrupted:
            raise ReellamaError(
                f"llama.cpp failed at position {start} with {self.model.path}: "
                f"{backend.last_error_line() or f'status {status}'}"
            )

    def synchronize(self) -> None:
        """Wait until all decoded positions are computed."""
        llama.llama_synchronize(self.ptr)

    def logits(self, n: int) -> np.ndarray:
        """The `n` rows of logits of the last batch: float32 `[n, n_vocab]`.

        A view of llama.cpp's buffer, which holds until the next `decode`.
        """
        return np.ctypeslib.as_array(llama.llama_get_logits(self.ptr), (n, self.n_vocab))

    def logits_at(self, index: int) -> np.ndarray:
        """The logits of one position of the last batch, -1 for its last one: float32 `[n_vocab]`.

        A view as with `logits`.
        """
        row = llama.llama_get_logits_ith(self.ptr, index)
        address = ctypes.addressof(row.contents)
        if (found := self._rows.get(address)) is None:  # seldom, and making a view is slow
            if len(self._rows) >= self.n_outputs:
                self._rows.clear()
            found = self._rows[address] = np.ctypeslib.as_array(row, (self.n_vocab,))
        return found

    def close(self) -> None:
        """Free the context."""
        self._free()


def _init_context(model: backend.Model, parameters: Any, settings: ContextSettings) -> Any:
    """Return a new `llama_context *`. Raises ReellamaError where llama.cpp refuses."""
    context = llama.llama_init_from_model(model.ptr, parameters)
    if not context:
        raise ReellamaError(
            f"llama.cpp could not make a context of {parameters.n_ctx} positions for "
            f"{model.path} (type_k {settings.type_k}, type_v {settings.type_v}, flash_attn "
            f"{settings.flash_attn}): {backend.last_error_line() or 'try fewer positions'}"
        )
    return context


def _is_encoder_decoder(model: backend.Model) -> bool:
    """Whether a model is an encoder with a decoder, such as T5."""
    return bool(llama.llama_model_has_encoder(model.ptr))


def _free(pointer: Any, _model: backend.Model, *_callbacks: object) -> None:
    llama.llama_free(pointer)
