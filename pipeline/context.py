"""A llama.cpp context: how it is made, and how positions are decoded in it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp

from gguf_tools import backend
from gguf_tools.decoding import (
    FLASH_ATTN,
    INTERRUPTIBLE,
    KV_TYPES,
    UNQUANTIZED,
    CtrlC,
    apply_adapters,
    check_memory,
    complaint,
    default_threads,
    pointer,
)
from gguf_tools.errors import ReellamaError

from .parts import Run

# Most positions of one batch whose logits are computed; llama.cpp reserves memory for so many.
MAX_OUTPUTS = 64


@dataclass(frozen=True)
class Piece:
    """A run that goes into a batch with others: its first position, its sequence, and whether the
    logits of its last position are wanted."""

    run: Run
    start: int
    sequence: int
    wants: bool


class Context:
    """Owns a llama_context. Decodes runs of positions; gives access to the logits.

    `n_ctx` positions are shared evenly by `n_seq` sequences, each with a memory of its own.
    Raises ReellamaError for settings that this model, adapter or machine does not take.
    """

    def __init__(
        self,
        model: backend.Model,
        *,
        n_ctx: int,
        n_batch: int,
        n_ubatch: int,
        n_threads: int | None,
        type_k: str,
        type_v: str,
        flash_attn: str,
        n_seq: int = 1,
    ):
        if llama_cpp.llama_model_has_encoder(model.ptr):
            raise ReellamaError(
                f"{model.path} is not a model that continues text: it has an encoder"
            )
        for option, value, least in (
            ("n_ctx", n_ctx, 0),
            ("n_batch", n_batch, 1),
            ("n_ubatch", n_ubatch, 1),
            ("n_threads", n_threads or 1, 1),
        ):
            if value < least:
                raise ReellamaError(f"{option} is {value}, but must be {least} or more")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_seq_max = n_seq
        params.n_batch = n_batch
        params.n_ubatch = min(n_ubatch, n_batch)
        params.n_outputs_max = params.n_outputs_max_per_seq = min(MAX_OUTPUTS, n_batch)
        params.n_threads = params.n_threads_batch = n_threads or default_threads()
        params.type_k = _choice("type_k", type_k, KV_TYPES)
        params.type_v = _choice("type_v", type_v, KV_TYPES)
        params.flash_attn_type = _choice("flash_attn", flash_attn, FLASH_ATTN)
        params.swa_full = True  # keep what lies outside the attention window: turns are rewound
        if type_v not in UNQUANTIZED:
            if flash_attn == "off":
                raise ReellamaError(f"type_v {type_v} needs flash attention: leave flash_attn auto")
            params.flash_attn_type = FLASH_ATTN["on"]
        check_memory(model, n_ctx, type_k, type_v, swa_full=True)
        context = llama_cpp.llama_init_from_model(model.ptr, params)
        if not context:
            raise ReellamaError(
                f"llama.cpp could not make a context of {n_ctx} positions for {model.path} "
                f"(type_k {type_k}, type_v {type_v}, flash_attn {flash_attn}): "
                f"{complaint() or 'try a smaller n_ctx'}"
            )
        self._ctrl_c = CtrlC()
        # The finalizer keeps the model and the callback for as long as the context lives.
        self._pointer = context
        self._free = weakref.finalize(self, _free, context, model, self._ctrl_c)
        self.n_ctx = min(n_ctx or 2**31, llama_cpp.llama_n_ctx(self.ptr))
        self.n_batch = llama_cpp.llama_n_batch(self.ptr)
        self.n_embd = llama_cpp.llama_model_n_embd_inp(model.ptr)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(model.vocab)
        self._pos = np.empty(self.n_batch * 4, np.int32)
        self._wanted = np.zeros(self.n_batch, np.int8)
        self._token = np.zeros(1, np.int32)
        self._yes = np.ones(1, np.int8)
        self._single = llama_cpp.llama_batch(
            n_tokens=1,
            token=pointer(self._token),
            pos=pointer(self._pos),
            logits=pointer(self._yes),
        )
        rope = llama_cpp.llama_model_rope_type(model.ptr)
        self._mrope = rope in (llama_cpp.LLAMA_ROPE_TYPE_MROPE, llama_cpp.LLAMA_ROPE_TYPE_IMROPE)
        self._logits: tuple[int, np.ndarray] = (0, np.empty(0, np.float32))
        self._sequences = np.arange(n_seq, dtype=np.int32)
        self._one_sequence = np.ones(self.n_batch, np.int32)

    @property
    def ptr(self) -> Any:
        """The `llama_context *`. Raises ReellamaError when the context was closed."""
        if not self._free.alive:
            raise ReellamaError("this engine was closed: make another one")
        return self._pointer

    def close(self) -> None:
        """Free the context."""
        self._free()

    def set_adapters(self, model: backend.Model, adapters: Sequence[tuple[Path, float]]) -> None:
        """Apply GGUF LoRA adapters, each with its scale. The model owns and frees them."""
        apply_adapters(self.ptr, model, adapters)

    def decode(self, run: Run, start: int, *, want: str = "none") -> None:
        """Decode a run of at most n_batch positions, the first at position `start`.

        `want` says for which positions logits are computed: "none", "last" or "all".
        Raises KeyboardInterrupt when Ctrl-C came during a long run, ReellamaError when llama.cpp
        fails; after either the memory may hold some of the run.
        """
        n = len(run)
        planes = self._positions(start, n, planes=4 if self._mrope and run.rows is not None else 1)
        self._wanted[:n] = want == "all"
        self._wanted[n - 1] = want != "none"
        batch = llama_cpp.llama_batch(n_tokens=n, pos=planes, logits=pointer(self._wanted))
        if run.rows is None:
            ids = np.array(run.keys, np.int32)
            batch.token = pointer(ids)
        else:
            batch.embd = pointer(run.rows)
        with self._ctrl_c.ends(self.ptr) if n >= INTERRUPTIBLE else nullcontext():
            self._check(llama_cpp.llama_decode(self.ptr, batch), start)

    def decode_token(self, token: int, position: int) -> None:
        """Decode one token and compute its logits: what `decode` does, with less around it."""
        self._token[0] = token
        self._pos[0] = position
        self._check(llama_cpp.llama_decode(self.ptr, self._single), position)

    def decode_many(self, pieces: Sequence[Piece]) -> list[int]:
        """Decode runs of several sequences at once, all of token ids or all of soft tokens.

        Together they have at most n_batch positions. Returns the place of each one's last position
        in the batch, for `logits_at`. Raises ReellamaError when llama.cpp fails.
        """
        lengths = [len(piece.run) for piece in pieces]
        n, soft = sum(lengths), pieces[0].run.rows is not None
        planes = 4 if self._mrope and soft else 1
        at = self._pos[: planes * n].reshape(planes, n)
        at[:3] = np.concatenate([p.start + np.arange(len(p.run)) for p in pieces])
        at[3:] = 0
        ends = np.cumsum(lengths) - 1
        self._wanted[:n] = 0
        self._wanted[ends] = [piece.wants for piece in pieces]
        # Each position has a list of its sequences: a pointer to the one number that it is in.
        owners = np.repeat([piece.sequence for piece in pieces], lengths)
        addresses = (self._sequences.ctypes.data + 4 * owners).astype(np.uintp)
        batch = llama_cpp.llama_batch(
            n_tokens=n,
            pos=pointer(self._pos),
            n_seq_id=pointer(self._one_sequence),
            seq_id=ctypes.cast(
                addresses.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
            ),
            logits=pointer(self._wanted),
        )
        if soft:
            rows = np.concatenate([piece.run.rows for piece in pieces])
            batch.embd = pointer(rows)
        else:
            ids = np.concatenate([np.array(piece.run.keys, np.int32) for piece in pieces])
            batch.token = pointer(ids)
        self._check(llama_cpp.llama_decode(self.ptr, batch), pieces[0].start)
        return ends.tolist()

    def logits_at(self, index: int) -> np.ndarray:
        """The logits of one place in the last batch, [n_vocab]: a view until the next decode."""
        pointer = llama_cpp.llama_get_logits_ith(self.ptr, index)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def _check(self, status: int, start: int) -> None:
        if status and not self._ctrl_c.came:
            reason = complaint() or f"status {status}"
            raise ReellamaError(f"llama.cpp failed at position {start} of the context: {reason}")

    def logits(self) -> np.ndarray:
        """The logits of the last position decoded, [n_vocab]: a view until the next decode."""
        pointer = llama_cpp.llama_get_logits_ith(self.ptr, -1)
        address = ctypes.addressof(pointer.contents)
        if self._logits[0] != address:  # llama.cpp seldom moves its buffer: making a view is slow
            self._logits = address, np.ctypeslib.as_array(pointer, (self.n_vocab,))
        return self._logits[1]

    def all_logits(self, n: int) -> np.ndarray:
        """A copy of the logits of the last run, decoded with want="all": [n, n_vocab]."""
        pointer = llama_cpp.llama_get_logits(self.ptr)
        return np.ctypeslib.as_array(pointer, (n, self.n_vocab)).copy()

    def _positions(self, start: int, n: int, planes: int) -> Any:
        """Soft tokens of an M-RoPE model have a position in time, height, width and a spare one;
        text, and what stands in its place, has the same in the first three and 0 in the last."""
        pos = self._pos[: planes * n].reshape(planes, n)
        pos[:3] = np.arange(start, start + n)
        pos[3:] = 0
        return pointer(self._pos)


def _free(pointer: Any, _model: backend.Model, _ctrl_c: CtrlC) -> None:
    llama_cpp.llama_free(pointer)


def _choice(option: str, name: str, table: dict[str, int]) -> int:
    if name not in table:
        raise ReellamaError(f"{option} cannot be {name!r}: choose one of {', '.join(table)}")
    return table[name]
