"""The rule by which one of the measured files is selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reellama.gguf_tools.measuring.divergence import Estimate
from reellama.gguf_tools.memory.offload import OffloadPlan
from reellama.gguf_tools.sizes import show_size


@dataclass(frozen=True)
class Limits:
    """The limits that a file must keep; None means no limit."""

    max_kld: float | None = None  # mean KL divergence from the reference, nats
    min_speed: float | None = None  # tokens generated a second
    vram: int | None = None  # bytes, for all layers, the KV cache and the compute buffers


@dataclass(frozen=True)
class Measured:
    """The measurements of a file on this machine, and how much of it fits into memory."""

    type: str
    n_bytes: int  # of the file
    kl: Estimate  # mean KL divergence from the reference, nats
    same_top: Estimate  # share of tokens with the same most likely token
    speed: Estimate  # tokens generated a second; the error is the spread of repetitions
    peak_rss: int  # bytes, of the process that measured the speed
    plan: OffloadPlan  # the layers that fit into the available memory


def broken_limits(file: Measured, limits: Limits) -> list[str]:
    """The values of a file that break limits, as text such as "KL 0.0312"."""
    broken = []
    if limits.max_kld is not None and file.kl.value > limits.max_kld:
        broken.append(f"KL {file.kl.value:.4f}")
    if limits.min_speed is not None and file.speed.value < limits.min_speed:
        broken.append(f"{file.speed.value:.1f} tokens/s")
    if limits.vram is not None and file.plan.all_bytes > limits.vram:
        broken.append(f"needs {show_size(file.plan.all_bytes)}")
    return broken


def choose(files: Sequence[Measured], limits: Limits) -> Measured | None:
    """The file to use among those that keep all limits, or None if none does.

    With a limit on the KL divergence the smallest file is chosen, since all are good enough.
    Without one the file of the least divergence is chosen, and the smallest of equals.
    """
    within = [file for file in files if not broken_limits(file, limits)]
    if limits.max_kld is None:
        return min(within, key=lambda file: (file.kl.value, file.n_bytes), default=None)
    return min(within, key=lambda file: (file.n_bytes, file.kl.value), default=None)
