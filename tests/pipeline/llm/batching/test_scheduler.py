"""Sequences are shared: long answers give way to short ones, and every client gets its share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.batching.scheduler import QUANTUM
from reellama.pipeline.llm.batching.step_planner import DECODE_COST
from reellama.pipeline.llm.engine import Engine, Text, Token
from tests.helpers.batched_jobs import (
    CompletionOrder,
    PausedBatcher,
    SubmittedJob,
    likelihoods,
    soft_prompt,
)
from tests.helpers.forced_sampling import FOREVER, ROUNDING

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def tiny_batcher(tiny_llama: Path) -> Iterator[Batcher]:
    batcher = Batcher(tiny_llama, n_parallel=2, n_ctx=2048)
    yield batcher
    batcher.close()


def test_sequences_are_shared_among_clients(tiny_batcher: Batcher) -> None:
    def ask(client: str) -> SubmittedJob:
        return SubmittedJob(tiny_batcher, client, client=client, sampling=FOREVER, max_tokens=-1)

    many = [ask("many") for _ in range(4)]
    assert all(isinstance(each.updates.get(timeout=30), Token) for each in many[:2])
    one = ask("one")
    many[0].job.cancelled = True
    assert isinstance(one.updates.get(timeout=30), Token)
    assert many[2].updates.empty() and many[3].updates.empty()
    for each in (*many, one):
        each.job.cancelled = True
        each.tokens()


def read_until_preemptible(submitted: SubmittedJob) -> None:
    """Read its first answer's tokens until it may be preempted."""
    for _ in range(QUANTUM // DECODE_COST + 1):
        assert isinstance(submitted.updates.get(timeout=30), Token)


def test_answers_without_end_make_room_for_a_short_one(tiny_batcher: Batcher) -> None:
    endless = [
        SubmittedJob(tiny_batcher, f"{i} {'z' * 200}", "one", sampling=FOREVER, max_tokens=-1)
        for i in range(4)
    ]
    for submitted in endless[:2]:
        read_until_preemptible(submitted)
    for client in ("one", "another"):  # its own short one too
        assert SubmittedJob(tiny_batcher, "short", client, sampling=FOREVER, max_tokens=3).text()
    assert not any(submitted.job.stats.stop_reason for submitted in endless)
    for submitted in endless:
        submitted.job.cancelled = True
        submitted.tokens()


def test_long_prompts_make_room_for_a_short_one(tiny_batcher: Batcher) -> None:
    paused, order = PausedBatcher(tiny_batcher), CompletionOrder(tiny_batcher)
    for i in range(4):
        order.ask(f"long {i}", f"{i}" * 1900, client=f"{i}")
    order.ask("short", "short", client="5")
    paused.resume()
    assert order.names()[0] == "short"


@pytest.mark.parametrize("with_soft_tokens", [False, True], ids=["text", "soft tokens"])
def test_a_preempted_answer_goes_on_as_if_nothing_had_been(
    tiny_llama: Path, with_soft_tokens: bool
) -> None:
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=1024)
    try:
        with Engine(tiny_llama, n_ctx=1024) as alone:
            prompt = soft_prompt(alone) if with_soft_tokens else [Text("A long text. " * 5)]
            options: dict[str, Any] = {"sampling": FOREVER, "max_tokens": 800, "n_probs": 1}
            long = SubmittedJob(batcher, prompt, "long", **options)
            tokens: list[Any] = []
            for n in (100, 20, 20):
                tokens += [long.updates.get(timeout=30) for _ in range(n)]
                short = SubmittedJob(batcher, "short", max_tokens=2, sampling=FOREVER)
                assert len(short.tokens()) == 2
                assert long.job.stats.stop_reason is None
            tokens += long.tokens()
            logprobs = np.log([token.p for token in tokens])
            assert np.abs(logprobs - likelihoods(alone, prompt, tokens)).max() < ROUNDING / 2
            stats = long.job.stats
            assert stats.prompt_tokens == len(batcher.tokenize_prompt(prompt).keys)
            assert stats.generated_tokens == len(tokens) == 800
    finally:
        batcher.close()


def test_a_client_that_has_had_less_comes_first(tiny_llama: Path) -> None:
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=2048)
    try:
        paused, order = PausedBatcher(batcher), CompletionOrder(batcher)
        order.ask("first", "a" * 300, client="one")
        order.ask("second", "b", client="one")
        order.ask("other", "c" * 100, client="another")
        paused.resume()
        assert order.names() == ["first", "other", "second"]
    finally:
        batcher.close()
