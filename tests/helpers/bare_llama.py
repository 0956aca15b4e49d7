"""llama.cpp by itself, to compare the engine with: a bare loop over its low-level API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.runtime.backend import load_model


def logits(path: Path, prompt: Sequence[int], answer: Sequence[int], n_ctx: int) -> np.ndarray:
    """What each token of `answer` was chosen from: float32 `[len(answer), n_vocab]`.

    The prompt is read at once and the answer token by token, on one thread: as the engine does, so
    that both round alike on whatever processor it is.
    """
    with load_model(path) as model:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = n_ctx, 512, 512
        parameters.n_threads = parameters.n_threads_batch = 1
        context = llama.llama_init_from_model(model.ptr, parameters)
        n_vocab = llama.llama_vocab_n_tokens(model.vocab)
        rows = []
        for ids in (list(prompt), *([token] for token in answer[:-1])):
            tokens = (llama.llama_token * len(ids))(*ids)  # the batch only points at them
            assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))) == 0
            row = llama.llama_get_logits_ith(context, -1)
            rows.append(np.ctypeslib.as_array(row, (n_vocab,)).copy())
        llama.llama_free(context)
    return np.stack(rows)
