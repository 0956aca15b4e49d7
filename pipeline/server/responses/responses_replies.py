"""Replies of the Responses API: whole responses, and the events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.scoring.token_scorer import Token
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.replies.answer_blocks import AnswerBlock, BlockEvent
from reellama.pipeline.server.replies.token_logprobs import token_logprobs
from reellama.pipeline.server.responses.responses_schemas import ResponsesRequest

PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
TYPES = {"text": "message", "reasoning": "reasoning", "call": "function_call"}
# Prefixes of the events of a block's text.
EVENTS = {
    "text": "response.output_text",
    "reasoning": "response.reasoning_text",
    "call": "response.function_call_arguments",
}


class ResponseReply:
    """Makes the objects of one response, in all of which id, time and request are the same."""

    def __init__(self, id_: str, body: ResponsesRequest) -> None:
        self.id, self.body = id_, body
        self.created = int(time.time())
        self._ids: dict[int, str] = {}

    def snapshot(
        self, status: str, output: list[dict[str, Any]], stats: GenerationStats | None = None
    ) -> dict[str, Any]:
        """The response with this status and output."""
        body = self.body
        is_incomplete = status == "incomplete"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_incomplete else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": body.reasoning.model_dump() if body.reasoning else None,
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": (body.text.model_dump(by_alias=True, exclude_none=True) if body.text else None)
            or {"format": {"type": "text"}},
            "tool_choice": _plain(body.tool_choice) or "auto",
            "tools": [_plain(tool) for tool in body.tools or ()],
            "top_p": body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "truncation": body.truncation or "auto",
            "metadata": body.metadata or {},
            "usage": usage(stats) if stats else None,
        }

    def finished(self, blocks: list[AnswerBlock], answer: ChatAnswer) -> dict[str, Any]:
        """The whole response."""
        status = "incomplete" if answer.finish_reason == "length" else "completed"
        output = [self.item(block, status) for block in blocks]
        return self.snapshot(status, output, answer.stats)

    def item(self, block: AnswerBlock, status: str) -> dict[str, Any]:
        """A block as an item of the output; an unfinished call is incomplete at its end."""
        if block.is_unfinished and status == "completed":
            status = "incomplete"
        id_ = self._ids.setdefault(block.index, f"{PREFIXES[block.kind]}_{uuid.uuid4().hex[:24]}")
        item = {"id": id_, "type": TYPES[block.kind], "status": status}
        if block.kind == "call":
            arguments = block.text if status != "in_progress" else ""
            return {
                **item,
                "call_id": block.call_id,
                "name": block.name,
                "arguments": arguments,
            }
        content = [self.part(block)] if status != "in_progress" else []
        if block.kind == "reasoning":
            return {**item, "summary": [], "content": content}
        return {**item, "role": "assistant", "content": content}

    def part(self, block: AnswerBlock, *, empty: bool = False) -> dict[str, Any]:
        """The only content part of a block."""
        text = "" if empty else block.text
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
        if self.body.wants_logprobs:
            part["logprobs"] = [] if empty else self.logprobs(block.tokens)
        return part

    def logprobs(self, tokens: list[Token] | tuple[Token, ...]) -> list[dict[str, Any]]:
        """The log-probabilities of tokens."""
        return [token_logprobs(token, self.body.top_logprobs or 0) for token in tokens]


async def response_events(
    reply: ResponseReply, events: AsyncIterator[BlockEvent], answer: ChatAnswer
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The numbered events of a stream; the last one has the whole response."""
    numbers = count()

    def numbered(name: str, /, **data: Any) -> tuple[str, dict[str, Any]]:
        return name, {"type": name, "sequence_number": next(numbers), **data}

    for name in ("response.created", "response.in_progress"):
        yield numbered(name, response=reply.snapshot("in_progress", []))
    blocks: list[AnswerBlock] = []
    async for event in events:
        block = event.block
        status = "in_progress" if event.type == "start" else "completed"
        item = reply.item(block, status)
        location: dict[str, Any] = {"item_id": item["id"], "output_index": block.index}
        if block.kind != "call":
            location["content_index"] = 0
        logprobs: dict[str, Any] = {} if block.kind != "text" else {"logprobs": []}
        if event.type == "start":
            yield numbered("response.output_item.added", output_index=block.index, item=item)
            if block.kind != "call":
                empty = reply.part(block, empty=True)
                yield numbered("response.content_part.added", **location, part=empty)
        elif event.type == "delta":
            if logprobs and reply.body.wants_logprobs:
                logprobs = {"logprobs": reply.logprobs(event.tokens)}
            yield numbered(f"{EVENTS[block.kind]}.delta", **location, delta=event.text, **logprobs)
        else:
            blocks.append(block)
            whole = "arguments" if block.kind == "call" else "text"
            named = {"name": block.name} if block.kind == "call" else {}
            content = {whole: block.text, **named, **logprobs}
            yield numbered(f"{EVENTS[block.kind]}.done", **location, **content)
            if block.kind != "call":
                yield numbered("response.content_part.done", **location, part=reply.part(block))
            yield numbered("response.output_item.done", output_index=block.index, item=item)
    response = reply.finished(blocks, answer)
    yield numbered(f"response.{response['status']}", response=response)


def failure(reply: ResponseReply, number: int, message: str) -> tuple[str, dict[str, Any]]:
    """The event that ends a failed stream."""
    error = {"code": "server_error", "message": message}
    response = reply.snapshot("failed", []) | {"error": error}
    data = {"type": "response.failed", "sequence_number": number, "response": response}
    return "response.failed", data


def usage(stats: GenerationStats) -> dict[str, Any]:
    """Counts of tokens."""
    return {
        "input_tokens": stats.prompt_tokens,
        "input_tokens_details": {"cached_tokens": stats.reused_tokens},
        "output_tokens": stats.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
    }


def _plain(model: Any) -> Any:
    return model.model_dump(exclude_none=True) if hasattr(model, "model_dump") else model
