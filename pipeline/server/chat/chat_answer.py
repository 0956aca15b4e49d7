"""The answer in a chat, as it is generated: text, reasoning and tool calls."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent, TextDelta
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.server.chat.generation import Generation


class ChatAnswer:
    """An async iterator of events. `stats` and `finish_reason` are complete after the last.

    Without a parser every token is text. Call `aclose` in any case: it ends the generation.
    """

    def __init__(self, generation: Generation, parser: AnswerParser | None = None) -> None:
        self._generation, self._parser = generation, parser
        self._events: deque[AnswerEvent] = deque()
        self._finished = False

    @property
    def stats(self) -> GenerationStats:
        """Token counts and timings."""
        return self._generation.stats

    @property
    def context(self) -> list[int] | None:
        """The token ids of prompt and answer, or None if there are soft tokens among them."""
        return self._generation.context

    @property
    def footage_caveat(self) -> str:
        """What a person should know of answers about these videos, or ""."""
        return self._generation.footage_caveat

    @property
    def finish_reason(self) -> str:
        """ "stop", "length", or "tool_calls" if the answer has whole calls of tools."""
        reason = self.stats.stop_reason or "stop"
        has_calls = self._parser is not None and self._parser.n_ended_calls
        return "tool_calls" if has_calls and reason == "stop" else reason

    def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        return self

    async def __anext__(self) -> AnswerEvent:
        parser = self._parser
        if parser is None:
            token = await anext(self._generation)
            return TextDelta(token.text, (token,))
        while not self._events and not self._finished:
            try:
                token = await anext(self._generation)
                self._events += parser.push(token.text, token)
            except StopAsyncIteration:
                self._finished = True
                self._events += parser.finish(cut=self.stats.stop_reason == "length")
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    async def aclose(self) -> None:
        """End the generation."""
        await self._generation.aclose()
