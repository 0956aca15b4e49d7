"""Jobs of a batcher: their updates, the order in which they end, and a batcher that is paused."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np

from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.batching.generation_job import GenerationJob, JobUpdate
from reellama.pipeline.llm.engine import Engine, Text, Token
from reellama.pipeline.llm.generation_options import GenerationOptions


def options_of(**options: Any) -> GenerationOptions:
    return GenerationOptions(**{"max_tokens": 12, "n_probs": 0, **options})


class SubmittedJob:
    """A job and its updates."""

    def __init__(self, batcher: Batcher, prompt: Any, client: str = "", **options: Any) -> None:
        parts = [Text(prompt)] if isinstance(prompt, str) else prompt
        self.updates: queue.Queue[JobUpdate] = queue.Queue()
        tokenized = batcher.tokenize_prompt(parts)
        self.job = GenerationJob(tokenized, self.updates.put, options_of(**options), client=client)
        batcher.submit(self.job)

    def tokens(self) -> list[Token]:
        tokens = []
        while (update := self.updates.get(timeout=30)) is not None:
            if isinstance(update, Exception):
                raise update
            tokens.append(update)
        return tokens

    def text(self) -> str:
        return "".join(token.text for token in self.tokens())


def likelihoods(engine: Engine, prompt: Any, tokens: list[Token]) -> np.ndarray:
    """The log-probability of each of an answer's tokens, by the engine alone."""
    parts = [Text(prompt)] if isinstance(prompt, str) else prompt
    [logprobs] = engine.logprobs(parts, [[token.id for token in tokens]])
    return logprobs


def soft_prompt(engine: Engine) -> list[Any]:
    """A prompt with rows of the model's own embeddings between its texts."""
    rows = np.random.default_rng(0).normal(0, 0.03, (40, engine.n_embd)).astype(np.float32)
    return [Text("Look: "), rows, Text(" What is it? It is")]


class PausedBatcher:
    """Pauses a batcher's thread until `resume`, so that jobs come together, in a known order.

    A job of its own, which takes a sequence and a step, blocks the thread in its callback.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._held, self._free = threading.Event(), threading.Event()
        tokenized = batcher.tokenize_prompt([Text("hold")])
        batcher.submit(
            GenerationJob(tokenized, self._wait, options_of(max_tokens=1), client="holder")
        )
        assert self._held.wait(30)

    def _wait(self, _: object) -> None:
        self._held.set()
        assert self._free.wait(30)

    def resume(self) -> None:
        self._free.set()


class CompletionOrder:
    """Answers of a token each, and the order in which they end."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._ends: queue.Queue[str] = queue.Queue()
        self._n = 0

    def ask(self, name: str, prompt: str, client: str) -> None:
        def note_end(update: JobUpdate) -> None:
            if not isinstance(update, Token):
                self._ends.put(name)

        tokenized = self._batcher.tokenize_prompt([Text(prompt)])
        job = GenerationJob(tokenized, note_end, options_of(max_tokens=1), client=client)
        self._batcher.submit(job)
        self._n += 1

    def names(self) -> list[str]:
        return [self._ends.get(timeout=60) for _ in range(self._n)]
