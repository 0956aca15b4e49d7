"""A null in a request is nothing: as if the field were not there."""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from reellama.pipeline.server.anthropic import messages_schemas
from reellama.pipeline.server.media import media_references
from reellama.pipeline.server.ollama import ollama_schemas
from reellama.pipeline.server.openai import openai_parts, openai_schemas
from reellama.pipeline.server.responses import responses_schemas
from tests.helpers.live_server import serving
from tests.helpers.protocol_requests import FIELDS, MESSAGES, send

MODULES: tuple[ModuleType, ...] = (
    messages_schemas,
    media_references,
    ollama_schemas,
    openai_parts,
    openai_schemas,
    responses_schemas,
)


def schemas() -> list[type[BaseModel]]:
    found = [each for module in MODULES for each in vars(module).values() if inspect.isclass(each)]
    kept = {each for each in found if issubclass(each, BaseModel) and each.__name__[0] != "_"}
    return sorted(kept, key=lambda each: each.__name__)


def is_kind(annotation: Any) -> bool:
    """Whether a field says which of several things this is."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


@pytest.mark.parametrize("schema", schemas())
def test_every_field_that_may_be_left_out_may_be_null(schema: type[BaseModel]) -> None:
    refused = []
    for name, field in schema.model_fields.items():
        if field.is_required() or is_kind(field.annotation):
            continue
        key = field.alias or name
        try:
            schema.model_validate({key: None})
        except ValidationError as error:
            refused += [key for each in error.errors() if each["loc"][:1] == (key,)]
    assert not refused


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=512, n_parallel=1, store=tmp_path_factory.mktemp("store")) as url:
        yield url


CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": None}
USE = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "1", "name": "f", "input": None}],
}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "5", "is_error": None}
FUNCTION = {"name": "f", "description": None, "parameters": None}
NULLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"echo": None}),
    ("/v1/embeddings", {"encoding_format": None}),
    ("/v1/chat/completions", {"stream": True, "stream_options": {"include_usage": None}}),
    ("/v1/chat/completions", {"tools": [{"type": None, "function": FUNCTION}]}),
    ("/v1/messages", {"messages": [*MESSAGES, USE, {"role": "user", "content": [RESULT]}]}),
    (
        "/v1/messages",
        {
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": None},
        },
    ),
    ("/v1/responses", {"text": {"format": None}}),
    ("/v1/responses", {"text": {"format": {"type": None}}}),
    ("/v1/responses", {"input": [{"type": None, "role": "user", "content": "x"}]}),
    ("/v1/responses", {"input": [*MESSAGES, {"type": "reasoning", "summary": None}, CALL]}),
    (
        "/api/chat",
        {
            "messages": [
                *MESSAGES,
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": None}}],
                },
            ]
        },
    ),
]


@pytest.mark.parametrize(("path", "fields"), NULLS, ids=lambda each: str(each)[:60])
def test_a_null_is_like_a_missing_field(url: str, path: str, fields: dict[str, Any]) -> None:
    reply = send(url, path, **fields)
    assert reply.status_code == 200, reply.text
    if fields.get("text"):
        assert reply.json()["text"] == {"format": {"type": "text"}}


@pytest.mark.parametrize("path", [each for each in FIELDS if not each.endswith(("pull", "push"))])
def test_all_options_of_a_request_may_be_null(url: str, path: str) -> None:
    options = ("keep_alive", "stream", "temperature", "top_p", "seed", "stop", "tools", "format")
    reply = send(url, path, **dict.fromkeys(options), options={"temperature": None})
    assert reply.status_code == 200, reply.text
