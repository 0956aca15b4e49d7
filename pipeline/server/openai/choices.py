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
        found = await asyncio.gather(*works, return_exceptions=True)
        answers = [each for each in found if isinstance(each, ChatAnswer)]
        error = next((each for each in found if isinstance(each, BaseException)), None)
        choices = cls(answers, per_prompt)
        if error is not None:
            await choices.aclose()
            try:
                raise error
            finally:
                del error, found  # the error has this frame
        return choices

    @property
    def stats(self) -> GenerationStats:
        """Token counts of all answers together; each prompt counts once."""
        prompts = [each.stats for each in self.answers[:: self._per_prompt]]
        return GenerationStats(
            prompt_tokens=sum(each.prompt_tokens for each in prompts),
            reused_tokens=sum(each.reused_tokens for each in prompts),
            generated_tokens=sum(each.stats.generated_tokens for each in self.answers),
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

        self._readers = [asyncio.create_task(read(*each)) for each in enumerate(self.answers)]
        left = len(self.answers)
        while left:
            found = await updates.get()
            if isinstance(found, Exception):
                try:
                    raise found
                finally:
                    del found  # the error has this frame
            left -= found[1] is None
            yield found

    async def aclose(self) -> None:
        """End the answers."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for answer in self.answers:
            await answer.aclose()
