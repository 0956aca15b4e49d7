"""The sequences of a batcher, and the state of their jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from reellama.pipeline.llm.batching.generation_job import GenerationJob
from reellama.pipeline.llm.cached_tokens import CachedTokens
from reellama.pipeline.llm.prompt import TokenizedPrompt, TokenSpan
from reellama.pipeline.llm.scoring.token_scorer import ScoredToken
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler

# Positions left to read up to which a prompt is short. Short prompts are read in as few steps as
# possible, SHORT_PREFILL positions in each: a step takes nearly as long for one answer as for all.
SHORT_PREFILL = 256


@dataclass(eq=False)
class JobState:
    """A job, its progress, and the objects that its answer is generated with.

    prompt: the job's prompt; after preemption, with the tokens generated until then.
    """

    job: GenerationJob
    sampler: Sampler
    stream: TextStream[ScoredToken]
    prompt: TokenizedPrompt
    pending: deque[TokenSpan] = field(default_factory=deque)  # of `prompt`, not yet decoded
    is_short: bool = True  # at most SHORT_PREFILL positions were pending at the start
    stage_started_at: float = 0.0  # when waiting, prefill or decoding began
    started_at: float = 0.0  # when the job first had a sequence
    generated_ids: list[int] = field(default_factory=list)
    visible_special_ids: frozenset[int] = frozenset()  # special tokens that are part of the text
    # Work since the job got its sequence, see `scheduler`. After preemption it starts below 0:
    # reading the same positions again does not count.
    work: int = 0
    was_preempted: bool = False  # at least once
    n_preempted_cells: int = 0  # cells of its sequence when it was preempted

    @property
    def n_pending(self) -> int:
        """Positions of the prompt that are not decoded."""
        return sum(map(len, self.pending))

    def start_prefill(self, pending: Iterable[TokenSpan]) -> None:
        """Queue these spans of `prompt` for decoding."""
        self.pending = deque(pending)
        self.is_short = self.n_pending <= SHORT_PREFILL


@dataclass(eq=False)
class SequenceSlot:
    """A sequence: its cells of the KV cache, and the job that is using it."""

    cache: CachedTokens
    state: JobState | None = None  # None: the sequence is free
    last_used_at: float = 0.0  # by the monotonic clock
