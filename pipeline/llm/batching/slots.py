"""The sequences of a batcher, and the state of the jobs that hold them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from reellama.pipeline.llm.batching.generation_job import GenerationJob
from reellama.pipeline.llm.cached_tokens import CachedTokens
from reellama.pipeline.llm.prompt import TokenizedPrompt, TokenSpan
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler
from reellama.pipeline.llm.token_scorer import ScoredToken

# A prompt of which no more is to be read is short. Short ones are read in as few steps as may be,
# for a step takes nearly as long for one answer that grows as for all: up to so many positions.
SHORT_PREFILL = 256


@dataclass(eq=False)
class JobState:
    """A job, how far it is, and what its answer is made with.

    prompt: what is read: the job's prompt; once preempted, also what was generated until then.
    """

    job: GenerationJob
    sampler: Sampler
    stream: TextStream[ScoredToken]
    prompt: TokenizedPrompt
    pending: deque[TokenSpan] = field(default_factory=deque)  # of `prompt`, not yet decoded
    is_short: bool = True  # little was pending when it got its sequence
    stage_started_at: float = 0.0  # waiting, prefill or decoding
    started_at: float = 0.0  # when it first had a sequence
    generated_ids: list[int] = field(default_factory=list)
    shown: frozenset[int] = frozenset()  # special tokens that are part of the text
    # Work since it got its sequence, see `scheduler`; below 0 while it reads again what it had
    # read.
    work: int = 0
    was_preempted: bool = False  # at least once
    n_preempted_cells: int = 0  # cells that it had when it was preempted

    @property
    def n_pending(self) -> int:
        """Positions of its prompt that are not decoded."""
        return sum(map(len, self.pending))

    def start_prefill(self, pending: Iterable[TokenSpan]) -> None:
        """Let these spans of `prompt` be decoded next."""
        self.pending = deque(pending)
        self.is_short = self.n_pending <= SHORT_PREFILL


@dataclass(eq=False)
class Slot:
    """A sequence: what its memory holds, and the job that is using it."""

    cache: CachedTokens
    state: JobState | None = None  # None: it is free
    last_used_at: float = 0.0  # by the monotonic clock
