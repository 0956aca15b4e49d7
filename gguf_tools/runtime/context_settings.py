"""Settings of a llama.cpp context: its batches, its threads, and its KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama
from gguf.constants import GGMLQuantizationType

from reellama.gguf_tools.cgroups import usable_memory
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.memory.estimates import KV_TYPE_NAMES, kv_bytes
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.free_cores import free_threads

KV_TYPES = {name: int(GGMLQuantizationType[name.upper()]) for name in KV_TYPE_NAMES}
UNQUANTIZED_KV_TYPES = ("f32", "f16", "bf16")  # llama.cpp quantizes V only with flash attention
FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type


@dataclass(frozen=True)
class ContextSettings:
    """Settings of a context. The defaults are llama.cpp's own."""

    n_batch: int = 2048  # positions in a batch
    n_ubatch: int = 512  # positions in a micro-batch
    # None means one for each physical core that other programs leave free, adapted while computing.
    n_threads: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"

    def check(self) -> None:
        """Raise ReellamaError for settings that llama.cpp does not support."""
        for name in ("n_batch", "n_ubatch", "n_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ReellamaError(f"{name} is {value}, but must be 1 or more")
        choices = {"type_k": KV_TYPES, "type_v": KV_TYPES, "flash_attn": FLASH_ATTN}
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise ReellamaError(
                    f"{name} cannot be {getattr(self, name)!r}: choose one of {', '.join(values)}"
                )
        if self.flash_attn == "off" and self.type_v not in UNQUANTIZED_KV_TYPES:
            raise ReellamaError(
                f"type_v {self.type_v} needs flash attention: leave flash_attn at auto"
            )


def check_memory(
    model: backend.Model, n_ctx: int, type_k: str, type_v: str, *, swa_full: bool
) -> None:
    """Raise ReellamaError if the KV cache exceeds the free memory, as llama.cpp would abort.

    swa_full: whether positions outside the attention window are kept.
    """
    layers = range(model.n_layer if model.n_gpu_layers == 0 else 0)
    n_ctx = n_ctx or model.file.n_ctx_train
    needed = sum(
        kv_bytes(model.file, layer, n_ctx, type_k, type_v, swa_full=swa_full) for layer in layers
    )
    free = usable_memory().available
    if needed > free:
        raise ReellamaError(
            f"{n_ctx} positions of context need {needed / 1e9:.1f} GB of memory for {model.path}, "
            f"and {free / 1e9:.1f} GB are free: ask for a smaller n_ctx"
        )


def context_parameters(
    n_positions: int, settings: ContextSettings, n_seq: int, n_outputs: int
) -> Any:
    """The `llama_context_params` for these settings."""
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = n_positions
    parameters.n_seq_max = n_seq
    parameters.n_batch = settings.n_batch
    parameters.n_ubatch = min(settings.n_ubatch, settings.n_batch)
    parameters.n_outputs_max = parameters.n_outputs_max_per_seq = n_outputs
    n_threads = settings.n_threads or free_threads()
    parameters.n_threads = parameters.n_threads_batch = n_threads
    parameters.type_k = KV_TYPES[settings.type_k]
    parameters.type_v = KV_TYPES[settings.type_v]
    flash_attn = settings.flash_attn if settings.type_v in UNQUANTIZED_KV_TYPES else "on"
    parameters.flash_attn_type = FLASH_ATTN[flash_attn]
    return parameters
