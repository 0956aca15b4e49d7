"""The rule by which one of the measured files is selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reellama.gguf_tools.measuring.divergence import Estimate
from reellama.gguf_tools.memory.offload import OffloadPlan
from reellama.gguf_tools.sizes import show_size


@dataclass(frozen=True)
class Limits:
    """What a file must keep; None: anything."""

    max_kld: float | None = None  # mean KL divergence from the reference, nats
    min_speed: float | None = None  # tokens generated a second
    vram: int | None = None  # bytes, for all layers, their KV cache and what is computed


@dataclass(frozen=True)
class Measured:
    """What a file is worth on this machine."""

    type: str
    n_bytes: int  # of the file
    kl: Estimate  # mean KL divergence from the reference, nats
    same_top: Estimate  # share of tokens with the same most likely token
    speed: Estimate  # tokens generated a second; the error is the spread of repetitions
    peak_rss: int  # bytes, of the process that measured the speed
    plan: OffloadPlan  # its layers in the memory that is given


def broken_limits(found: Measured, limits: Limits) -> list[str]:
    """Return which limits a file breaks, in words."""
    broken = []
    if limits.max_kld is not None and found.kl.value > limits.max_kld:
        broken.append(f"KL {found.kl.value:.4f}")
    if limits.min_speed is not None and found.speed.value < limits.min_speed:
        broken.append(f"{found.speed.value:.1f} tokens/s")
    if limits.vram is not None and found.plan.all_bytes > limits.vram:
        broken.append(f"needs {show_size(found.plan.all_bytes)}")
    return broken


def choose(found: Sequence[Measured], limits: Limits) -> Measured | None:
    """The one to use, of those that keep all limits; None where none does.

    With a limit on the KL divergence it is the smallest file, since all of them are good enough;
    without, the one with the least divergence, and of equals the smallest.
    """
    keeping = [each for each in found if not broken_limits(each, limits)]
    if limits.max_kld is None:
        return min(keeping, key=lambda each: (each.kl.value, each.n_bytes), default=None)
    return min(keeping, key=lambda each: (each.n_bytes, each.kl.value), default=None)
