"""What a batcher decodes in each step: a token of every answer, and chunks of prompts (prefill)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reellama.gguf_tools.runtime.context import BatchSpan
from reellama.pipeline.llm.batching.slots import SHORT_PREFILL, Slot
from reellama.pipeline.llm.prompt import TokenSpan

N_BATCH = 512  # positions a step
# Positions of long prompts in a step beside answers that grow and short prompts: their clients wait
# for the step to end.
PREFILL_CHUNK = 64
# Answers with fewer tokens have just begun. Beside these alone, short prompts are read as if no
# answer were growing: requests that came at the same time then generate in the same steps, and a
# step takes nearly as long for one answer as for eight. No answer waits in the middle of a sentence.
NEW_ANSWER_TOKENS = 4
# The prompt that began first gets a quarter of a step's positions for prompts, however long it is.
OLDEST_PROMPT_DIVISOR = 4
DECODE_COST = 8  # positions of a prompt that are read in about the time of one generated token


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
        """These tokens as `Context.decode_batch` takes them."""
        tokens = self.tokens
        first_output = len(tokens) - self.wants_logits
        return BatchSpan(tokens.inputs, tokens.start, self.sequence, first_output, tokens.offsets)


class StepPlanner:
    """Says what is decoded next. Long prompts get as much as all others together, and no more.

    What they may read beside others is saved up until it is PREFILL_CHUNK positions: fewer at a
    time take longer each.
    """

    def __init__(self) -> None:
        self._saved = PREFILL_CHUNK  # positions

    def next_pieces(self, busy: Sequence[Slot], soft: bool) -> list[SlotSpan]:
        """What is decoded next, of this kind: a token of each answer that grows, and of prompts.

        The prompt with the least left comes first, as in shortest remaining time first: read in
        equal shares, all would end last. The one that began first has its share of every step, so
        that those that keep coming do not hold it up.
        """
        decoding = [slot for slot in busy if slot.state and not slot.state.pending]
        pieces = [piece for slot in decoding if (piece := _next_piece(slot, soft, 1))]
        prefilling = [(slot, slot.state) for slot in busy if slot.state and slot.state.pending]
        n_short = sum(state.n_pending for _, state in prefilling if state.is_short)
        lengths = (len(slot.state.generated_ids) for slot in decoding if slot.state)
        room = self._room(max(lengths, default=None), n_short)
        prefilling = [each for each in prefilling if (each[1].pending[0].soft is not None) == soft]
        prefilling.sort(key=lambda each: each[1].n_pending)
        oldest = min(
            (state for _, state in prefilling), key=lambda each: each.started_at, default=None
        )
        for slot, state in prefilling:
            kind, held = state.is_short, 0
            oldest = None if state is oldest else oldest
            if oldest is not None and oldest.is_short == kind:
                held = min(room[kind] // OLDEST_PROMPT_DIVISOR, oldest.n_pending)
            if room[kind] > held and (piece := _next_piece(slot, soft, room[kind] - held)):
                if not piece.tokens.causal:  # llama.cpp has one kind of mask for a batch
                    if not pieces:
                        return self._noted([piece], busy)
                    continue
                pieces.append(piece)
                room[kind] -= len(piece.tokens)
        return self._noted(pieces, busy)

    def _room(self, n_generated: int | None, n_short: int) -> dict[bool, int]:
        """Positions in a step for short prompts (True), which have so many left, and long ones.

        n_generated: tokens of the longest answer that grows, None where none does.
        """
        if n_generated is None and not n_short:
            return {True: 0, False: N_BATCH}
        room = PREFILL_CHUNK if self._saved >= PREFILL_CHUNK else 0
        beside = n_generated is not None and n_generated >= NEW_ANSWER_TOKENS
        return {True: min(n_short, SHORT_PREFILL if beside else N_BATCH - room), False: room}

    def _noted(self, pieces: list[SlotSpan], busy: Sequence[Slot]) -> list[SlotSpan]:
        """These pieces, and note what is spent on long prompts, and what on others."""
        by_sequence = {slot.cache.sequence: slot.state for slot in busy}
        for piece in pieces:
            state = by_sequence[piece.sequence]
            if state is None or not state.pending:
                self._saved += DECODE_COST
            elif state.is_short:
                self._saved += len(piece.tokens)
            else:
                self._saved -= len(piece.tokens)
        self._saved = max(0, min(self._saved, PREFILL_CHUNK))
        return pieces


def _next_piece(slot: Slot, soft: bool, room: int) -> SlotSpan | None:
    """What this sequence decodes next, if it is of this kind: at most `room` positions, or all
    tokens that see each other."""
    state, sequence = slot.state, slot.cache.sequence
    if state is None:
        return None
    if not state.pending:
        if soft or not state.generated_ids:
            return None
        last = TokenSpan([state.generated_ids[-1]], slot.cache.end)
        return SlotSpan(last, sequence, wants_logits=True)
    span = state.pending[0]
    if (span.soft is not None) != soft:
        return None
    piece = span[:room] if span.causal else span
    is_last = len(state.pending) == 1 and len(piece) == len(span)
    return SlotSpan(piece, sequence, wants_logits=is_last)
