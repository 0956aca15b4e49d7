"""Prompts are read one after the other, the shortest first, and long ones get through."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.batching.generation_job import GenerationJob
from reellama.pipeline.llm.batching.sequence_slots import SHORT_PREFILL
from reellama.pipeline.llm.batching.step_planner import (
    DECODE_COST,
    N_BATCH,
    NEW_ANSWER_TOKENS,
    OLDEST_PROMPT_DIVISOR,
    PREFILL_CHUNK,
)
from reellama.pipeline.llm.engine import Text, Token
from tests.helpers.batched_jobs import PausedBatcher, SubmittedJob, options_of
from tests.helpers.forced_sampling import FOREVER

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def tiny_batcher(tiny_llama: Path) -> Iterator[Batcher]:
    batcher = Batcher(tiny_llama, n_parallel=4, n_ctx=2048)
    yield batcher
    batcher.close()


def test_prompts_that_come_together_do_not_all_end_last(tiny_batcher: Batcher) -> None:
    paused = PausedBatcher(tiny_batcher)
    jobs = [
        SubmittedJob(tiny_batcher, f"{i}" * 1500, sampling=FOREVER, max_tokens=200)
        for i in range(3)
    ]
    paused.resume()
    assert isinstance(jobs[2].updates.get(timeout=30), Token)
    written = sorted(each.job.stats.generated_tokens for each in jobs)
    for each in jobs:
        each.job.cancelled = True
        each.tokens()
    assert written[2] > written[1] + 5 > written[0] + 10


def test_short_prompts_that_keep_coming_do_not_delay_a_long_one_for_ever(
    tiny_batcher: Batcher,
) -> None:
    long = SubmittedJob(tiny_batcher, "a" * 2000, client="long", max_tokens=1)
    n_short = 0
    while long.updates.empty():
        # Each would take all that a step reads.
        SubmittedJob(
            tiny_batcher, f"{n_short:3}" + "b" * N_BATCH, client=f"{n_short}", max_tokens=1
        ).tokens()
        n_short += 1
    long.tokens()
    assert n_short <= 2000 / (N_BATCH / OLDEST_PROMPT_DIVISOR) + 1


def _steps_beside(batcher: Batcher, prompts: list[str]) -> int:
    """Tokens that an answer grows by while these prompts are read beside it: one a step."""
    growing = SubmittedJob(batcher, "a", sampling=FOREVER, max_tokens=-1)
    for _ in range(NEW_ANSWER_TOKENS):
        assert isinstance(growing.updates.get(timeout=30), Token)
    paused = PausedBatcher(batcher)
    n_grown: list[int] = []  # noted in the batcher's thread, when each of the prompts is read
    ended = threading.Semaphore(0)

    def note(update: object) -> None:
        n_grown.append(growing.job.stats.generated_tokens)
        if update is None:
            ended.release()

    begun = growing.job.stats.generated_tokens
    for prompt in prompts:
        tokenized = batcher.tokenize_prompt([Text(prompt)])
        batcher.submit(GenerationJob(tokenized, note, options_of(max_tokens=1)))
    paused.resume()
    for _ in prompts:
        assert ended.acquire(timeout=30)
    growing.job.cancelled = True
    growing.tokens()
    return n_grown[-1] - begun


def test_short_prompts_are_read_in_few_steps_while_an_answer_grows(tiny_batcher: Batcher) -> None:
    # Steps of 64 positions would be four.
    assert _steps_beside(tiny_batcher, [f"{i}" * 120 for i in range(2)]) <= 2


def test_many_short_prompts_do_not_make_the_steps_of_a_growing_answer_long(
    tiny_batcher: Batcher,
) -> None:
    n_tokens = 3 * 250
    assert _steps_beside(tiny_batcher, [f"{i}" * 250 for i in range(3)]) >= n_tokens / SHORT_PREFILL


def test_short_prompts_that_come_together_are_written_together(tiny_batcher: Batcher) -> None:
    paused = PausedBatcher(tiny_batcher)
    prompts = ["w" * 30, "x" * 250, "y" * 250]
    jobs = [
        SubmittedJob(tiny_batcher, prompt, sampling=FOREVER, max_tokens=40) for prompt in prompts
    ]
    n_first: list[int] = []

    def note(update: object) -> None:
        n_first.append(max(each.job.stats.generated_tokens for each in jobs))

    tokenized = tiny_batcher.tokenize_prompt([Text("z" * 255)])  # the longest, which is read last
    tiny_batcher.submit(GenerationJob(tokenized, note, options_of(max_tokens=1)))
    paused.resume()
    for each in jobs:
        each.tokens()
    # The first answer begins with the first step. With steps of SHORT_PREFILL positions after that,
    # the last one would begin two steps later.
    assert n_first[0] <= 2


def test_an_answer_gets_as_much_as_a_long_prompt_that_is_read_beside_it(
    tiny_batcher: Batcher,
) -> None:
    growing = SubmittedJob(tiny_batcher, "a", sampling=FOREVER, max_tokens=-1)
    assert isinstance(growing.updates.get(timeout=30), Token)
    n_grown: list[int] = []
    read = threading.Event()

    def note(update: object) -> None:
        n_grown.append(growing.job.stats.generated_tokens)
        read.set()

    begun = growing.job.stats.generated_tokens
    tokenized = tiny_batcher.tokenize_prompt([Text("b" * 1000)])
    tiny_batcher.submit(GenerationJob(tokenized, note, options_of(max_tokens=1)))
    assert read.wait(30)
    growing.job.cancelled = True
    growing.tokens()
    assert n_grown[0] - begun >= (1000 - 2 * PREFILL_CHUNK) / DECODE_COST


def test_long_prompts_leave_half_of_the_sequences_to_others(tiny_batcher: Batcher) -> None:
    paused = PausedBatcher(tiny_batcher)
    long = [
        SubmittedJob(tiny_batcher, f"{i}" * 1900, client=f"{i}", max_tokens=1) for i in range(4)
    ]
    n_begun: list[int] = []
    noted = threading.Event()

    def note(update: object) -> None:
        n_begun.append(sum(each.job.stats.queue_seconds > 0 for each in long))
        noted.set()

    tokenized = tiny_batcher.tokenize_prompt([Text("short")])
    tiny_batcher.submit(GenerationJob(tokenized, note, options_of(max_tokens=1), client="short"))
    paused.resume()
    assert noted.wait(30)
    for each in long:
        each.tokens()
    assert n_begun[0] == 2


@pytest.mark.parametrize("reads_first_first", [True, False])
def test_a_long_prompt_that_only_waits_to_be_read_makes_room_for_short_ones(
    tiny_llama: Path, reads_first_first: bool
) -> None:
    batcher = Batcher(tiny_llama, n_parallel=4, n_ctx=2048)
    paused = PausedBatcher(batcher)
    # Of equally long prompts the one in the first sequence is read first. It may be the one that
    # came first or not: sequences that were unused the longest are given first.
    for i, slot in enumerate(batcher._slots):
        slot.last_used_at = float(i if reads_first_first else -i)
    long = [SubmittedJob(batcher, f"{i}" * 1900, client=f"{i}", max_tokens=1) for i in range(2)]
    begun, go_on = threading.Event(), threading.Event()

    def pause_batcher(_: object) -> None:  # after the first step, in which one of them was read
        begun.set()
        assert go_on.wait(30)

    batcher.submit(
        GenerationJob(
            batcher.tokenize_prompt([Text("hold")]), pause_batcher, options_of(max_tokens=1)
        )
    )
    paused.resume()
    assert begun.wait(30)
    n_grown: list[int] = []  # of those that grow, when the first token of one of them comes
    growing: list[GenerationJob] = []
    ended = threading.Semaphore(0)

    def note(job: int, update: object) -> None:
        if update is None:
            ended.release()
        elif growing[job].stats.generated_tokens == 1:
            n_grown.append(max(each.stats.generated_tokens for each in growing))

    for i in range(3):
        tokenized = batcher.tokenize_prompt([Text(f"g{i}")])
        options = options_of(sampling=FOREVER, max_tokens=40)
        growing.append(GenerationJob(tokenized, partial(note, i), options, client=f"g{i}"))
        batcher.submit(growing[-1])
    go_on.set()
    assert all(ended.acquire(timeout=30) for _ in growing)
    # The third one has not waited until another had ended.
    assert len(n_grown) == 3 and max(n_grown) < 10
    for each in long:
        each.tokens()
    batcher.close()


def test_a_long_prompt_counts_before_it_is_read(tiny_llama: Path) -> None:
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=2048)
    try:
        SubmittedJob(batcher, "a" * 300, client="has had some", max_tokens=1).tokens()
        paused = PausedBatcher(batcher)
        long = SubmittedJob(batcher, "b" * 1900, client="has had nothing", max_tokens=1)
        seconds_read: list[float] = []

        def listen(_: object) -> None:
            seconds_read.append(long.job.stats.prompt_seconds)

        tokenized = batcher.tokenize_prompt([Text("short")])
        short = GenerationJob(tokenized, listen, options_of(max_tokens=1), client="has had some")
        batcher.submit(short)
        paused.resume()
        long.tokens()
        assert seconds_read[0] == 0
    finally:
        batcher.close()
