"""Detect headers that are well-formed but make llama.cpp abort the process.

llama.cpp's loader asserts these conditions instead of returning an error (src/llama-vocab.cpp,
src/llama-model.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import GGUFFile

REPLACED = "\ufffd"  # in place of bytes that are not UTF-8; equal texts may be different bytes
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS of src/llama-hparams.h


def check_loadable(file: GGUFFile) -> None:
    """Raise GGUFError, in one line, for a header that fails an assertion of llama.cpp's."""
    for problem in (*_token_problems(file), *_expert_problems(file)):
        raise GGUFError(f"llama.cpp cannot load {file.path}: {problem}")


def _token_problems(file: GGUFFile) -> Iterator[str]:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or (len(set(tokens)) == len(tokens) and "" not in tokens):
        return
    first: dict[str, int] = {}
    for i, token in enumerate(map(str, tokens)):
        text = token or f"[EMPTY_{i}]"  # what llama.cpp calls it
        if text in first and REPLACED not in text:
            yield (
                f"its tokens {first[text]:,} and {i:,} are the same, {text!r:.40}; convert the "
                "model again, with other names for tokens that are not used"
            )
        first[text] = i


def _expert_problems(file: GGUFFile) -> Iterator[str]:
    n_expert = _number(file, "expert_count")
    used = file.metadata.get(f"{file.metadata.get('general.architecture')}.expert_used_count", 0)
    n_used = max(used, default=0) if isinstance(used, list) else used
    if not isinstance(n_used, int):
        return  # llama.cpp itself refuses another type
    if n_expert > MAX_EXPERTS:
        yield f"it has {n_expert:,} experts a layer, and llama.cpp takes {MAX_EXPERTS} at most"
    if n_used > n_expert:
        yield f"it uses {n_used:,} experts for a token, and has {n_expert:,}; its header is damaged"
    if n_expert > 0 and n_used <= 0:
        yield f"it has {n_expert:,} experts and uses none of them; its header is damaged"


def _number(file: GGUFFile, name: str) -> int:
    value = file.metadata.get(f"{file.metadata.get('general.architecture')}.{name}", 0)
    return value if isinstance(value, int) else 0
