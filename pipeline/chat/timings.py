"""The time that a question takes, by stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reellama.pipeline.llm.engine import EngineStats


@dataclass
class Timings:
    """Seconds of each stage. `first_token` is the time to the first token, including prefill."""

    load: float = 0.0
    read: float = 0.0
    tower: float = 0.0
    projector: float = 0.0
    prefill: float = 0.0
    first_token: float = 0.0
    generate: float = 0.0
    n_frames: int = 0
    n_soft_tokens: int = 0
    n_prompt: int = 0
    n_reused: int = 0
    n_generated: int = 0
    pooling: str = ""  # how the tokens of a vision GGUF were pooled

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    def set_answer(self, first_token: float, stats: EngineStats) -> None:
        """Replace what is about the last answer; `first_token` in seconds."""
        self.first_token = first_token
        self.prefill, self.generate = stats.prefill_seconds, stats.generate_seconds
        self.n_prompt, self.n_reused = stats.n_reused + stats.n_read, stats.n_reused
        self.n_generated = stats.n_generated

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second, without prefill; 0.0 if none were generated."""
        return self.n_generated / self.generate if self.generate else 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields, the tokens a second, and the process's peak memory in bytes."""
        return {
            **vars(self),
            "tokens_per_second": self.tokens_per_second,
            "peak_memory": peak_memory(),
        }


def peak_memory() -> int:
    """The most memory that this process has held so far (resident set), in bytes."""
    if sys.platform == "linux":  # getrusage also counts what the parent held when it forked
        with suppress(OSError, ValueError, IndexError), open("/proc/self/status") as status:
            (line,) = (line for line in status if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
