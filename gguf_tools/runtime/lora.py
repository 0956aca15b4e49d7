"""Apply GGUF LoRA adapters to a context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend


def apply_adapters(
    context: Any, model: backend.Model, adapters: Sequence[tuple[Path, float]]
) -> None:
    """Apply GGUF LoRA adapters, given as paths with scales, to a `llama_context *`.

    The model owns and frees them. Raises ReellamaError for a file that is no adapter of the model.
    """
    loaded = []
    for path, _ in adapters:
        if not Path(path).is_file():
            raise ReellamaError(f"{path}: there is no such LoRA adapter")
        adapter = llama.llama_adapter_lora_init(model.ptr, str(path).encode())
        if not adapter:
            raise ReellamaError(
                f"{path} is not a GGUF LoRA adapter for {model.path}: {backend.last_error_line()}"
            )
        loaded.append(adapter)
    pointers = (llama.llama_adapter_lora_p_ctypes * len(loaded))(*loaded)
    scales = (ctypes.c_float * len(loaded))(*(scale for _, scale in adapters))
    if llama.llama_set_adapters_lora(context, pointers, len(loaded), scales):
        raise ReellamaError(f"llama.cpp could not apply the LoRA adapters to {model.path}")
