"""Text embeddings: unit vectors of the mean of an LLM's last hidden states."""

from __future__ import annotations

import math
import threading
import weakref
from contextlib import nullcontext

import numpy as np
from llama_cpp import llama_cpp

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.backend import Model, last_error_line
from reellama.gguf_tools.runtime.batch import as_pointer
from reellama.gguf_tools.runtime.free_cores import long_computation, short_computation
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.prompt import checked_token_ids

MAX_TOKEN_CHARACTERS = 256  # no vocabulary has longer tokens
# Positions decoded at a time. llama.cpp also keeps the logits of each: those of 2,048 positions
# take half a gigabyte.
CHUNK = 256


class TextEmbedder:
    """Embeds texts of up to `n_ctx` tokens with a loaded model, in a context of its own.

    Raises ReellamaError if the model cannot make embeddings.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, n_ctx: int = 2048) -> None:
        params = llama_cpp.llama_context_default_params()
        # The mask of an encoder is not causal, so a text is decoded as a whole.
        self._n_batch = n_ctx if _is_encoder(model) else min(n_ctx, CHUNK)
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, self._n_batch, self._n_batch
        params.embeddings = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        context = llama_cpp.llama_init_from_model(model.ptr, params)
        if not context:
            raise ReellamaError(f"{model.path} makes no embeddings: {last_error_line()}")
        self._context, self._tokenizer, self.n_ctx = context, tokenizer, n_ctx
        self._n_embd = int(llama_cpp.llama_model_n_embd(model.ptr))
        self._lock = threading.Lock()
        self._closed = False
        self._free = weakref.finalize(self, _free, context, model)

    def embed(self, text: str | list[int], *, truncate: bool = True) -> tuple[list[float], int]:
        """The unit vector of a text or of token ids, and how many tokens were read. Thread-safe.

        Raises ReellamaError for ids outside of the vocabulary, and for a text that is too long,
        unless `truncate`.
        """
        with self._lock:
            ids = self._ids(text, truncate)
            # A short text does not count as a long computation, which waits for other ones.
            with long_computation() if len(ids) > self._n_batch else nullcontext():
                return self._vector(ids).tolist(), len(ids)

    def close(self) -> None:
        """Free the context. A text that is being embedded ends with an error."""
        self._closed = True
        with self._lock:
            self._free()

    def _ids(self, text: str | list[int], truncate: bool) -> list[int]:
        if isinstance(text, str):
            # More characters than these make more than `n_ctx` tokens in any case.
            text = text[: (self.n_ctx + 1) * MAX_TOKEN_CHARACTERS]
            ids = self._tokenizer.encode(text, add_bos=self._tokenizer.add_bos)
        else:
            ids = [*checked_token_ids(text, self._tokenizer.n_vocab).ids]
        if len(ids) > self.n_ctx and not truncate:
            raise ReellamaError(f"a text has more than {self.n_ctx} tokens: send less of it")
        # An empty text has the vector of a line break.
        return ids[: self.n_ctx] or self._tokenizer.encode("\n")

    def _vector(self, ids: list[int]) -> np.ndarray:
        self._raise_if_closed()
        memory = llama_cpp.llama_get_memory(self._context)
        if memory:
            llama_cpp.llama_memory_clear(memory, False)
        vector = np.zeros(self._n_embd)
        for begin in range(0, len(ids), self._n_batch):
            self._raise_if_closed()
            tokens = np.array(ids[begin : begin + self._n_batch], np.int32)
            batch = llama_cpp.llama_batch_get_one(as_pointer(tokens), len(tokens))
            with short_computation() as n:
                llama_cpp.llama_set_n_threads(self._context, n, n)
                status = llama_cpp.llama_decode(self._context, batch)
            hidden_states = llama_cpp.llama_get_embeddings(self._context)
            if status or not hidden_states:
                raise ReellamaError(f"llama.cpp made no embedding: {last_error_line() or status}")
            rows = np.ctypeslib.as_array(hidden_states, (len(tokens), self._n_embd))
            vector += rows.sum(axis=0, dtype=np.float64)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ReellamaError("the model was unloaded before the text was embedded")


def shortened(vector: list[float], n: int) -> list[float]:
    """The first `n` dimensions, normalized to length 1."""
    cut = vector[:n]
    length = math.hypot(*cut) or 1.0
    return [x / length for x in cut]


def _is_encoder(model: Model) -> bool:
    """Whether the model's attention is not causal."""
    metadata = model.file.metadata
    architecture = metadata.get("general.architecture")
    pooled = f"{architecture}.pooling_type" in metadata
    return pooled or metadata.get(f"{architecture}.attention.causal") is False


def _free(context: object, _model: Model) -> None:
    llama_cpp.llama_free(context)
