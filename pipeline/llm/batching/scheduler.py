"""Decides which job gets a sequence, and which has to give one up.

Long answers delay neither short ones nor other clients.

The client that has had the least work comes first, as in "Fairness in Serving Large Language
Models" (Sheng and others, OSDI 2024), and a job that has used its quantum may be preempted by one
that has had none, as in a multi-level feedback queue. Work is counted in positions that are read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from reellama.pipeline.llm.batching.sequence_slots import SHORT_PREFILL, JobState, SequenceSlot
from reellama.pipeline.llm.batching.step_planner import DECODE_COST

QUANTUM = 512  # work after which a job may be preempted
MAX_WORK_LOST = 64  # work of a long prompt that preemption may waste
SHORTER_FACTOR = 4  # a much shorter job has so many times fewer cells
MAX_CLIENTS = 1024  # whose work is remembered


class JobQueue:
    """The jobs that wait for a sequence, and how much work each client has had."""

    def __init__(self) -> None:
        self.waiting: deque[JobState] = deque()
        self._served: Counter[str] = Counter()

    def add(self, state: JobState, slots: Sequence[SequenceSlot]) -> None:
        """Add a job. A client that had no jobs gets no credit for that time."""
        client = state.job.client
        active = {other.job.client for other in (*self.waiting, *_running(slots))}
        if active and client not in active:
            min_served = min(self._served[name] for name in active)
            self._served[client] = max(self._served[client], min_served)
        self.waiting.append(state)
        if len(self._served) > MAX_CLIENTS:
            self._served = Counter({name: self._served[name] for name in (*active, client)})

    def next_job(
        self, slots: Sequence[SequenceSlot], free: Sequence[SequenceSlot]
    ) -> JobState | None:
        """Remove and return the next job that may have one of the free sequences.

        This is a job of the client with the fewest running jobs. Among several such clients the one
        with the least work comes first, counting what a long prompt is about to take, and of a
        client's own jobs the one that waits the longest. Long prompts have at most half of the
        sequences during their prefill: they are read one after the other, and with more of them
        there would be no sequence for short ones.
        """
        n_long = sum(map(_reads_long, _running(slots)))
        # In the last free sequence a second long prompt would only wait to be read.
        full = n_long >= max(1, len(slots) // 2) or (n_long > 0 and len(free) < 2)
        eligible = [state for state in self.waiting if not (full and _is_long(state, free))]
        if not eligible:
            return None
        state = min(eligible, key=self._rank(slots))
        self.waiting.remove(state)
        return state

    def drop_cancelled(self) -> list[JobState]:
        """Remove and return the cancelled jobs."""
        cancelled = [state for state in self.waiting if state.job.cancelled]
        self.waiting = deque(state for state in self.waiting if not state.job.cancelled)
        return cancelled

    def count_work(self, state: JobState, n_read: int, n_generated: int) -> None:
        """Count work that was done for a job."""
        work = n_read + DECODE_COST * n_generated
        state.work += work
        self._served[state.job.client] += work

    def preempt(self, slots: Sequence[SequenceSlot]) -> tuple[JobState, SequenceSlot] | None:
        """Remove and return a waiting job, and the sequence that a running job gives up for it.

        When: all sequences are taken, and none will be free soon, because each job has used its
        quantum, or will have with the rest of its prompt. Where one will be free soon, only long
        prompts give way that have hardly been read because another one was read first.

        For whom: a waiting job that was never preempted itself, in the order of the queue.

        Which jobs may be preempted: those that have used their quantum, by a job of another client
        or a much shorter one; and those that have not, by a job that is much shorter than what is
        left of their prompt. The job that started first is safe until it has used its quantum, so
        it gets through.

        Which one is preempted: of the client with the most running jobs, the job with the fewest
        cells, since these are to be read again.
        """
        victims = {slot: slot.state for slot in slots if slot.state is not None}
        if len(victims) < len(slots):
            return None
        oldest = min(victims, key=lambda slot: victims[slot].started_at)
        if not all(map(_will_use_quantum, victims.values())):
            victims = _barely_read(victims, oldest)
        victims = {
            slot: state
            for slot, state in victims.items()
            if slot is not oldest or _has_used_quantum(state)
        }
        n_running = Counter(state.job.client for state in _running(slots))
        for state in sorted(self.waiting, key=self._rank(slots)):
            if state.was_preempted:
                continue
            eligible = [slot for slot, job in victims.items() if _may_preempt(state, job, slot)]
            if eligible:
                self.waiting.remove(state)
                clients = {slot: victims[slot].job.client for slot in eligible}
                slot = min(eligible, key=lambda slot: (-n_running[clients[slot]], len(slot.cache)))
                return state, slot
        return None

    def _rank(self, slots: Sequence[SequenceSlot]) -> Callable[[JobState], tuple[int, int]]:
        """A sort key of jobs, smallest for the next one."""
        n_running = Counter(state.job.client for state in _running(slots))

        def rank(state: JobState) -> tuple[int, int]:
            # As in fair queueing, work of a prompt beyond a quantum is charged in advance.
            excess = max(0, len(state.prompt.keys) - QUANTUM)
            return n_running[state.job.client], self._served[state.job.client] + excess

        return rank


def _is_long(state: JobState, free: Sequence[SequenceSlot]) -> bool:
    """Whether a waiting job has a long prompt to read, whichever of these sequences it gets."""
    keys = state.prompt.keys
    if len(keys) <= SHORT_PREFILL:
        return False
    return len(keys) - max(slot.cache.common_prefix(keys) for slot in free) > SHORT_PREFILL


def _reads_long(state: JobState) -> bool:
    return bool(state.pending) and not state.is_short


def _barely_read(
    states: dict[SequenceSlot, JobState], oldest: SequenceSlot
) -> dict[SequenceSlot, JobState]:
    """Long prompts that have hardly been read, without the one that is read first.

    The first is the job that started first or, if that is not long, the prompt with the least left.
    """
    long = {slot: state for slot, state in states.items() if _reads_long(state)}
    first = min(long, key=lambda slot: (slot is not oldest, long[slot].n_pending), default=None)
    return {
        slot: state
        for slot, state in long.items()
        if slot is not first and state.work <= MAX_WORK_LOST
    }


def _has_used_quantum(state: JobState) -> bool:
    return state.work >= QUANTUM


def _will_use_quantum(state: JobState) -> bool:
    """Whether a job has used its quantum, or will have when its prompt is read."""
    return max(0, state.work) + state.n_pending >= QUANTUM


def _may_preempt(state: JobState, victim: JobState, slot: SequenceSlot) -> bool:
    """Whether a waiting job may have the sequence of `victim`, which is that of `slot`."""
    n_cells = SHORTER_FACTOR * len(state.prompt.keys)
    if not _has_used_quantum(victim):
        return n_cells <= victim.n_pending
    return state.job.client != victim.job.client or n_cells <= len(slot.cache)


def _running(slots: Sequence[SequenceSlot]) -> list[JobState]:
    return [slot.state for slot in slots if slot.state is not None]
