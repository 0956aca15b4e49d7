"""A model in memory, and the requests and threads that use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from reellama.gguf_tools.atomic_write import stamp
from reellama.pipeline.llm.batching.batcher import Batcher, check_fits
from reellama.pipeline.llm.batching.generation_job import Stopped
from reellama.pipeline.llm.scoring.prompt_scorer import PromptScorer
from reellama.pipeline.llm.scoring.token_scorer import Token
from reellama.pipeline.llm.text_embedding import TextEmbedder
from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
from reellama.pipeline.server.keep_alive import MAX_KEEP_ALIVE_SECONDS

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle

FOR_EVER = timedelta(seconds=MAX_KEEP_ALIVE_SECONDS)

# The files that a model is loaded from, each with its stamp, and with its scale where it has one.
Key = tuple[tuple[Path, tuple[int, int], float | None], ...]


@dataclass(eq=False)
class LoadedModel:
    """A model in memory. `users` counts the requests that are using it.

    A thread may still use the model for a request that was cancelled, which is no longer a user.
    Such a thread holds `in_use`, and `close` waits for it.
    """

    name: str
    key: Key
    batcher: Batcher
    load_seconds: float
    keep_alive: float
    users: int = 0
    last_used_at: float = field(default_factory=time.monotonic)
    embedder: TextEmbedder | None = None
    scorer: PromptScorer | None = None
    # They encode pictures and videos for the model: several where one LLM has several names. Weak,
    # so that a bundle whose files changed goes once it was opened anew and no request uses it.
    bundles: WeakSet[VideoBundle] = field(default_factory=WeakSet)
    _n_threads: int = 0  # in `in_use`
    _released: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _embedding: FairThreadPool = field(default_factory=lambda: FairThreadPool("embedding"))
    _scoring: FairThreadPool = field(default_factory=lambda: FairThreadPool("scoring"))

    @property
    def n_ctx(self) -> int:
        """Positions of one answer."""
        return self.batcher.n_ctx

    @property
    def expires_at(self) -> datetime:
        """When the model is unloaded if it is not used until then."""
        seconds_left = self.keep_alive - (time.monotonic() - self.last_used_at)
        time_left = FOR_EVER if self.keep_alive < 0 else timedelta(seconds=max(seconds_left, 0))
        return datetime.now(timezone.utc) + time_left

    @property
    def expired(self) -> bool:
        """Whether the model may be unloaded: it was not used for `keep_alive` seconds."""
        is_kept = self.keep_alive < 0 or time.monotonic() - self.last_used_at < self.keep_alive
        return not (self.users or is_kept)

    @property
    def files_changed(self) -> bool:
        """Whether any file of the model was written since it was loaded."""
        return any(stamp(path) != before for path, before, _ in self.key)

    async def embed(self, text: str | list[int], truncate: bool) -> tuple[list[float], int]:
        """See `TextEmbedder.embed`. Clients take turns, a text each."""

        def embed_in_thread() -> tuple[list[float], int]:
            with self.in_use():
                if self.embedder is None:
                    n_ctx = min(2048, self.n_ctx)
                    self.embedder = TextEmbedder(self.batcher.model, self.batcher.tokenizer, n_ctx)
                return self.embedder.embed(text, truncate=truncate)

        return await self._embedding.run(embed_in_thread)

    async def score(self, ids: Sequence[int], n_probs: int) -> list[Token]:
        """See `PromptScorer.score`. Clients take turns, a prompt each.

        Raises ReellamaError for a prompt that does not fit the context.
        """
        check_fits(len(ids), self.n_ctx)
        is_given_up = threading.Event()

        def check() -> None:
            if self._closed or is_given_up.is_set():
                raise Stopped

        def score_in_thread() -> list[Token]:
            with self.in_use():
                if self.scorer is None:
                    batcher = self.batcher
                    self.scorer = PromptScorer(
                        batcher.model, batcher.tokenizer, self.n_ctx, batcher.lora
                    )
                return self.scorer.score(ids, n_probs, check)

        try:
            return await self._scoring.run(score_in_thread)
        finally:
            is_given_up.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model in memory while a thread uses it. Raises Stopped after `close`."""
        with self._released:
            if self._closed:
                raise Stopped
            self._n_threads += 1
        try:
            yield
        finally:
            with self._released:
                self._n_threads -= 1
                self._released.notify_all()

    def close(self) -> None:
        """Free the model's memory once no thread uses it."""
        with self._released:
            self._closed = True
        self._embedding.close()
        self._scoring.close()
        if self.embedder is not None:
            self.embedder.close()  # a text that is being embedded ends with an error
        with self._released:
            self._released.wait_for(lambda: not self._n_threads)
        if self.embedder is not None:  # one that was created meanwhile
            self.embedder.close()
        if self.scorer is not None:
            self.scorer.close()
        self.batcher.close()
