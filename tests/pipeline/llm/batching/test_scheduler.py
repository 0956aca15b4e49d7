"""Places are shared: long answers make room for short ones, and clients have as much as others."""

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
def quick(tiny_llama: Path) -> Iterator[Batcher]:
    batcher = Batcher(tiny_llama, n_parallel=2, n_ctx=2048)
    yield batcher
    batcher.close()


def test_places_are_shared_among_clients(quick: Batcher) -> None:
    def ask(client: str) -> SubmittedJob:
        return SubmittedJob(quick, client, client=client, sampling=FOREVER, max_tokens=-1)

    many = [ask("many") for _ in range(4)]
    assert all(isinstance(each.updates.get(timeout=30), Token) for each in many[:2])
    one = ask("one")
    many[0].job.cancelled = True
    assert isinstance(one.updates.get(timeout=30), Token)
    assert many[2].updates.empty() and many[3].updates.empty()
    for each in (*many, one):
        each.job.cancelled = True
        each.tokens()


def until_its_quantum_is_used(asked: SubmittedJob) -> None:
    """Read its first answer's tokens until it may be preempted."""
    for _ in range(QUANTUM // DECODE_COST + 1):
        assert isinstance(asked.updates.get(timeout=30), Token)


def test_answers_without_end_make_room_for_a_short_one(quick: Batcher) -> None:
    endless = [
        SubmittedJob(quick, f"{i} {'z' * 200}", "one", sampling=FOREVER, max_tokens=-1)
        for i in range(4)
    ]
    for asked in endless[:2]:
        until_its_quantum_is_used(asked)
    for client in ("one", "another"):  # its own short one too
        assert SubmittedJob(quick, "short", client, sampling=FOREVER, max_tokens=3).text()
    assert not any(asked.job.stats.stop_reason for asked in endless)
    for asked in endless:
        asked.job.cancelled = True
        asked.tokens()


def test_long_prompts_make_room_for_a_short_one(quick: Batcher) -> None:
    hold, order = PausedBatcher(quick), CompletionOrder(quick)
    for i in range(4):
        order.ask(f"long {i}", f"{i}" * 1900, client=f"{i}")
    order.ask("short", "short", client="5")
    hold.resume()
    assert order.names()[0] == "short"


@pytest.mark.parametrize("seen", [False, True], ids=["text", "soft tokens"])
def test_a_preempted_answer_goes_on_as_if_nothing_had_been(tiny_llama: Path, seen: bool) -> None:
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=1024)
    try:
        with Engine(tiny_llama, n_ctx=1024) as alone:
            prompt = soft_prompt(alone) if seen else [Text("A long text. " * 5)]
            options: dict[str, Any] = {"sampling": FOREVER, "max_tokens": 800, "n_probs": 1}
            long = SubmittedJob(batcher, prompt, "long", **options)
            tokens: list[Any] = []
            for n in (100, 20, 20):
                tokens += [long.updates.get(timeout=30) for _ in range(n)]
                short = SubmittedJob(batcher, "short", max_tokens=2, sampling=FOREVER)
                assert len(short.tokens()) == 2
                assert long.job.stats.stop_reason is None
            tokens += long.tokens()
            found = np.log([token.p for token in tokens])
            assert np.abs(found - likelihoods(alone, prompt, tokens)).max() < ROUNDING / 2
            stats = long.job.stats
            assert stats.prompt_tokens == len(batcher.tokenize_prompt(prompt).keys)
            assert stats.generated_tokens == len(tokens) == 800
    finally:
        batcher.close()


def test_a_client_that_has_had_less_comes_first(tiny_llama: Path) -> None:
    batcher = Batcher(tiny_llama, n_parallel=1, n_ctx=2048)
    try:
        hold, order = PausedBatcher(batcher), CompletionOrder(batcher)
        order.ask("first", "a" * 300, client="one")
        order.ask("second", "b", client="one")
        order.ask("other", "c" * 100, client="another")
        hold.resume()
        assert order.names() == ["first", "other", "second"]
    finally:
        batcher.close()
