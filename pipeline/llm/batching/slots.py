"""The sequences of a batcher, the answers that hold them, and what each decodes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from reellama.gguf_tools.runtime.context import BatchSpan
from reellama.pipeline.llm.batching.generation_job import GenerationJob
from reellama.pipeline.llm.kv_cache import KVCache
from reellama.pipeline.llm.prompt import TokenizedPrompt, TokenSpan
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler
from reellama.pipeline.llm.token_scorer import ScoredToken

N_BATCH = 512  # positions a step
# Of these, positions of prompts while answers grow: their readers wait for the step to end.
N_READ = 64
# A prompt that has no more left is short. Short ones are read in as few steps as may be, for a step
# takes nearly as long for one answer that grows as for all: up to so many positions of them.
N_READ_SHORT = 256
# One of so many positions of prompts is of the one that began first, however long it is.
FIRST_SHARE = 4


@dataclass(eq=False)
class Answer:
    """A job, and what its answer is made with.

    layout: what is read, which is the prompt, and after a pause what was written before it too.
    """

    job: GenerationJob
    sampler: Sampler
    stream: TextStream[ScoredToken]
    layout: TokenizedPrompt
    unread: deque[TokenSpan] = field(default_factory=deque)  # of `layout`
    since: float = 0.0
    begun: float = 0.0  # when it first had a place
    written: list[int] = field(default_factory=list)
    shown: frozenset[int] = frozenset()  # special tokens that are part of the text
    # Work since it got its place, see `turns`; below 0 while it reads again what it had read.
    work: int = 0
    paused: bool = False  # at least once
    n_had: int = 0  # cells that it had when it was paused

    @property
    def n_unread(self) -> int:
        """Positions of its prompt that are not decoded."""
        return sum(map(len, self.unread))


@dataclass(eq=False)
class Slot:
    """A sequence: what its memory holds, and the answer that is using it."""

    cache: KVCache
    answer: Answer | None = None
    used: float = 0.0  # when, by the monotonic clock


@dataclass(frozen=True)
class SlotSpan:
    """Tokens that go into a batch with others: their sequence, and whether the logits of the last
    one are wanted."""

    tokens: TokenSpan
    sequence: int
    wants_logits: bool

    @property
    def span(self) -> BatchSpan:
        """The same as the context takes it."""
        tokens = self.tokens
        first_output = len(tokens) - self.wants_logits
        return BatchSpan(tokens.inputs, tokens.start, self.sequence, first_output, tokens.offsets)


def next_pieces(busy: Sequence[Slot], soft: bool) -> list[SlotSpan]:
    """What is decoded next, of this kind: a token of each answer that grows, pieces of prompts.

    The prompt with the least left comes first, as in shortest remaining time first: read in equal
    shares, all would end last. The one that began first has its share of every step, so that
    short ones that keep coming hold no long one up.
    """
    growing = [slot for slot in busy if slot.answer and not slot.answer.unread]
    pieces = [piece for slot in growing if (piece := _next_piece(slot, soft, 1))]
    reading = [(slot, slot.answer) for slot in busy if slot.answer and slot.answer.unread]
    reading = [each for each in reading if (each[1].unread[0].soft is not None) == soft]
    if not reading:
        return pieces
    room = _room([answer.n_unread for _, answer in reading], len(growing))
    first, answer = min(reading, key=lambda each: each[1].begun)
    held = min(room // FIRST_SHARE, answer.n_unread)
    for slot, _ in sorted(reading, key=lambda each: each[1].n_unread):
        held = 0 if slot is first else held
        if room > held and (piece := _next_piece(slot, soft, room - held)):
            if not piece.tokens.causal:  # llama.cpp has one kind of mask for a batch
                if not pieces:
                    return [piece]
                continue
            pieces.append(piece)
            room -= len(piece.tokens)
    return pieces


def _room(unread: Sequence[int], n_growing: int) -> int:
    """Positions of prompts in a step, from what is left of each and how many answers grow."""
    if not n_growing:
        return N_BATCH
    n_short = sum(n for n in unread if n <= N_READ_SHORT)
    return max(N_READ, min(n_short, N_READ_SHORT))


def _next_piece(slot: Slot, soft: bool, room: int) -> SlotSpan | None:
    """What this sequence decodes next, if it is of this kind: at most `room` positions, or all
    tokens that see each other."""
    answer, sequence = slot.answer, slot.cache.sequence
    if answer is None:
        return None
    if not answer.unread:
        if soft or not answer.written:
            return None
        last = TokenSpan([answer.written[-1]], slot.cache.end)
        return SlotSpan(last, sequence, wants_logits=True)
    span = answer.unread[0]
    if (span.soft is not None) != soft:
        return None
    piece = span[:room] if span.causal else span
    is_last = len(answer.unread) == 1 and len(piece) == len(span)
    return SlotSpan(piece, sequence, wants_logits=is_last)
