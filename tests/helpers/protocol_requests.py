"""Requests of all protocols that the server answers, and what it says of those that it refuses."""

import json
from typing import Any

import httpx

MESSAGES = [{"role": "user", "content": "1, 2,"}]
FIELDS: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "1, 2,", "stream": False},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/api/embed": {"input": "a dog"},
    "/api/embeddings": {"prompt": "a dog"},
    "/api/show": {},
    "/api/pull": {},
    "/api/push": {},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/completions": {"prompt": "1, 2,", "max_tokens": 1},
    "/v1/embeddings": {"input": "a dog"},
    "/v1/responses": {"input": "1, 2,", "max_output_tokens": 1},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
}


def send(url: str, path: str, /, **fields: Any) -> httpx.Response:
    """A request with these fields; "NUMBER(...)" in them is a number, written like that."""
    body = {"model": "mini", **FIELDS.get(path, {}), **fields}
    if path.startswith("/api/") and body.keys() & {"prompt", "messages"}:
        body.setdefault("options", {}).setdefault("num_predict", 1)
    text = json.dumps(body).replace('"NUMBER(', "").replace(')"', "")
    return httpx.post(f"{url}{path}", content=text, timeout=120)


def number(text: str) -> str:
    return f"NUMBER({text})"


def error_message(reply: httpx.Response, path: str) -> str:
    """The message of an error, which must have the form of its protocol."""
    error = reply.json()["error"]
    if path.startswith("/api/"):
        assert isinstance(error, str)
        return error
    assert isinstance(error["message"], str)
    if path.startswith("/v1/messages"):
        assert reply.json()["type"] == "error"
    else:
        assert {"type", "param", "code"} <= error.keys()
    return str(error["message"])
