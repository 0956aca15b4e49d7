"""Whose turn it is: long answers hold up neither short ones nor other clients.

Clients are served by what they have had, as in "Fairness in Serving Large Language Models" (Sheng
and others, OSDI 2024), and an answer that has had its turn makes room for one that has had none,
as in a multi-level feedback queue. Work is counted in positions that are read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from reellama.pipeline.llm.batching.slots import N_READ_SHORT, WRITE_WORK, Answer, Slot

TURN = 512  # work after which an answer may be paused
LITTLE = 64  # work that a long prompt loses without harm when it makes room
MUCH_SHORTER = 4  # times fewer cells
MOST_CLIENTS = 1024  # whose work is remembered


class Turns:
    """Those who wait for a place, and what each client has had."""

    def __init__(self) -> None:
        self.waiting: deque[Answer] = deque()
        self._served: Counter[str] = Counter()

    def wait(self, answer: Answer, slots: Sequence[Slot]) -> None:
        """Let an answer wait. Nobody saves up work by asking for nothing."""
        client = answer.job.client
        here = {each.job.client for each in (*self.waiting, *_running(slots))}
        if here and client not in here:
            least = min(self._served[each] for each in here)
            self._served[client] = max(self._served[client], least)
        self.waiting.append(answer)
        if len(self._served) > MOST_CLIENTS:
            self._served = Counter({each: self._served[each] for each in (*here, client)})

    def take(self, slots: Sequence[Slot], free: Sequence[Slot]) -> Answer | None:
        """Take the one who is next and may have one of the free places.

        That is of the client with the fewest answers now, of those the one that has had the least,
        with what a long prompt is about to take, and of a client's own the one that waits the
        longest. Long prompts that are read have half of the places: they are read one after the
        other, and with more of them there would be none for short ones.
        """
        n_long = sum(_reads_long(each) for each in _running(slots))
        # The second one would only wait there to be read: not in the last place that is free.
        full = n_long >= max(1, len(slots) // 2) or (n_long > 0 and len(free) < 2)
        able = [each for each in self.waiting if not (full and _is_long(each, free))]
        if not able:
            return None
        answer = min(able, key=self._rank(slots))
        self.waiting.remove(answer)
        return answer

    def drop_cancelled(self) -> list[Answer]:
        """Take out those whose job was cancelled."""
        gone = [each for each in self.waiting if each.job.cancelled]
        self.waiting = deque(each for each in self.waiting if not each.job.cancelled)
        return gone

    def worked(self, answer: Answer, n_read: int, n_written: int) -> None:
        """Count work that was done for an answer."""
        work = n_read + WRITE_WORK * n_written
        answer.work += work
        self._served[answer.job.client] += work

    def take_before_others(self, slots: Sequence[Slot]) -> tuple[Answer, Slot] | None:
        """Take one that has had no turn, where no place is free soon; with whose place.

        None is free soon where each answer has had its turn, or will with its prompt. Those who had
        one are paused, and for much shorter ones those whose long prompts wait to be read, but not
        the one that began first: it gets through. One that has hardly begun to be read, while
        another one is, makes room however soon a place is free. Nobody is paused for another one of
        its own client that is not much shorter. It is the one with the fewest cells to read again,
        of the clients with the most answers now.
        """
        answers = {slot: slot.answer for slot in slots if slot.answer is not None}
        if len(answers) < len(slots):
            return None
        first = min(answers, key=lambda slot: answers[slot].begun)
        if not all(map(_lasts, answers.values())):
            answers = _idle(answers, first)
        answers = {
            slot: answer
            for slot, answer in answers.items()
            if slot is not first or _had_turn(answer)
        }
        n_running = Counter(each.job.client for each in _running(slots))
        for answer in sorted(self.waiting, key=self._rank(slots)):
            later = [slot for slot in answers if not answer.paused and _may_precede(answer, slot)]
            if later:
                self.waiting.remove(answer)
                clients = {slot: slot.answer.job.client for slot in later if slot.answer}
                slot = min(later, key=lambda each: (-n_running[clients[each]], len(each.cache)))
                return answer, slot
        return None

    def _rank(self, slots: Sequence[Slot]) -> Callable[[Answer], tuple[int, int]]:
        """Whose turn is sooner."""
        n_running = Counter(each.job.client for each in _running(slots))

        def rank(answer: Answer) -> tuple[int, int]:
            # What a prompt takes beyond a turn counts before it is read: fair queueing does so.
            beyond = max(0, len(answer.prompt.keys) - TURN)
            return n_running[answer.job.client], self._served[answer.job.client] + beyond

        return rank


def _is_long(answer: Answer, free: Sequence[Slot]) -> bool:
    """Whether much is to be read for an answer that waits, in any of these places."""
    keys = answer.prompt.keys
    if len(keys) <= N_READ_SHORT:
        return False
    return len(keys) - max(slot.cache.common_prefix(keys) for slot in free) > N_READ_SHORT


def _reads_long(answer: Answer) -> bool:
    return bool(answer.unread) and not answer.is_short


def _idle(answers: dict[Slot, Answer], first: Slot) -> dict[Slot, Answer]:
    """Long prompts that have hardly begun to be read, while another one is: the one that began
    first, or else the one that is read next."""
    long = {slot: answer for slot, answer in answers.items() if _reads_long(answer)}
    read = min(long, key=lambda slot: (slot is not first, long[slot].n_unread), default=None)
    return {
        slot: answer for slot, answer in long.items() if slot is not read and answer.work <= LITTLE
    }


def _had_turn(answer: Answer) -> bool:
    return answer.work >= TURN


def _lasts(answer: Answer) -> bool:
    return max(0, answer.work) + answer.n_unread >= TURN


def _may_precede(answer: Answer, slot: Slot) -> bool:
    """Whether an answer that waits may come before the one that has this place."""
    other = slot.answer
    assert other is not None
    n_cells = MUCH_SHORTER * len(answer.prompt.keys)
    if not _had_turn(other):
        return n_cells <= other.n_unread
    return answer.job.client != other.job.client or n_cells <= len(slot.cache)


def _running(slots: Sequence[Slot]) -> list[Answer]:
    return [slot.answer for slot in slots if slot.answer is not None]
