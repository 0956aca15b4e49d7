"""The dtype that torch computes in: the only module that asks torch for bfloat16.

bfloat16 halves the memory traffic and is faster where the hardware multiplies it: on GPUs, with AMX
(eight times as fast as float32) and with AVX512-BF16 (on one core of an EPYC, 1.6 to 3.5 times for
linear layers and 1.9 to 4.6 times for convolutions). Elsewhere it is computed in software: on the
same core, oneDNN limited to AVX512 took up to 4 times as long as for float32, limited to AVX2 up to
70 times, and torch without oneDNN up to 50 times. tests/models/training/test_precision.py checks
that no other module names bfloat16 to torch.
"""

from __future__ import annotations

import os

import torch

CPU = torch.device("cpu")
# Environment variables that limit oneDNN, which computes torch's matrix products, to older
# instruction sets; and their values without bfloat16 instructions.
ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI"),
)


def multiplies_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 with the processor's own instructions."""
    supported = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    # ATEN_CPU_CAPABILITY may limit torch's own kernels to less than the processor has.
    in_torch = "AVX512" in torch.backends.cpu.get_cpu_capability()
    limited = any(os.environ.get(name, "").upper() in WITHOUT_BFLOAT16 for name in ONEDNN_LIMITS)
    return supported and in_torch and torch.backends.mkldnn.is_available() and not limited


def compute_dtype(device: torch.device = CPU) -> torch.dtype:
    """bfloat16 on a GPU and where the processor multiplies it in hardware, else float32."""
    return torch.bfloat16 if device.type != "cpu" or multiplies_bfloat16() else torch.float32


def autocast(device: torch.device = CPU) -> torch.autocast:
    """A context in which torch multiplies in `compute_dtype`, whatever the weights' dtype is."""
    dtype = compute_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
