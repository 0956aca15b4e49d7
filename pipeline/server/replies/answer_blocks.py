"""An answer as a sequence of blocks: text, reasoning, tool calls.

Anthropic's Messages and OpenAI's Responses are made of blocks; each protocol has its own events.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field
from typing import Literal

from reellama.pipeline.llm.scoring.token_scorer import Token
from reellama.pipeline.llm.tool_calls.answer_events import (
    AnswerEvent,
    CallDelta,
    ReasoningDelta,
    TextDelta,
)
from reellama.pipeline.server.chat.chat_answer import ChatAnswer

BlockKind = Literal["text", "reasoning", "call"]


@dataclass
class AnswerBlock:
    """A block, as far as it was generated; `call_id` and `name` are those of a tool call.

    `text` is also the JSON text of a call's arguments. is_unfinished: whether the end of a call has
    not come.
    """

    kind: BlockKind
    index: int
    call_id: str = ""
    name: str = ""
    is_unfinished: bool = False
    parts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the block so far."""
        return "".join(self.parts)


@dataclass(frozen=True)
class BlockEvent:
    """The start of a block, more of its text and tokens, or its end."""

    type: Literal["start", "delta", "stop"]
    block: AnswerBlock
    text: str = ""
    tokens: tuple[Token, ...] = ()


async def block_events(answer: AsyncIterable[AnswerEvent]) -> AsyncGenerator[BlockEvent, None]:
    """The events of an answer's blocks. An empty answer is one block of text."""
    block: AnswerBlock | None = None
    n_blocks, call_index = 0, None
    async for event in answer:
        kind = _kind(event)
        index = event.index if isinstance(event, CallDelta) else None
        if block is None or block.kind != kind or call_index != index:
            if block is not None:
                yield BlockEvent("stop", block)
            block, call_index, n_blocks = _new_block(event, kind, n_blocks), index, n_blocks + 1
            yield BlockEvent("start", block)
        text = event.arguments if isinstance(event, CallDelta) else event.text
        tokens = () if isinstance(event, CallDelta) else event.tokens
        if isinstance(event, CallDelta) and event.done:
            block.is_unfinished = False
        block.parts.append(text)
        block.tokens += tokens
        if text or tokens:
            yield BlockEvent("delta", block, text, tokens)
    if block is None:
        block = AnswerBlock("text", 0)
        yield BlockEvent("start", block)
    yield BlockEvent("stop", block)


async def whole_blocks(answer: ChatAnswer) -> list[AnswerBlock]:
    """All blocks of an answer, without calls that the model itself left unfinished."""
    blocks = [event.block async for event in block_events(answer) if event.type == "stop"]
    if answer.finish_reason == "length":
        return blocks
    return [block for block in blocks if not block.is_unfinished] or [AnswerBlock("text", 0)]


def _kind(event: AnswerEvent) -> BlockKind:
    if isinstance(event, TextDelta):
        return "text"
    return "reasoning" if isinstance(event, ReasoningDelta) else "call"


def _new_block(event: AnswerEvent, kind: BlockKind, index: int) -> AnswerBlock:
    if isinstance(event, CallDelta):
        return AnswerBlock(kind, index, event.id, event.name, is_unfinished=True)
    return AnswerBlock(kind, index)
