"""In which numbers torch multiplies: the one place that asks for bfloat16.

bfloat16 halves what moves through memory, and is quicker where the hardware multiplies it: on GPUs,
with AMX (eight times as fast as float32) and with AVX512-BF16. On one core of an EPYC with the
latter, linear layers were 1.6 to 3.5 times as fast as in float32 and convolutions 1.9 to 4.6 times.
Elsewhere it is computed in software: on the same core, oneDNN kept to AVX512 took up to 4 times as
long as for float32, kept to AVX2 up to 70 times, and torch without oneDNN up to 50. So nothing
else in this project names bfloat16 to torch (tests/models/training/test_precision.py).
"""

from __future__ import annotations

import os

import torch

CPU = torch.device("cpu")
# What keeps oneDNN, which does torch's products, to older instructions, and those too old.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI"),
)


def multiplies_bfloat16() -> bool:
    """Whether this processor does so in hardware, and torch may let it."""
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    # Torch's own kernels may be kept to less than the processor has, with ATEN_CPU_CAPABILITY.
    kept_to = torch.backends.cpu.get_cpu_capability()
    limited = any(os.environ.get(name, "").upper() in WITHOUT_BFLOAT16 for name in LIMITS)
    return has and "AVX512" in kept_to and torch.backends.mkldnn.is_available() and not limited


def compute_dtype(device: torch.device = CPU) -> torch.dtype:
    """bfloat16 on a GPU and where the processor multiplies it in hardware, else float32."""
    return torch.bfloat16 if device.type != "cpu" or multiplies_bfloat16() else torch.float32


def autocast(device: torch.device = CPU) -> torch.autocast:
    """A context in which torch multiplies in `compute_dtype`, whatever the weights are kept in."""
    dtype = compute_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
