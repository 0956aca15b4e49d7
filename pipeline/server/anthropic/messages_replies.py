"""Replies of Anthropic's Messages API: whole messages, and the events of a stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.server.anthropic.messages_schemas import call_input
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.replies.answer_blocks import AnswerBlock, BlockEvent
from reellama.pipeline.server.replies.event_streams import sse_event

STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


def message(model: str, blocks: list[AnswerBlock], answer: ChatAnswer) -> dict[str, Any]:
    """The whole reply."""
    return {
        **_message_head(model),
        "content": [_content(block, whole=True) for block in blocks],
        **_stop_fields(answer),
        "usage": {**_prompt_usage(answer.stats), "output_tokens": answer.stats.generated_tokens},
    }


async def message_events(
    model: str, events: AsyncIterator[BlockEvent], answer: ChatAnswer
) -> AsyncIterator[str]:
    """The events of a stream."""
    opening = {**_message_head(model), "content": [], "stop_reason": None, "stop_sequence": None}
    usage = {**_prompt_usage(answer.stats), "output_tokens": 0}
    yield _event("message_start", {"message": {**opening, "usage": usage}})
    async for event in events:
        index = {"index": event.block.index}
        if event.type == "start":
            yield _event(
                "content_block_start",
                {**index, "content_block": _content(event.block, whole=False)},
            )
        elif event.type == "delta":
            kind, key = DELTAS[event.block.kind]
            if event.text:
                delta = {"type": kind, key: event.text}
                yield _event("content_block_delta", {**index, "delta": delta})
        else:
            yield _event("content_block_stop", index)
    usage = {"output_tokens": answer.stats.generated_tokens}
    yield _event("message_delta", {"delta": _stop_fields(answer), "usage": usage})
    yield _event("message_stop", {})


def _event(name: str, data: dict[str, Any]) -> str:
    """A server-sent event, whose name is also the type in its data."""
    return sse_event({"type": name, **data}, name)


def _message_head(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
    }


def _prompt_usage(stats: GenerationStats) -> dict[str, int]:
    """Counts of the prompt's tokens: those that were read, and those from the KV cache."""
    return {
        "input_tokens": stats.prompt_tokens - stats.reused_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": stats.reused_tokens,
    }


def _stop_fields(answer: ChatAnswer) -> dict[str, Any]:
    text = answer.stats.stop_text
    reason = STOP_REASONS.get(answer.finish_reason, "end_turn")
    is_stop_text = text is not None and reason == "end_turn"
    return {"stop_reason": "stop_sequence" if is_stop_text else reason, "stop_sequence": text}


def _content(block: AnswerBlock, *, whole: bool) -> dict[str, Any]:
    text = block.text if whole else ""
    if block.kind == "call":
        call = {"id": block.call_id, "name": block.name, "input": call_input(text)}
        return {"type": "tool_use", **call}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}
