"""Try llama.cpp's extra buffer types, which use AMX, on a model.

    python -m reellama.gguf_tools.runtime.amx_probe MODEL.gguf

The exit status is 0 if they give the same logits as plain buffers. The process may crash: see
`amx_guard`.
"""

import contextlib
import ctypes
import sys

import llama_cpp.llama_cpp as llama
import numpy as np

N_TOKENS = 64  # AMX kernels are used for a batch, not for one token
MIN_SIMILARITY = 0.99  # cosine; another order of rounding leaves 0.999 and more


def last_logits(path: str, use_extra_bufts: bool) -> np.ndarray:
    """Decode a batch of tokens; returns the logits of the last, float32 `[n_vocab]`."""
    model_parameters = llama.llama_model_default_params()
    model_parameters.n_gpu_layers = 0
    model_parameters.use_extra_bufts = use_extra_bufts
    model = llama.llama_model_load_from_file(path.encode(), model_parameters)
    context_parameters = llama.llama_context_default_params()
    context_parameters.n_ctx = context_parameters.n_batch = context_parameters.n_ubatch = N_TOKENS
    context = llama.llama_init_from_model(model, context_parameters)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    # Arbitrary tokens, spread over the vocabulary.
    tokens = (llama.llama_token * N_TOKENS)(*(i * 7919 % n_vocab for i in range(N_TOKENS)))
    # llama_batch_get_one asks for the logits of the last token.
    if llama.llama_decode(context, llama.llama_batch_get_one(tokens, N_TOKENS)) != 0:
        sys.exit(1)
    logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (n_vocab,)).copy()
    llama.llama_free(context)
    llama.llama_model_free(model)
    return logits


def agree(logits: np.ndarray, expected: np.ndarray) -> bool:
    """Whether logits, float32 `[n_vocab]`, are finite and equal `expected` but for rounding."""
    if not np.isfinite(logits).all():
        return False
    norms = float(np.linalg.norm(logits) * np.linalg.norm(expected))
    return float(logits @ expected) >= MIN_SIMILARITY * norms > 0


def main() -> None:
    """Exit with status 0 if the extra buffer types work, and 1 if their logits differ."""
    path = sys.argv[1]
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer: leave no core file
    quiet = llama.llama_log_callback(lambda _level, _text, _user_data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(None))
    llama.llama_backend_init()
    sys.exit(0 if agree(last_logits(path, True), last_logits(path, False)) else 1)


if __name__ == "__main__":
    main()
