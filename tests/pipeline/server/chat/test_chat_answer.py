"""The ends of answers: which calls of tools count, and which whole answers hand on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.llm.tool_calls.tool_forms import FORMS
from reellama.pipeline.server.anthropic import messages_replies
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.openai import openai_replies
from reellama.pipeline.server.replies.answer_blocks import whole_blocks

TOOL = Tool("f", {"type": "object", "properties": {"s": {"type": "string"}}}, {})


class FakeGeneration:
    """The tokens of a text, which end for this reason."""

    def __init__(self, text: str, reason: str) -> None:
        self.stats = GenerationStats()
        self._text, self._reason = text, reason

    async def __anext__(self) -> Token:
        if not self._text:
            self.stats.stop_reason = self._reason
            raise StopAsyncIteration
        character, self._text = self._text[0], self._text[1:]
        return Token(0, character, 1.0, [])

    def __aiter__(self) -> AsyncIterator[Token]:
        return self


def answer_of(text: str, reason: str) -> ChatAnswer:
    parser = AnswerParser(FORMS["glm"], tools=[TOOL])
    return ChatAnswer(cast(Any, FakeGeneration(text, reason)), parser)


@pytest.mark.parametrize(
    ("text", "reason", "told"),
    [
        ("</arg_value></tool_call>", "stop", ("tool_calls", "tool_use", ['{"s": "Rome"}'])),
        ("</arg_value></tool_cal", "stop", ("tool_calls", "tool_use", ['{"s": "Rome"}'])),
        ("", "stop", ("stop", "end_turn", [])),
        ("", "length", ("length", "max_tokens", ['{"s": "Rome'])),
    ],
)
def test_only_a_call_that_the_limit_cuts_comes_unfinished(
    text: str, reason: str, told: tuple[str, str, list[str]]
) -> None:
    text = f"<tool_call>f<arg_key>s</arg_key><arg_value>Rome{text}"
    finish, stop, arguments = told

    async def read() -> None:
        answer = answer_of(text, reason)
        blocks = await whole_blocks(answer)
        message = messages_replies.message("m", blocks, answer)
        assert answer.finish_reason == finish and message["stop_reason"] == stop
        assert [block.text for block in blocks if block.kind == "call"] == arguments
        assert blocks  # an answer without anything has one empty text

    asyncio.run(read())


def test_a_message_has_no_calls_without_an_end() -> None:
    events = asyncio.run(_events("<tool_call>f<arg_key>s</arg_key><arg_value>Rome"))
    assert events
    assert openai_replies.without_unfinished_calls(events) == []
    events = asyncio.run(_events("Hm.<tool_call>f<arg_key>s</arg_key><arg_value>Rome</arg_value>"))
    assert openai_replies.without_unfinished_calls(events) == events


async def _events(text: str) -> list[Any]:
    return [event async for event in answer_of(text, "stop")]
