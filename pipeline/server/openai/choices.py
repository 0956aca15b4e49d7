"""Several answers to one request, which OpenAI calls its choices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent
from reellama.pipeline.server.chat.chat_answer import ChatAnswer

# The number of a choice, and a piece of it; None is its end.
ChoiceEvent = tuple[int, AnswerEvent | None]


class Choices:
    """Answers that are written side by side. `aclose` ends them; call it in any case.

    per_prompt: how many answers each prompt has; they follow one another in `answers`.
    """

    def __init__(self, answers: Sequence[ChatAnswer], per_prompt: int) -> None:
        self.answers, self._per_prompt = answers, per_prompt
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    async def started(cls, works: Sequence[Awaitable[ChatAnswer]], per_prompt: int) -> Choices:
        """Answers that have begun. Where one cannot, none goes on, and its error is raised."""
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        answers = [outcome for outcome in outcomes if isinstance(outcome, ChatAnswer)]
        error = next((o for o in outcomes if isinstance(o, BaseException)), None)
        choices = cls(answers, per_prompt)
        if error is not None:
            await choices.aclose()
            try:
                raise error
            finally:
                del error, outcomes  # the error has this frame
        return choices

    @property
    def stats(self) -> GenerationStats:
        """Token counts of all answers together; each prompt counts once."""
        first_stats = [answer.stats for answer in self.answers[:: self._per_prompt]]
        return GenerationStats(
            prompt_tokens=sum(stats.prompt_tokens for stats in first_stats),
            reused_tokens=sum(stats.reused_tokens for stats in first_stats),
            generated_tokens=sum(answer.stats.generated_tokens for answer in self.answers),
        )

    async def events(self) -> AsyncGenerator[ChoiceEvent, None]:
        """The pieces of all, as they come."""
        if len(self.answers) == 1:
            async for event in self.answers[0]:
                yield 0, event
            yield 0, None
            return
        updates: asyncio.Queue[ChoiceEvent | Exception] = asyncio.Queue()

        async def read(number: int, answer: ChatAnswer) -> None:
            try:
                async for event in answer:
                    updates.put_nowait((number, event))
                updates.put_nowait((number, None))
            except Exception as error:  # noqa: BLE001  # it is raised where the pieces are read
                updates.put_nowait(error)

        self._readers = [
            asyncio.create_task(read(i, answer)) for i, answer in enumerate(self.answers)
        ]
        left = len(self.answers)
        while left:
            update = await updates.get()
            if isinstance(update, Exception):
                try:
                    raise update
                finally:
                    del update  # the error has this frame
            left -= update[1] is None
            yield update

    async def aclose(self) -> None:
        """End the answers."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for answer in self.answers:
            await answer.aclose()
