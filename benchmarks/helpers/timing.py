"""Clocks, actions in turns, and the speed of an engine, for benchmarks that compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from reellama.pipeline.llm.engine import Engine, Text

T = TypeVar("T")

PROMPT = "Once upon a time there was a small fox who lived in a forest. "


class Clock:
    """Seconds on the wall, or of processor time where `now` is set to that."""

    now = staticmethod(time.perf_counter)


def in_turns(repeats: int, *actions: Callable[[], T]) -> list[tuple[T, ...]]:
    """What the actions give in each round, every other one the other way round; one to warm up."""
    rounds = []
    for number in range(repeats + 1):
        order = range(len(actions)) if number % 2 else reversed(range(len(actions)))
        found = {i: actions[i]() for i in order}
        rounds.append(tuple(found[i] for i in range(len(actions))))
    return rounds[1:]


def generation_speed(
    engine: Engine,
    n_tokens: int,
    *,
    now: Callable[[], float] = time.perf_counter,
    seconds: float = float("inf"),
) -> float:
    """Tokens a second, the prompt not counted: of `n_tokens`, or of those within some seconds."""
    engine.clear()
    engine.prefill([Text(PROMPT)])
    n, begin = 0, now()
    for _ in engine.generate([Text(PROMPT)], max_tokens=n_tokens, n_probs=0):
        n += 1
        if now() - begin > seconds:
            break
    return n / (now() - begin)
