"""Replies of OpenAI's API: answers, chunks of a stream, log-probabilities and errors."""

from __future__ import annotations

import base64
import math
import time
import uuid
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent, CallDelta, TextDelta
from reellama.pipeline.server.replies.token_logprobs import token_logprobs

Kind = Literal["chat.completion", "text_completion"]
PREFIXES = {"chat.completion": "chatcmpl", "text_completion": "cmpl"}
DONE_EVENT = "data: [DONE]\n\n"
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ERROR_CODES = {413: "request_too_large", 503: "server_overloaded"}


class ReplyFrame:
    """Makes the replies of one request, all with the same id, time and model."""

    def __init__(self, kind: Kind, model: str):
        self.kind = kind
        self.frame = {
            "id": f"{PREFIXES[kind]}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": _fingerprint(),
        }

    def whole(self, choices: Sequence[dict[str, Any]], stats: GenerationStats) -> dict[str, Any]:
        """The whole reply."""
        return {
            **self.frame,
            "object": self.kind,
            "choices": [{"index": i, **choice} for i, choice in enumerate(choices)],
            "usage": usage(stats),
        }

    def chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        """A chunk of a stream; the one without a choice is the last, for the usage."""
        kind = "chat.completion.chunk" if self.kind == "chat.completion" else self.kind
        choices = [] if choice is None else [{"finish_reason": None, **choice}]
        return {**self.frame, "object": kind, "choices": choices}


@cache
def _fingerprint() -> str:
    """The versions on which answers to the same seed depend. Cached: files are read for them."""
    return f"fp_{version('reellama')}_{version('llama-cpp-python')}"


def without_unfinished_calls(events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    """Events without those of calls that have no end."""
    calls = [event for event in events if isinstance(event, CallDelta)]
    unfinished = {call.index for call in calls} - {call.index for call in calls if call.done}
    return [e for e in events if not isinstance(e, CallDelta) or e.index not in unfinished]


def message(events: Sequence[AnswerEvent]) -> dict[str, Any]:
    """The assistant's message of all events of an answer."""
    calls: dict[int, dict[str, Any]] = {}
    texts: list[str] = []
    reasoning: list[str] = []
    for event in events:
        if isinstance(event, CallDelta):
            call = calls.setdefault(event.index, _call(event) | {"function": _function(event)})
            call["function"]["arguments"] += event.arguments
        else:
            (texts if isinstance(event, TextDelta) else reasoning).append(event.text)
    content = "".join(texts)
    fields: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        fields["reasoning_content"] = "".join(reasoning)
    if calls:
        fields |= {"content": content or None, "tool_calls": list(calls.values())}
    return fields


def delta(events: Sequence[AnswerEvent]) -> dict[str, Any]:
    """What events add to a streamed message; the first event of a call adds its id and name."""
    fields: dict[str, Any] = {}
    for event in events:
        if isinstance(event, CallDelta):
            first = _call(event) if event.first else {}
            function = {**(_function(event) if event.first else {}), "arguments": event.arguments}
            fields["tool_calls"] = [{"index": event.index, **first, "function": function}]
        else:
            key = "content" if isinstance(event, TextDelta) else "reasoning_content"
            fields[key] = event.text
    return fields


def _call(event: CallDelta) -> dict[str, Any]:
    return {"id": event.id, "type": "function"}


def _function(event: CallDelta) -> dict[str, Any]:
    return {"name": event.name, "arguments": ""}


def text_tokens(events: Sequence[AnswerEvent]) -> list[Token]:
    """The tokens of the text, without those of reasoning and calls."""
    return [token for event in events if isinstance(event, TextDelta) for token in event.tokens]


def usage(stats: GenerationStats) -> dict[str, int]:
    """Counts of tokens; the soft tokens of videos are among those of the prompt."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.generated_tokens,
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
    }


def chat_logprobs(tokens: Sequence[Token], n: int) -> dict[str, Any]:
    """The log-probabilities of tokens, each with the `n` likeliest ones."""
    return {"content": [token_logprobs(token, n) for token in tokens], "refusal": None}


def completion_logprobs(tokens: Sequence[Token], n: int, offset: int) -> dict[str, Any]:
    """Log-probabilities of a completion; `offset`: characters before the first token.

    They are null for the first token of an echoed prompt, which follows nothing.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    entries = [
        token_logprobs(token, n) | ({"logprob": None} if math.isnan(token.p) else {})
        for token in tokens
    ]
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            None
            if entry["logprob"] is None
            else {top["token"]: top["logprob"] for top in entry["top_logprobs"]}
            for entry in entries
        ],
        "text_offset": offsets,
    }


def embeddings(
    vectors: Sequence[Sequence[float]],
    encoding: Literal["float", "base64"],
    model: str,
    n_tokens: int,
) -> dict[str, Any]:
    """The reply with vectors, as lists of numbers or as little-endian float32 in base64."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": list(vector) if encoding == "float" else _base64(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def error(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's shape. `code` overrides the one that follows from the status."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": message,
            "type": ERROR_TYPES.get(status, fallback),
            "param": param,
            "code": code or ERROR_CODES.get(status),
        }
    }
