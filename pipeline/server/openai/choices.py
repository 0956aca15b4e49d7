"""Several answers to one request: OpenAI's choices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent
from reellama.pipeline.server.chat.chat_answer import ChatAnswer

# The index of a choice, and an event of its answer; None is its end.
ChoiceEvent = tuple[int, AnswerEvent | None]


class Choices:
    """Answers that are generated in parallel. Call `aclose` in any case: it ends them.

    n_per_prompt: how many answers each prompt has, which are neighbours in `answers`.
    """

    def __init__(self, answers: Sequence[ChatAnswer], n_per_prompt: int) -> None:
        self.answers, self._n_per_prompt = answers, n_per_prompt
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, answering: Sequence[Awaitable[ChatAnswer]], n_per_prompt: int) -> Choices:
        """Start all answers. If one cannot start, the others are closed and its error is raised."""
        outcomes = await asyncio.gather(*answering, return_exceptions=True)
        answers = [outcome for outcome in outcomes if isinstance(outcome, ChatAnswer)]
        error = next((o for o in outcomes if isinstance(o, BaseException)), None)
        choices = cls(answers, n_per_prompt)
        if error is not None:
            await choices.aclose()
            try:
                raise error
            finally:
                del error, outcomes  # breaks the cycle of the exception and this frame
        return choices

    @property
    def stats(self) -> GenerationStats:
        """Token counts of all answers together; each prompt counts once."""
        first_stats = [answer.stats for answer in self.answers[:: self._n_per_prompt]]
        return GenerationStats(
            prompt_tokens=sum(stats.prompt_tokens for stats in first_stats),
            reused_tokens=sum(stats.reused_tokens for stats in first_stats),
            generated_tokens=sum(answer.stats.generated_tokens for answer in self.answers),
        )

    async def events(self) -> AsyncGenerator[ChoiceEvent, None]:
        """The events of all answers, as they come."""
        if len(self.answers) == 1:
            async for event in self.answers[0]:
                yield 0, event
            yield 0, None
            return
        updates: asyncio.Queue[ChoiceEvent | Exception] = asyncio.Queue()

        async def read(index: int, answer: ChatAnswer) -> None:
            try:
                async for event in answer:
                    updates.put_nowait((index, event))
                updates.put_nowait((index, None))
            except Exception as error:  # noqa: BLE001  # the loop below raises it
                updates.put_nowait(error)

        self._readers = [
            asyncio.create_task(read(i, answer)) for i, answer in enumerate(self.answers)
        ]
        n_unfinished = len(self.answers)
        while n_unfinished:
            update = await updates.get()
            if isinstance(update, Exception):
                try:
                    raise update
                finally:
                    del update  # breaks the cycle of the exception and this frame
            n_unfinished -= update[1] is None
            yield update

    async def aclose(self) -> None:
        """End all answers."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for answer in self.answers:
            await answer.aclose()
