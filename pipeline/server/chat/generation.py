"""An answer of a model, as it is generated."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.batching.generation_job import GenerationJob, GenerationStats, JobUpdate
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.prompt import TokenizedPrompt
from reellama.pipeline.server.chat.answer_timeout import AnswerTimeout
from reellama.pipeline.server.chat.loop_mailbox import LoopMailbox
from reellama.pipeline.server.chat.planned_answers import answer_tokens
from reellama.pipeline.server.loaded_model import LoadedModel
from reellama.pipeline.server.request_context import CLIENT


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt, and how its answer is generated; `visible_special_tokens` as in `GenerationJob`.

    answer: the answer, if it needs no model. own_stop: stop texts of the server, which are not
    reported to the client. footage_caveat: a caveat about answers on these videos, or "". echo:
    tokens of the prompt that come before those of the answer.
    """

    prompt: TokenizedPrompt
    generation_options: GenerationOptions
    visible_special_tokens: tuple[str, ...] = ()
    answer: str | None = None
    own_stop: tuple[str, ...] = ()
    footage_caveat: str = ""
    echo: Sequence[Token] = ()


# All generations of the request that is being answered: the middleware closes them at its end.
REQUEST_GENERATIONS: ContextVar[list[Generation] | None] = ContextVar("generations", default=None)


class Generation:
    """An async iterator of the tokens of an answer. `stats` is complete after the last one.

    Call `aclose` in any case: it ends the generation and calls `release`. After `seconds` the
    generation ends with AnswerTimeout.
    """

    def __init__(
        self,
        release: Callable[[GenerationStats], Awaitable[None]],
        seconds: float | None = None,
    ) -> None:
        self.stats = GenerationStats()
        self._timer: asyncio.TimerHandle | None = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._expire, AnswerTimeout(seconds))
        if (generations := REQUEST_GENERATIONS.get()) is not None:
            generations.append(self)
        self._release = release
        self._job: GenerationJob | None = None
        self._prepared: PreparedPrompt | None = None
        self._updates: asyncio.Queue[JobUpdate] = asyncio.Queue()
        self._echo: deque[Token] = deque()
        self._ids: list[int] = []  # of the tokens so far
        self._done = False

    @property
    def context(self) -> list[int] | None:
        """The token ids of prompt and answer, or None if there are soft tokens among them."""
        keys = self._prepared.prompt.keys if self._prepared is not None else []
        ids = [key for key in keys if isinstance(key, int)]
        end = [] if self.stats.end_token is None else [self.stats.end_token]
        return [*ids, *self._ids, *end] if len(ids) == len(keys) else None

    @property
    def footage_caveat(self) -> str:
        """See `PreparedPrompt`."""
        return self._prepared.footage_caveat if self._prepared is not None else ""

    async def start(
        self,
        loaded: LoadedModel,
        prepared: PreparedPrompt,
        n_ctx: int | None,
    ) -> None:
        """Submit the prompt to the model. Raises ReellamaError if it does not fit."""
        self._prepared = prepared
        self._echo.extend(prepared.echo)
        if prepared.answer is not None:
            self._put_answer(prepared, prepared.answer, loaded.batcher.tokenizer)
            return
        mailbox = LoopMailbox.of(asyncio.get_running_loop())

        def forward(update: JobUpdate) -> None:
            mailbox.put(self._updates.put_nowait, update)

        options = prepared.generation_options
        self._job = GenerationJob(
            prepared.prompt,
            forward,
            replace(options, stop=(*options.stop, *prepared.own_stop)),
            min(n_ctx or loaded.n_ctx, loaded.n_ctx),
            stats=self.stats,
            client=CLIENT.get(),
            visible_special_tokens=prepared.visible_special_tokens,
        )
        job = self._job

        def submit() -> None:
            with loaded.in_use():
                loaded.batcher.submit(job)

        await asyncio.to_thread(submit)  # which parses the grammar

    def _put_answer(self, prepared: PreparedPrompt, answer: str, tokenizer: Tokenizer) -> None:
        """Queue an answer that needs no model, as if the model had generated it."""
        tokens = answer_tokens(answer, tokenizer, prepared.generation_options)
        self.stats.prompt_tokens = len(prepared.prompt.keys)
        self.stats.generated_tokens = len(tokens)
        is_whole = "".join(token.text for token in tokens) == answer
        self.stats.stop_reason = "stop" if is_whole else "length"
        for token in tokens:
            self._updates.put_nowait(token)
        self._updates.put_nowait(None)

    def _expire(self, error: AnswerTimeout) -> None:
        self._updates.put_nowait(error)
        if self._job is not None:
            self._job.cancelled = True

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        if self._echo and not self._done:
            return self._echo.popleft()
        update = None if self._done else await self._updates.get()
        if isinstance(update, Token):
            self._ids.append(update.id)
            return update
        if self._prepared is not None and self.stats.stop_text in self._prepared.own_stop:
            self.stats.stop_text = None
        await self.aclose()
        if update is not None:
            try:
                raise update
            finally:
                del update  # breaks the cycle of the exception and this frame
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the generation, and release the model."""
        if not self._done:
            self._done = True
            if self._timer is not None:
                self._timer.cancel()
            if self._job is not None:
                self._job.cancelled = True
                self._job = None  # breaks the reference cycle of job and generation
            await self._release(self.stats)
