"""A llama.cpp context: decoding, and logits."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.closeable import Closeable
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.batch import (
    BatchSpan,
    SingleTokenBatch,
    SpanBatch,
    TokenPerSequenceBatch,
    as_pointer,
)
from reellama.gguf_tools.runtime.context_settings import (
    ContextSettings,
    check_memory,
    context_parameters,
)
from reellama.gguf_tools.runtime.free_cores import short_computation
from reellama.gguf_tools.runtime.interrupt import MIN_INTERRUPTIBLE_BATCH, DecodeInterrupt
from reellama.gguf_tools.runtime.lora import apply_adapters


class Context(Closeable):
    """A llama_context: KV cache, decoding, and logits. Close it, or use it in a `with` block.

    Args:
        n_ctx: positions of each sequence; 0 means as many as the model was trained with.
        n_seq: the number of sequences.
        n_outputs: the most positions of a batch that have logits.
        swa_full: keep positions outside the attention window, for a context that is rewound.
        may_encode: accept encoders, all of whose positions are outputs, and whose batches must fit
            a micro-batch.
        unified: all sequences share `n_ctx` cells of the KV cache, and may share positions.
        on_node: a `ggml_backend_sched_eval_callback`, called around every node of the graph.

    Raises ReellamaError for settings that the model or the machine does not support.
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
        self._rows: dict[int, np.ndarray] = {}  # views of rows of logits, by address
        self._follows_load = settings.n_threads is None

    @property
    def ptr(self) -> Any:
        """The `llama_context *`. Raises ReellamaError if the context was closed."""
        if not self._free.alive:
            raise ReellamaError(f"the context of {self.model.path} was closed: make another one")
        return self._pointer

    @property
    def n_threads(self) -> int:
        """The current number of threads."""
        return int(llama.llama_n_threads(self.ptr))

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """Compute with one thread in the block, whatever the load.

        If this process uses the other cores, several threads would spin waiting for each other.
        """
        n_threads, follows_load = self.n_threads, self._follows_load
        self._follows_load = False
        llama.llama_set_n_threads(self.ptr, 1, 1)
        try:
            yield
        finally:
            self._follows_load = follows_load
            llama.llama_set_n_threads(self.ptr, n_threads, n_threads)

    def set_adapters(self, adapters: Sequence[tuple[Path, float]]) -> None:
        """Apply GGUF LoRA adapters, given as paths with scales. The model owns and frees them."""
        apply_adapters(self.ptr, self.model, adapters)

    def clear(self) -> None:
        """Remove all positions from the KV cache."""
        llama.llama_memory_clear(llama.llama_get_memory(self.ptr), False)

    def state(self) -> np.ndarray:
        """The KV cache of sequence 0 for `load_state`, uint8 `[n_bytes]`."""
        state = np.empty(llama.llama_state_seq_get_size(self.ptr, 0), np.uint8)
        n = llama.llama_state_seq_get_data(self.ptr, as_pointer(state), len(state), 0)
        return state[:n]

    def load_state(self, state: np.ndarray) -> bool:
        """Load the `state` of a context of the same model and settings into sequence 0.

        Returns whether that succeeded; after a failure the KV cache may hold a part of the state.
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
        """Decode token ids or embeddings of sequence 0.

        Args:
            inputs: token ids int32 `[n]`, or embeddings float32 `[n, n_embd]`; n is at most
                n_batch.
            start: position of the first input.
            first_output: index in `inputs` from which logits are computed, by default the last; n
                means no logits.
            offsets: as in BatchSpan.
            causal: False lets all inputs attend to each other.

        Raises KeyboardInterrupt after Ctrl-C, and ReellamaError if llama.cpp fails. After either
        the KV cache may hold some of the positions.
        """
        n = len(inputs)
        first_output = n - 1 if first_output is None else first_output
        self.decode_batch([BatchSpan(inputs, start, 0, first_output, offsets)], causal=causal)

    def decode_batch(self, spans: Sequence[BatchSpan], *, causal: bool = True) -> None:
        """Decode spans of several sequences at once, all of token ids or all of embeddings.

        The spans have at most n_batch positions in all, or n_ubatch without `causal`, with which
        all inputs of a sequence attend to each other. Raises as `decode` does.
        """
        batch = SpanBatch(spans, has_mrope=self.has_mrope)
        if not causal and batch.n_tokens > self.n_ubatch:
            raise ReellamaError(
                f"{batch.n_tokens} soft tokens that see each other do not fit into a micro-batch "
                f"of {self.n_ubatch}: set n_ubatch and n_batch to {batch.n_tokens} or more"
            )
        if not self.has_mrope and any(span.offsets is not None for span in spans):
            raise ReellamaError(
                f"{self.model.path} has no M-RoPE: it takes soft tokens one after another, without "
                "positions in a picture"
            )
        interruptible = batch.n_tokens >= MIN_INTERRUPTIBLE_BATCH
        with (
            self._ctrl_c.watch_decode(self.ptr) if interruptible else nullcontext(),
            nullcontext() if causal else self._non_causal_attention(),
            self._computing(),
        ):
            self._check(llama.llama_decode(self.ptr, batch.llama_batch), spans[0].start)

    @contextmanager
    def _non_causal_attention(self) -> Iterator[None]:
        llama.llama_set_causal_attn(self.ptr, False)
        try:
            yield
        finally:
            llama.llama_set_causal_attn(self.ptr, True)

    def decode_token(self, token: int, position: int) -> None:
        """Decode one token id with logits, as `decode` but with less overhead."""
        batch = self._single_token.fill(token, position)
        with self._computing():
            self._check(llama.llama_decode(self.ptr, batch), position)

    def decode_one_token_per_sequence(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> None:
        """Decode one token id of each sequence with logits, as `decode_batch` but with less
        overhead."""
        batch = self._token_per_sequence.fill(tokens, positions, sequences)
        with self._computing():
            self._check(llama.llama_decode(self.ptr, batch), positions[0])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Adapt the number of threads to the load, unless the settings fix it."""
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
        """The `n` rows of logits of the last batch, float32 `[n, n_vocab]`.

        The array is a view of llama.cpp's buffer, valid until the next `decode`.
        """
        return np.ctypeslib.as_array(llama.llama_get_logits(self.ptr), (n, self.n_vocab))

    def logits_at(self, index: int) -> np.ndarray:
        """The logits at an index of the last batch, -1 for its last: float32 `[n_vocab]`.

        The array is a view, as with `logits`.
        """
        pointer = llama.llama_get_logits_ith(self.ptr, index)
        address = ctypes.addressof(pointer.contents)
        if (row := self._rows.get(address)) is None:  # views are cached, as making one is slow
            if len(self._rows) >= self.n_outputs:
                self._rows.clear()
            row = self._rows[address] = np.ctypeslib.as_array(pointer, (self.n_vocab,))
        return row

    def close(self) -> None:
        """Free the context."""
        self._free()


def _init_context(model: backend.Model, parameters: Any, settings: ContextSettings) -> Any:
    """A new `llama_context *`. Raises ReellamaError if llama.cpp refuses to make one."""
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
