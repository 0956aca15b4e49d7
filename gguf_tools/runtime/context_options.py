"""Options of llama.cpp contexts: KV types, threads, a check of memory, LoRA adapters."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import psutil
from gguf.constants import GGMLQuantizationType

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.memory.estimates import KV_TYPE_NAMES, kv_bytes
from reellama.gguf_tools.runtime import backend

KV_TYPES = {name: int(GGMLQuantizationType[name.upper()]) for name in KV_TYPE_NAMES}
UNQUANTIZED_KV_TYPES = ("f32", "f16", "bf16")  # llama.cpp quantizes V only with flash attention
FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type


def check_memory(
    model: backend.Model, n_ctx: int, type_k: str, type_v: str, *, swa_full: bool
) -> None:
    """Refuse a KV cache that exceeds the free memory, which would end the process.

    Raises ReellamaError. `swa_full` says whether positions outside the attention window are kept.
    """
    layers = range(model.n_layer if model.n_gpu_layers == 0 else 0)
    n_ctx = n_ctx or model.file.n_ctx_train
    needed = sum(
        kv_bytes(model.file, layer, n_ctx, type_k, type_v, swa_full=swa_full) for layer in layers
    )
    free = psutil.virtual_memory().available
    if needed > free:
        raise ReellamaError(
            f"{n_ctx} positions of context need {needed / 1e9:.1f} GB of memory for {model.path}, "
            f"and {free / 1e9:.1f} GB are free: ask for a smaller n_ctx"
        )


def last_error_line() -> str:
    """llama.cpp's last error on one line, without the names of its functions."""
    line = " ".join(" ".join(backend.last_errors()[-1:]).split())
    return re.sub(r"^(\w+: )+", "", line)


def as_pointer(array: np.ndarray) -> Any:
    """A ctypes pointer to an array's first number; the array must outlive it."""
    kind = np.ctypeslib.as_ctypes_type(array.dtype)
    return array.ctypes.data_as(ctypes.POINTER(kind))


def apply_adapters(
    context: Any, model: backend.Model, adapters: Sequence[tuple[Path, float]]
) -> None:
    """Apply GGUF LoRA adapters, each with its scale, to a `llama_context *`.

    The model owns and frees them. Raises ReellamaError for a file that is no adapter of the model.
    """
    loaded = []
    for path, _ in adapters:
        if not Path(path).is_file():
            raise ReellamaError(f"{path}: there is no such LoRA adapter")
        adapter = llama.llama_adapter_lora_init(model.ptr, str(path).encode())
        if not adapter:
            raise ReellamaError(
                f"{path} is not a GGUF LoRA adapter for {model.path}: {last_error_line()}"
            )
        loaded.append(adapter)
    pointers = (llama.llama_adapter_lora_p_ctypes * len(loaded))(*loaded)
    scales = (ctypes.c_float * len(loaded))(*(scale for _, scale in adapters))
    if llama.llama_set_adapters_lora(context, pointers, len(loaded), scales):
        raise ReellamaError(f"llama.cpp could not apply the LoRA adapters to {model.path}")
