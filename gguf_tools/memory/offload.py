"""Plan the offload to a GPU: how many layers of a GGUF fit, and the longest context."""

from dataclasses import dataclass
from itertools import accumulate

from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.memory.estimates import (
    KV_CACHE_MULTIPLE,
    compute_bytes,
    kv_bytes,
    layer_weight_bytes,
)

# GPU memory of the driver's context and of llama.cpp's small buffers, in bytes; 300 MB with CUDA.
GPU_OVERHEAD_BYTES = 384 << 20


@dataclass(frozen=True)
class OffloadPlan:
    """The layers and memory of a model on a GPU. Layers are counted as `n_gpu_layers` counts."""

    n_ctx: int
    type_k: str
    type_v: str
    free_bytes: int  # of the GPU
    n_gpu_layers: int  # layers that fit, the output layer counted as one
    n_gpu_layers_all: int  # all layers
    weight_bytes: int  # of the layers that fit; so are the next three
    kv_bytes: int
    compute_bytes: int  # an upper estimate, with flash attention
    overhead_bytes: int
    all_bytes: int  # needed by all layers
    max_n_ctx: int  # the longest context with all layers; 0 if there is none

    @property
    def gpu_bytes(self) -> int:
        """GPU memory that is used; 0 when no layer fits."""
        parts = (self.weight_bytes, self.kv_bytes, self.compute_bytes, self.overhead_bytes)
        return sum(parts) if self.n_gpu_layers else 0


def plan_offload(
    file: GGUFFile, n_ctx: int, free_bytes: int, type_k: str = "f16", type_v: str = "f16"
) -> OffloadPlan:
    """Plan a model on a GPU with `free_bytes` for a context of `n_ctx` positions.

    Raises GGUFError for a GGUF that is no language model, ReellamaError for an unknown KV type.
    """
    n_ctx = n_ctx or file.n_ctx_train
    steps = _steps(file, n_ctx, type_k, type_v)
    n = _fitting(steps, free_bytes)
    weights, kv, compute = steps[n]
    return OffloadPlan(
        n_ctx=n_ctx,
        type_k=type_k,
        type_v=type_v,
        free_bytes=free_bytes,
        n_gpu_layers=n,
        n_gpu_layers_all=len(steps) - 1,
        weight_bytes=weights,
        kv_bytes=kv,
        compute_bytes=compute,
        overhead_bytes=GPU_OVERHEAD_BYTES,
        all_bytes=sum(steps[-1]) + GPU_OVERHEAD_BYTES,
        max_n_ctx=max_context(file, free_bytes, type_k, type_v),
    )


def count_fitting_layers(
    file: GGUFFile, n_ctx: int, free_bytes: int, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """Return how many layers fit into `free_bytes` of GPU memory: 0 to n_layer + 1.

    As for llama.cpp's `n_gpu_layers`, the output layer moves first, then the last layer, and so on.
    A layer costs its tensors and its full KV cache of `n_ctx` positions (0 for the training
    context).
    """
    return _fitting(_steps(file, n_ctx or file.n_ctx_train, type_k, type_v), free_bytes)


def gpu_share(file: GGUFFile, n_gpu_layers: int) -> float:
    """Return the share of the weights, 0 to 1, on a GPU with `n_gpu_layers` (negative for all)."""
    *layers, output = layer_weight_bytes(file)
    moved = [output, *reversed(layers)]
    return sum(moved if n_gpu_layers < 0 else moved[:n_gpu_layers]) / sum(moved)


def max_context(file: GGUFFile, free_bytes: int, type_k: str = "f16", type_v: str = "f16") -> int:
    """Return the longest context that fits into `free_bytes` with all layers: a multiple of 256, or
    the training context; 0 if none fits."""
    weights = sum(layer_weight_bytes(file))
    state, cells = (  # bytes at any length, and for the first KV_CACHE_MULTIPLE positions
        sum(kv_bytes(file, layer, n_ctx, type_k, type_v) for layer in range(file.n_layer))
        for n_ctx in (0, KV_CACHE_MULTIPLE)
    )

    def fits(n_ctx: int) -> bool:
        kv = state + -(-n_ctx // KV_CACHE_MULTIPLE) * (cells - state)
        return weights + kv + compute_bytes(file, n_ctx) + GPU_OVERHEAD_BYTES <= free_bytes

    if fits(file.n_ctx_train):
        return file.n_ctx_train
    low, high = 0, -(-file.n_ctx_train // KV_CACHE_MULTIPLE)  # low fits or is 0, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * KV_CACHE_MULTIPLE) else (low, middle)
    return low * KV_CACHE_MULTIPLE


def _fitting(steps: list[tuple[int, int, int]], free_bytes: int) -> int:
    fitting = [n for n, parts in enumerate(steps) if sum(parts) + GPU_OVERHEAD_BYTES <= free_bytes]
    return fitting[-1] if fitting else 0


def _steps(file: GGUFFile, n_ctx: int, type_k: str, type_v: str) -> list[tuple[int, int, int]]:
    """Bytes of weights, KV cache and compute buffer on the GPU, with 0, 1, ... layers on it.

    While a prompt is read, layers in main memory are copied to the GPU one at a time, so the
    largest of them is added to the compute buffer.
    """
    *layers, output = layer_weight_bytes(file)
    compute = compute_bytes(file, n_ctx)
    caches = [kv_bytes(file, layer, n_ctx, type_k, type_v) for layer in range(file.n_layer)]
    left = list(accumulate(layers, max, initial=0))  # the greatest of the first 0, 1, ... layers
    return list(
        zip(
            accumulate([0, output, *reversed(layers)]),
            accumulate([0, 0, *reversed(caches)]),
            (compute + staged for staged in (left[-1], *reversed(left))),
            strict=True,
        )
    )
