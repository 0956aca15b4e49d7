"""The sequences of a batcher, the answers that hold them, and what each decodes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from reellama.gguf_tools.runtime.context import BatchSpan
from reellama.pipeline.llm.batching.generation_job import GenerationJob
from reellama.pipeline.llm.cached_tokens import CachedTokens
from reellama.pipeline.llm.prompt import TokenizedPrompt, TokenSpan
from reellama.pipeline.llm.text_stream import TextStream
from reellama.pipeline.llm.token_sampling import Sampler
from reellama.pipeline.llm.token_scorer import ScoredToken

N_BATCH = 512  # positions a step
# Of these, positions of long prompts beside answers that grow and short prompts, whose readers wait
# for the step to end.
N_READ = 64
# A prompt of which no more is to be read is short. Short ones are read in as few steps as may be,
# for a step takes nearly as long for one answer that grows as for all: up to so many positions.
N_READ_SHORT = 256
# Answers with fewer tokens have just begun. Beside these alone, short prompts are read as if nobody
# wrote: what came at the same time is then written in the same steps, as one takes nearly as long
# for one answer as for eight, and nobody waits in the middle of a sentence.
JUST_BEGUN = 4
# One of so many positions of prompts is of the one that began first, however long it is.
FIRST_SHARE = 4
WRITE_WORK = 8  # positions that are read in about the time in which a token is written


@dataclass(eq=False)
class Answer:
    """A job, and what its answer is made with.

    prompt: what is read: the job's prompt, and after a pause what was generated before it, too.
    """

    job: GenerationJob
    sampler: Sampler
    stream: TextStream[ScoredToken]
    prompt: TokenizedPrompt
    unread: deque[TokenSpan] = field(default_factory=deque)  # of `prompt`
    is_short: bool = True  # little was to be read when it got its place
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

    def begin(self, unread: Iterable[TokenSpan]) -> None:
        """Begin to read these spans of `prompt`."""
        self.unread = deque(unread)
        self.is_short = self.n_unread <= N_READ_SHORT


@dataclass(eq=False)
class Slot:
    """A sequence: what its memory holds, and the answer that is using it."""

    cache: CachedTokens
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
    def is_token(self) -> bool:
        """Whether it is one token of text, whose logits are wanted."""
        return self.wants_logits and len(self.tokens) == 1 and self.tokens.soft is None

    @property
    def span(self) -> BatchSpan:
        """The same as the context takes it."""
        tokens = self.tokens
        first_output = len(tokens) - self.wants_logits
        return BatchSpan(tokens.inputs, tokens.start, self.sequence, first_output, tokens.offsets)


class StepPlanner:
    """Says what is decoded next. Long prompts get as much as all others together, and no more.

    What they may read beside others is saved up until it is N_READ positions: fewer at a time take
    longer each.
    """

    def __init__(self) -> None:
        self._saved = N_READ  # positions

    def next_pieces(self, busy: Sequence[Slot], soft: bool) -> list[SlotSpan]:
        """What is decoded next, of this kind: a token of each answer that grows, and of prompts.

        The prompt with the least left comes first, as in shortest remaining time first: read in
        equal shares, all would end last. The one that began first has its share of every step, so
        that those that keep coming do not hold it up.
        """
        growing = [slot for slot in busy if slot.answer and not slot.answer.unread]
        pieces = [piece for slot in growing if (piece := _next_piece(slot, soft, 1))]
        reading = [(slot, slot.answer) for slot in busy if slot.answer and slot.answer.unread]
        n_short = sum(answer.n_unread for _, answer in reading if answer.is_short)
        n_written = max((len(slot.answer.written) for slot in growing if slot.answer), default=None)
        room = self._room(n_written, n_short)
        reading = [each for each in reading if (each[1].unread[0].soft is not None) == soft]
        reading.sort(key=lambda each: each[1].n_unread)
        first = min((answer for _, answer in reading), key=lambda each: each.begun, default=None)
        for slot, answer in reading:
            kind, held = answer.is_short, 0
            first = None if answer is first else first
            if first is not None and first.is_short == kind:
                held = min(room[kind] // FIRST_SHARE, first.n_unread)
            if room[kind] > held and (piece := _next_piece(slot, soft, room[kind] - held)):
                if not piece.tokens.causal:  # llama.cpp has one kind of mask for a batch
                    if not pieces:
                        return self._noted([piece], busy)
                    continue
                pieces.append(piece)
                room[kind] -= len(piece.tokens)
        return self._noted(pieces, busy)

    def _room(self, n_written: int | None, n_short: int) -> dict[bool, int]:
        """Positions in a step for short prompts (True), which have so many left, and long ones.

        n_written: tokens of the longest answer that grows, None where none does.
        """
        if n_written is None and not n_short:
            return {True: 0, False: N_BATCH}
        room = N_READ if self._saved >= N_READ else 0
        beside = n_written is not None and n_written >= JUST_BEGUN
        return {True: min(n_short, N_READ_SHORT if beside else N_BATCH - room), False: room}

    def _noted(self, pieces: list[SlotSpan], busy: Sequence[Slot]) -> list[SlotSpan]:
        """These pieces, and note what is spent on long prompts, and what on others."""
        by_sequence = {slot.cache.sequence: slot.answer for slot in busy}
        for piece in pieces:
            answer = by_sequence[piece.sequence]
            if answer is None or not answer.unread:
                self._saved += WRITE_WORK
            elif answer.is_short:
                self._saved += len(piece.tokens)
            else:
                self._saved -= len(piece.tokens)
        self._saved = max(0, min(self._saved, N_READ))
        return pieces


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
