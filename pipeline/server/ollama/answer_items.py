"""Answers as Ollama writes them: a line for each piece, and all of them as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reellama.pipeline.llm.tool_calls.answer_events import ReasoningDelta, TextDelta, ToolCall
from reellama.pipeline.server.ollama.ndjson import JsonItem

Piece = TextDelta | ReasoningDelta | ToolCall | None
# A piece of an answer, or nothing -> the part of a line that holds it.
Shape = Callable[[Piece], JsonItem]


def message_item(piece: Piece) -> JsonItem:
    """A piece of a chat's answer."""
    message: JsonItem = {"role": "assistant", "content": ""}
    if isinstance(piece, TextDelta):
        message["content"] = piece.text
    elif isinstance(piece, ReasoningDelta):
        message["thinking"] = piece.text
    elif isinstance(piece, ToolCall):
        function = {"name": piece.name, "arguments": piece.arguments}
        message["tool_calls"] = [{"id": piece.id, "function": function}]
    return {"message": message}


def response_item(piece: Piece) -> JsonItem:
    """A piece of the answer to a prompt; it has no tools."""
    item = {"response": piece.text if isinstance(piece, TextDelta) else ""}
    return {**item, "thinking": piece.text} if isinstance(piece, ReasoningDelta) else item


def whole_answer(items: Sequence[JsonItem]) -> JsonItem:
    """All lines of an answer as one."""
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
    """Texts and lists of parts put together; the role is that of each."""
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
