"""A model in memory, and the requests and threads that use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from reellama.gguf_tools.atomic_write import stamp
from reellama.pipeline.llm.batching.batcher import Batcher
from reellama.pipeline.llm.batching.generation_job import Stopped
from reellama.pipeline.llm.text_embedding import TextEmbedder
from reellama.pipeline.server.admission.work_threads import WorkThreads
from reellama.pipeline.server.keep_alive import MAX_KEEP_ALIVE_SECONDS

FOR_EVER = timedelta(seconds=MAX_KEEP_ALIVE_SECONDS)

# The files that a model is loaded from, each with its stamp, and with its scale where it has one.
Key = tuple[tuple[Path, tuple[int, int], float | None], ...]


@dataclass(eq=False)
class LoadedModel:
    """A model in memory. `users` counts the requests that are using it.

    A request that its client gave up is no user any more, while a thread still works for it: such a
    thread uses the model (`in_use`), and `close` waits for it.
    """

    name: str
    key: Key
    batcher: Batcher
    load_seconds: float
    keep_alive: float
    users: int = 0
    last_used_at: float = field(default_factory=time.monotonic)
    embedder: TextEmbedder | None = None
    _n_working: int = 0  # threads
    _released: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _embedding: WorkThreads = field(default_factory=lambda: WorkThreads("embedding"))

    @property
    def n_ctx(self) -> int:
        """Positions of one answer."""
        return self.batcher.n_ctx

    @property
    def expires_at(self) -> datetime:
        """When the model is unloaded, unless it is used before."""
        left = self.keep_alive - (time.monotonic() - self.last_used_at)
        lasts = FOR_EVER if self.keep_alive < 0 else timedelta(seconds=max(left, 0))
        return datetime.now(timezone.utc) + lasts

    @property
    def expired(self) -> bool:
        """Whether the model may be unloaded: unused for as long as it is kept."""
        kept = self.keep_alive < 0 or time.monotonic() - self.last_used_at < self.keep_alive
        return not (self.users or kept)

    @property
    def files_changed(self) -> bool:
        """Whether any file of the model was written since it was loaded."""
        return any(stamp(path) != before for path, before, _ in self.key)

    async def embed(self, text: str | list[int], truncate: bool) -> tuple[list[float], int]:
        """See `TextEmbedder.embed`. Texts of several requests come by turns."""

        def work() -> tuple[list[float], int]:
            with self.in_use():
                if self.embedder is None:
                    n_ctx = min(2048, self.n_ctx)
                    self.embedder = TextEmbedder(self.batcher.model, self.batcher.tokenizer, n_ctx)
                return self.embedder.embed(text, truncate=truncate)

        return await self._embedding.run(work)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model in memory meanwhile: for work in a thread.

        Raises Stopped after `close`.
        """
        with self._released:
            if self._closed:
                raise Stopped
            self._n_working += 1
        try:
            yield
        finally:
            with self._released:
                self._n_working -= 1
                self._released.notify_all()

    def close(self) -> None:
        """Free the model's memory, once no thread works with it."""
        with self._released:
            self._closed = True
        self._embedding.close()
        if self.embedder is not None:
            self.embedder.close()  # what it embeds ends
        with self._released:
            self._released.wait_for(lambda: not self._n_working)
        if self.embedder is not None:  # one that was made meanwhile
            self.embedder.close()
        self.batcher.close()
