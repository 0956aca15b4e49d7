"""Texts as unit vectors: the mean of an LLM's last hidden states, in a context of its own."""

from __future__ import annotations

import math
import threading
import weakref
from contextlib import nullcontext

import numpy as np
from llama_cpp import llama_cpp

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.backend import Model, last_error_line
from reellama.gguf_tools.runtime.context import as_pointer
from reellama.gguf_tools.runtime.free_cores import long_computation, short_computation
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.prompt import checked_token_ids

LONGEST_TOKEN = 256  # characters; vocabularies have none that is longer
# Positions that an LLM reads at a time. llama.cpp computes the logits of each, and keeps them: for
# a text of 2,048 tokens they take half a gigabyte.
PIECE = 256


class TextEmbedder:
    """Embeds texts with a loaded model; a text longer than `n_ctx` tokens is cut.

    Raises ReellamaError where llama.cpp makes no embeddings with this model.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, n_ctx: int = 2048) -> None:
        params = llama_cpp.llama_context_default_params()
        # Tokens of an encoder see those that follow: it reads a text as a whole.
        self._piece = n_ctx if _is_encoder(model) else min(n_ctx, PIECE)
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, self._piece, self._piece
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
        """A vector of length 1, and how many tokens were read. Thread-safe.

        A text may be the ids of its tokens, which are read as they are. Raises ReellamaError for
        ids of no token, and for a text that is too long, unless it may be truncated.
        """
        with self._lock:
            ids = self._ids(text, truncate)
            # A text of one piece does not wait: short computations of others would end later.
            with long_computation() if len(ids) > self._piece else nullcontext():
                return self._vector(ids).tolist(), len(ids)

    def close(self) -> None:
        """Free the context. A text that is being embedded ends with an error."""
        self._closed = True
        with self._lock:
            self._free()

    def _ids(self, text: str | list[int], truncate: bool) -> list[int]:
        if isinstance(text, str):
            # A text with more characters has more than `n_ctx` tokens: the rest need not be read.
            text = text[: (self.n_ctx + 1) * LONGEST_TOKEN]
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
        for begin in range(0, len(ids), self._piece):
            self._raise_if_closed()
            tokens = np.array(ids[begin : begin + self._piece], np.int32)
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
    """The first `n` numbers, as a vector of length 1 again."""
    cut = vector[:n]
    length = math.hypot(*cut) or 1.0
    return [x / length for x in cut]


def _is_encoder(model: Model) -> bool:
    """Whether a model's tokens see those that follow them."""
    metadata = model.file.metadata
    architecture = metadata.get("general.architecture")
    pooled = f"{architecture}.pooling_type" in metadata
    return pooled or metadata.get(f"{architecture}.attention.causal") is False


def _free(context: object, _model: Model) -> None:
    llama_cpp.llama_free(context)
