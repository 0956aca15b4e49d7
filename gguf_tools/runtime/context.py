"""A llama.cpp context: its settings, decoding, and logits."""

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
from reellama.gguf_tools.runtime.context_options import (
    FLASH_ATTN,
    KV_TYPES,
    UNQUANTIZED_KV_TYPES,
    apply_adapters,
    as_pointer,
    check_memory,
    last_error_line,
)
from reellama.gguf_tools.runtime.free_cores import free_threads, step
from reellama.gguf_tools.runtime.interrupt import MIN_INTERRUPTIBLE_BATCH, DecodeInterrupt


@dataclass(frozen=True)
class ContextSettings:
    """Settings of a context. The defaults are llama.cpp's own."""

    n_batch: int = 2048  # positions in a batch
    n_ubatch: int = 512  # positions in a micro-batch
    # None: the physical cores that this process may use and that other programs leave free, looked
    # at again while it computes.
    n_threads: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"

    def check(self) -> None:
        """Raise ReellamaError for what llama.cpp does not take."""
        for name in ("n_batch", "n_ubatch", "n_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ReellamaError(f"{name} is {value}, but must be 1 or more")
        for name, known in (("type_k", KV_TYPES), ("type_v", KV_TYPES), ("flash_attn", FLASH_ATTN)):
            if getattr(self, name) not in known:
                raise ReellamaError(
                    f"{name} cannot be {getattr(self, name)!r}: choose one of {', '.join(known)}"
                )
        if self.flash_attn == "off" and self.type_v not in UNQUANTIZED_KV_TYPES:
            raise ReellamaError(
                f"type_v {self.type_v} needs flash attention: leave flash_attn at auto"
            )


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


class TokenOfEach:
    """A batch that is filled again and again, with a token of each of up to `n` sequences."""

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

    def batch(self, tokens: Sequence[int], positions: Sequence[int], numbers: Sequence[int]) -> Any:
        """The `llama_batch` of these tokens. It holds until the next one."""
        n = self._batch.n_tokens = len(tokens)
        self._tokens[:n], self._positions[:n], self._sequences[:n] = tokens, positions, numbers
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
        if not (model.continues_text or (may_encode and not _is_pair(model))):
            raise ReellamaError(
                f"{model.path} is not a model that continues text: it writes none, and has no "
                "perplexity"
            )
        n_separate = 1 if unified else n_seq
        check_memory(model, n_separate * n_ctx, settings.type_k, settings.type_v, swa_full=swa_full)
        parameters = _parameters(n_separate * n_ctx, settings, n_seq, n_outputs)
        parameters.kv_unified = unified
        parameters.swa_full = swa_full
        if on_node is not None:
            parameters.cb_eval = on_node
        context = llama.llama_init_from_model(model.ptr, parameters)
        if not context:
            raise ReellamaError(
                f"llama.cpp could not make a context of {n_separate * n_ctx} positions for "
                f"{model.path} (type_k {settings.type_k}, type_v {settings.type_v}, flash_attn "
                f"{settings.flash_attn}): {last_error_line() or 'try fewer positions'}"
            )
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
        self._token, self._position = np.zeros(1, np.int32), np.zeros(1, np.int32)
        self._wanted = np.ones(1, np.int8)
        self._single = llama.llama_batch(
            n_tokens=1,
            token=as_pointer(self._token),
            pos=as_pointer(self._position),
            logits=as_pointer(self._wanted),
        )
        self._each = TokenOfEach(n_seq)
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
        other. Logits are computed for the positions of `inputs` from `first_output`
        on, by default for the last; n asks for none. Raises KeyboardInterrupt when Ctrl-C came
        meanwhile, and ReellamaError when llama.cpp fails; after either the KV cache may hold some
        of the positions.
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
            nullcontext() if causal else self._attending_to_all(),
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
    def _attending_to_all(self) -> Iterator[None]:
        llama.llama_set_causal_attn(self.ptr, False)
        try:
            yield
        finally:
            llama.llama_set_causal_attn(self.ptr, True)

    def decode_token(self, token: int, position: int) -> None:
        """Decode one token id and compute its logits: as `decode`, with less overhead."""
        self._token[0], self._position[0] = token, position
        with self._computing():
            self._check(llama.llama_decode(self.ptr, self._single), position)

    def decode_token_of_each(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> None:
        """Decode one token id of each of these sequences, with logits: with less overhead."""
        batch = self._each.batch(tokens, positions, sequences)
        with self._computing():
            self._check(llama.llama_decode(self.ptr, batch), positions[0])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute with as many threads as the load leaves room for, unless a number was given."""
        with step() as n:
            if self._follows_load and n != self.n_threads:
                llama.llama_set_n_threads(self.ptr, n, n)
            yield

    def _check(self, status: int, start: int) -> None:
        if status and not self._ctrl_c.interrupted:
            raise ReellamaError(
                f"llama.cpp failed at position {start} with {self.model.path}: "
                f"{last_error_line() or f'status {status}'}"
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


def _is_pair(model: backend.Model) -> bool:
    """Whether it is an encoder with a decoder, such as T5, which reads and writes by turns."""
    return bool(llama.llama_model_has_encoder(model.ptr))


def _parameters(n_positions: int, settings: ContextSettings, n_seq: int, n_outputs: int) -> Any:
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = n_positions
    parameters.n_seq_max = n_seq
    parameters.n_batch = settings.n_batch
    parameters.n_ubatch = min(settings.n_ubatch, settings.n_batch)
    parameters.n_outputs_max = parameters.n_outputs_max_per_seq = n_outputs
    n_threads = settings.n_threads or free_threads()
    parameters.n_threads = parameters.n_threads_batch = n_threads
    parameters.type_k = KV_TYPES[settings.type_k]
    parameters.type_v = KV_TYPES[settings.type_v]
    flash_attn = settings.flash_attn if settings.type_v in UNQUANTIZED_KV_TYPES else "on"
    parameters.flash_attn_type = FLASH_ATTN[flash_attn]
    return parameters


def _free(pointer: Any, _model: backend.Model, *_callbacks: object) -> None:
    llama.llama_free(pointer)
