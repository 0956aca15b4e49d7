r"""Place tensors on devices by patterns of their names: llama.cpp's `--override-tensor`.

    [("blk\.[0-3]\.ffn_.*_exps", "CPU")]

The first pattern, a regular expression, that matches in a tensor's name counts. Other tensors are
placed with their layers.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.ggml_library import ggml_function

# Matches the tensors of a layer's experts: LLM_FFN_EXPS_REGEX of llama.cpp's common/common.h.
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"

Placement = Sequence[tuple[str, str]]  # patterns and names of buffer types, such as "CPU"


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override"""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def experts_on_cpu(n_layers: int) -> list[tuple[str, str]]:
    """The placement that keeps the experts of the first `n_layers` layers on the CPU."""
    return [(rf"blk\.{layer}{EXPERTS}", "CPU") for layer in range(n_layers)]


def parse_placement(text: str) -> tuple[tuple[str, str], ...]:
    r"""Parse PATTERN=MEMORY pairs with `;` between them, as in llama-bench.

    >>> parse_placement(r"blk\.0\.=CPU;exps=CPU")
    (('blk\\.0\\.', 'CPU'), ('exps', 'CPU'))

    Raises ReellamaError for other text, and for a pattern that is no regular expression.
    """
    pairs = []
    for part in filter(None, text.split(";")):
        pattern, equals, memory = part.rpartition("=")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ReellamaError(f"{pattern!r:.60} is no regular expression: {error}") from None
        if not (pattern and equals and memory):
            raise ReellamaError(f"{part!r:.60} is not PATTERN=MEMORY, such as exps=CPU")
        pairs.append((pattern, memory))
    return tuple(pairs)


def overrides(placement: Placement) -> Any:
    """The `tensor_buft_overrides` array, which must stay referenced while a model is loaded.

    Raises ReellamaError for memory that llama.cpp does not have on this machine.
    """
    memories = _memories()
    array = (_Override * (len(placement) + 1))()  # the last, empty, ends it
    for override, (pattern, memory) in zip(array, placement, strict=False):
        if memory not in memories:
            raise ReellamaError(f"no memory {memory!r:.40} here; there is {', '.join(memories)}")
        override.pattern, override.buft = pattern.encode(), memories[memory]
    return array


def _memories() -> dict[str, int]:
    """Pointers to the buffer types of all devices, by name: "CPU", "CUDA0", ..."""
    memories = {}
    pointer = ctypes.c_void_p
    for index in range(ggml_function("ggml_backend_dev_count", ctypes.c_size_t)()):
        device = ggml_function("ggml_backend_dev_get", pointer, ctypes.c_size_t)(index)
        memory = ggml_function("ggml_backend_dev_buffer_type", pointer, pointer)(device)
        if memory:
            name = ggml_function("ggml_backend_buft_name", ctypes.c_char_p, pointer)(memory)
            memories[name.decode("utf-8", "replace")] = memory
    return memories
