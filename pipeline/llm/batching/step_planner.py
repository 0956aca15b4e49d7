"""Plans what a step of the batcher decodes: a token of every answer, and chunks of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reellama.gguf_tools.runtime.batch import BatchSpan
from reellama.pipeline.llm.batching.sequence_slots import SHORT_PREFILL, SequenceSlot
from reellama.pipeline.llm.prompt import TokenSpan

N_BATCH = 512  # positions a step
# Positions of long prompts in a step with answers and short prompts, whose clients wait for the end
# of the step.
PREFILL_CHUNK = 64
# Answers with fewer tokens are new. If all answers are new, short prompts are read as if there were
# none, so that requests that came at the same time generate in the same steps: a step takes nearly
# as long for one answer as for eight, and no answer pauses in the middle of a sentence.
NEW_ANSWER_TOKENS = 4
# The prompt that started first, however long, gets at least this fraction (1/N) of the positions.
OLDEST_PROMPT_DIVISOR = 4
DECODE_COST = 8  # positions of a prompt that take about as long as one generated token


@dataclass(frozen=True)
class SequenceSpan:
    """Tokens of a sequence for a batch, and whether the logits of the last one are needed."""

    tokens: TokenSpan
    sequence: int
    wants_logits: bool

    @property
    def is_token(self) -> bool:
        """Whether this is one token id whose logits are needed."""
        return self.wants_logits and len(self.tokens) == 1 and self.tokens.soft is None

    @property
    def span(self) -> BatchSpan:
        """The argument of `Context.decode_batch`."""
        tokens = self.tokens
        first_output = len(tokens) - self.wants_logits
        return BatchSpan(tokens.inputs, tokens.start, self.sequence, first_output, tokens.offsets)


@dataclass
class StepBudget:
    """Positions left in a step for short prompts and for long ones."""

    short: int
    long: int

    def left(self, is_short: bool) -> int:
        """Positions left for short or long prompts."""
        return self.short if is_short else self.long

    def spend(self, is_short: bool, n_positions: int) -> None:
        """Use up positions of short or long prompts."""
        if is_short:
            self.short -= n_positions
        else:
            self.long -= n_positions


class StepPlanner:
    """Plans steps. Long prompts get at most as many positions as all other jobs together.

    Their positions are saved up to PREFILL_CHUNK: smaller chunks take longer per position.
    """

    def __init__(self) -> None:
        self._saved = PREFILL_CHUNK  # positions

    def next_pieces(self, busy: Sequence[SequenceSlot], soft: bool) -> list[SequenceSpan]:
        """The next pieces of one kind, soft tokens or ids: a token of each answer, and of prompts.

        The prompt with the least left comes first, as in shortest remaining time first: with equal
        shares, all prompts would end late. The prompt that started first has a share of every step,
        so that new prompts cannot delay it for ever.
        """
        pieces = self._plan(busy, soft)
        self._account_for(pieces, busy)
        return pieces

    def _plan(self, busy: Sequence[SequenceSlot], soft: bool) -> list[SequenceSpan]:
        decoding = [slot for slot in busy if slot.state and not slot.state.pending]
        pieces = [piece for slot in decoding if (piece := _next_piece(slot, soft, 1))]
        lengths = (len(slot.state.generated_ids) for slot in decoding if slot.state)
        prefilling = {slot: slot.state for slot in busy if slot.state and slot.state.pending}
        n_short = sum(state.n_pending for state in prefilling.values() if state.is_short)
        budget = self._budget(max(lengths, default=None), n_short)
        slots = [
            slot
            for slot, state in prefilling.items()
            if (state.pending[0].soft is not None) == soft
        ]
        slots.sort(key=lambda slot: prefilling[slot].n_pending)
        oldest = min(slots, key=lambda slot: prefilling[slot].started_at, default=None)
        for slot in slots:
            is_short, reserved = prefilling[slot].is_short, 0
            oldest = None if slot is oldest else oldest
            if oldest is not None and prefilling[oldest].is_short == is_short:
                share = budget.left(is_short) // OLDEST_PROMPT_DIVISOR
                reserved = min(share, prefilling[oldest].n_pending)
            available = budget.left(is_short) - reserved
            if available > 0 and (piece := _next_piece(slot, soft, available)):
                if not piece.tokens.causal:  # a batch has one kind of mask
                    if not pieces:
                        return [piece]
                    continue
                pieces.append(piece)
                budget.spend(is_short, len(piece.tokens))
        return pieces

    def _budget(self, n_generated: int | None, n_short: int) -> StepBudget:
        """The positions of a step for short prompts, which have `n_short` left, and for long ones.

        n_generated: tokens of the longest answer, None if there is none.
        """
        if n_generated is None and not n_short:
            return StepBudget(short=0, long=N_BATCH)
        n_long = PREFILL_CHUNK if self._saved >= PREFILL_CHUNK else 0
        is_beside_answers = n_generated is not None and n_generated >= NEW_ANSWER_TOKENS
        max_short = SHORT_PREFILL if is_beside_answers else N_BATCH - n_long
        return StepBudget(short=min(n_short, max_short), long=n_long)

    def _account_for(self, pieces: Sequence[SequenceSpan], busy: Sequence[SequenceSlot]) -> None:
        """Update the positions saved for long prompts, to which all other jobs add."""
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


def _next_piece(slot: SequenceSlot, soft: bool, max_positions: int) -> SequenceSpan | None:
    """The next piece of a sequence if it is of this kind, of at most `max_positions`.

    Tokens with a non-causal mask are not divided.
    """
    state, sequence = slot.state, slot.cache.sequence
    if state is None:
        return None
    if not state.pending:
        if soft or not state.generated_ids:
            return None
        last = TokenSpan([state.generated_ids[-1]], slot.cache.end)
        return SequenceSpan(last, sequence, wants_logits=True)
    span = state.pending[0]
    if (span.soft is not None) != soft:
        return None
    piece = span[:max_positions] if span.causal else span
    is_last = len(state.pending) == 1 and len(piece) == len(span)
    return SequenceSpan(piece, sequence, wants_logits=is_last)
