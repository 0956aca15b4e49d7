"""An answer as blocks that follow one another: reasoning, words, calls of tools.

Anthropic's messages and OpenAI's responses are made of these; each protocol writes them in its own
events.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field
from typing import Literal

from reellama.pipeline.llm.token_scorer import Token
from reellama.pipeline.llm.tool_calls.answer_events import (
    AnswerEvent,
    CallDelta,
    ReasoningDelta,
    TextDelta,
)

BlockKind = Literal["text", "reasoning", "call"]


@dataclass
class AnswerBlock:
    """A block as far as it has come; `call_id` and `name` are those of a call.

    `text` is also the JSON text of a call's arguments.
    """

    kind: BlockKind
    index: int
    call_id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the block so far."""
        return "".join(self.parts)


@dataclass(frozen=True)
class BlockEvent:
    """An event of a block: its start, more text from tokens, or its end."""

    what: Literal["start", "delta", "stop"]
    block: AnswerBlock
    text: str = ""
    tokens: tuple[Token, ...] = ()


async def block_events(answer: AsyncIterable[AnswerEvent]) -> AsyncGenerator[BlockEvent, None]:
    """The answer's pieces as events of its blocks. An answer of nothing is one block of words."""
    block: AnswerBlock | None = None
    n_blocks, call = 0, None
    async for piece in answer:
        kind = _kind(piece)
        number = piece.index if isinstance(piece, CallDelta) else None
        if block is None or block.kind != kind or call != number:
            if block is not None:
                yield BlockEvent("stop", block)
            block, call, n_blocks = _begun(piece, kind, n_blocks), number, n_blocks + 1
            yield BlockEvent("start", block)
        text = piece.arguments if isinstance(piece, CallDelta) else piece.text
        tokens = () if isinstance(piece, CallDelta) else piece.tokens
        block.parts.append(text)
        block.tokens += tokens
        if text or tokens:
            yield BlockEvent("delta", block, text, tokens)
    if block is None:
        block = AnswerBlock("text", 0)
        yield BlockEvent("start", block)
    yield BlockEvent("stop", block)


async def whole_blocks(answer: AsyncIterable[AnswerEvent]) -> list[AnswerBlock]:
    """All blocks of an answer."""
    return [event.block async for event in block_events(answer) if event.what == "stop"]


def _kind(piece: AnswerEvent) -> BlockKind:
    if isinstance(piece, TextDelta):
        return "text"
    return "reasoning" if isinstance(piece, ReasoningDelta) else "call"


def _begun(piece: AnswerEvent, kind: BlockKind, index: int) -> AnswerBlock:
    if isinstance(piece, CallDelta):
        return AnswerBlock(kind, index, piece.id, piece.name)
    return AnswerBlock(kind, index)
