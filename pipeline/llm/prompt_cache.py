"""Saves the KV cache of prompts with videos to disk, for other processes.

Prompts about a video are the same up to the end of its soft tokens, whatever the question is. This
part of the KV cache is written to disk. A later prompt for the same LLM that begins with the same
tokens loads it, bit for bit, and need not compute it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.runtime.backend import Model
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.pipeline.llm.cached_tokens import CachedTokens
from reellama.pipeline.llm.prompt import CellKey, TokenizedPrompt

STATE = "state"  # the array's name in the store
FORMAT = "prompt 1"


class ArrayStore(Protocol):
    """Stores arrays by key. `read` returns None if they were not stored or are damaged."""

    def read(self, key: str) -> dict[str, np.ndarray] | None: ...

    def write(self, key: str, **arrays: np.ndarray) -> None: ...


class PromptCache:
    """Saves and restores prompts up to their last soft token.

    store: None disables the cache. llm: the `llm_key` of the LLM.
    """

    def __init__(
        self, store: ArrayStore | None, context: Context, cells: CachedTokens, llm: str
    ) -> None:
        # With M-RoPE, cells also have coordinates in a picture, which a saved state may lack.
        self._store = None if context.has_mrope else store
        self._context, self._cells, self._llm = context, cells, llm
        self._saved_keys: set[str] = set()  # keys that are in the store

    def restore(self, prompt: TokenizedPrompt) -> None:
        """Load the beginning of a prompt into the KV cache, if it is stored and not there yet."""
        n = _through_soft_tokens(prompt.keys)
        if self._store is None or not n or self._cells.common_prefix(prompt.keys) >= n:
            return
        key = self._key(prompt.keys[:n])
        arrays = self._store.read(key)
        if arrays is None or STATE not in arrays:
            return
        self._cells.clear()
        if not self._context.load_state(arrays[STATE]):
            self._context.clear()
            return
        for span in prompt.spans:
            if len(self._cells) < n:
                self._cells.extend(span)
        self._saved_keys.add(key)

    def save(self) -> None:
        """Store the KV cache up to its last soft token; cells after that are removed."""
        n = _through_soft_tokens(self._cells.keys)
        if self._store is None or not n:
            return
        key = self._key(self._cells.keys[:n])
        # A memory that cannot be cut is stored only if it ends with the last soft token.
        if key not in self._saved_keys and self._cells.truncate(n) == n:
            self._store.write(key, **{STATE: self._context.state()})
            self._saved_keys.add(key)

    def _key(self, cells: Sequence[CellKey]) -> str:
        parts = (cell.hex() if isinstance(cell, bytes) else f"{cell}," for cell in cells)
        return hashlib.sha256(f"{FORMAT} {self._llm} {''.join(parts)}".encode()).hexdigest()


def llm_key(
    model: Model, settings: ContextSettings, adapters: Sequence[tuple[Path | str, float]]
) -> str:
    """Identifies all that KV cache values depend on except the prompt: path, size and date of the
    files of the LLM, its adapters and llama.cpp, and the context's settings."""
    library = llama._lib._name
    files = [library, model.path, *(path for path, _ in adapters)]
    return json.dumps(
        [
            *([os.path.realpath(file), *stamp(Path(file))] for file in files),
            *(scale for _, scale in adapters),
            model.n_gpu_layers,
            {**asdict(settings), "n_threads": None},  # they change with the load anyway
        ]
    )


def _through_soft_tokens(keys: Sequence[CellKey]) -> int:
    """How many cells there are up to and with the last soft token, 0 if there is none."""
    return next((i for i in range(len(keys), 0, -1) if isinstance(keys[i - 1], bytes)), 0)
