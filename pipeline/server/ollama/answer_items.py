"""Answers in Ollama's protocol: an item for each event, and all items merged into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reellama.pipeline.llm.tool_calls.answer_events import ReasoningDelta, TextDelta, ToolCall
from reellama.pipeline.server.ollama.ndjson import JsonItem

# What an item of a stream adds to the answer; None: nothing.
AnswerPart = TextDelta | ReasoningDelta | ToolCall | None
ItemOf = Callable[[AnswerPart], JsonItem]


def message_item(part: AnswerPart) -> JsonItem:
    """The fields of an item of /api/chat."""
    message: JsonItem = {"role": "assistant", "content": ""}
    if isinstance(part, TextDelta):
        message["content"] = part.text
    elif isinstance(part, ReasoningDelta):
        message["thinking"] = part.text
    elif isinstance(part, ToolCall):
        function = {"name": part.name, "arguments": part.arguments}
        message["tool_calls"] = [{"id": part.id, "function": function}]
    return {"message": message}


def response_item(part: AnswerPart) -> JsonItem:
    """The fields of an item of /api/generate, which has no tools."""
    item = {"response": part.text if isinstance(part, TextDelta) else ""}
    return {**item, "thinking": part.text} if isinstance(part, ReasoningDelta) else item


def whole_answer(items: Sequence[JsonItem]) -> JsonItem:
    """All items of an answer merged into one."""
    whole = dict(items[-1])
    if "message" in whole:
        whole["message"] = _joined([item["message"] for item in items])
    else:
        whole |= _joined([{k: i[k] for k in ("response", "thinking") if k in i} for i in items])
    logprobs = [entry for item in items for entry in item.get("logprobs", ())]
    if any("logprobs" in item for item in items):
        whole["logprobs"] = logprobs
    return whole


def _joined(parts: Sequence[JsonItem]) -> JsonItem:
    """Concatenate the texts and lists of parts, which have the same role."""
    joined: dict[str, list[Any]] = {}
    for part in parts:
        for key, value in part.items():
            joined.setdefault(key, []).append(value)
    return {
        key: values[0]
        if key == "role"
        else "".join(values)
        if isinstance(values[0], str)
        else [item for value in values for item in value]
        for key, values in joined.items()
    }
