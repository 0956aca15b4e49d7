"""The page about the protocols says what is there, and every yes has its test."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reellama.pipeline.server.app import create_app
from reellama.pipeline.server.settings import Settings
from tests.helpers.live_server import serving
from tests.helpers.protocol_endpoint import ABSENT, IGNORED, REFUSED, Endpoint
from tests.helpers.protocol_table import ENDPOINTS, page

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs/protocols.md"
# What is no protocol's: health, counts, and what a server has for its own user.
OWN = ("/healthz", "/metrics", "/local/")


def named_tests() -> Iterator[str]:
    for endpoint in ENDPOINTS:
        fields = {**endpoint.fields, **endpoint.extra_fields}
        for evidence in (endpoint.evidence, *fields.values()):
            if not evidence.startswith((IGNORED, REFUSED, ABSENT)):
                yield evidence


@pytest.mark.parametrize("file", sorted({name.partition("::")[0] for name in named_tests()}))
def test_every_supported_field_names_an_existing_test(file: str) -> None:
    named = {name.partition("::")[2] for name in named_tests() if name.startswith(f"{file}::")}
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    existing = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert named <= existing


def fields_of(endpoint: Endpoint) -> set[str]:
    """The names of its request's fields, as clients write them."""
    assert endpoint.schema is not None
    fields = endpoint.schema.model_fields.items()
    return {field.alias or name for name, field in fields}


@pytest.mark.parametrize(
    "endpoint", [each for each in ENDPOINTS if each.schema], ids=lambda each: each.route
)
def test_every_field_of_a_request_is_in_the_table(endpoint: Endpoint) -> None:
    in_table = {**endpoint.fields, **endpoint.extra_fields}
    in_schema = fields_of(endpoint)
    assert in_schema <= in_table.keys()
    assert {name for name, why in in_table.items() if not why.startswith(IGNORED)} <= in_schema


def test_every_endpoint_is_in_the_table(tmp_path: Path) -> None:
    app = create_app(Settings(cache=None, store=tmp_path))
    routes = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        if not path.startswith(OWN)
        for method in methods
    }
    # Where a GET is, a HEAD may be.
    heads = {each for each in routes if each.startswith("HEAD ") and "blobs" not in each}
    assert routes - heads - {"GET /"} == {each.route for each in ENDPOINTS if each.is_there}


def test_the_page_is_that_of_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.helpers.protocol_table"


FUNCTION: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {
        "type": "object",
        "properties": {"town": {"enum": ["Rome", "Oslo"]}},
        "required": ["town"],
    },
}
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
ASKED = {"model": "mini", "messages": MESSAGES, "stream": False}
IN_OPENAIS = {"type": "function", "function": FUNCTION}
ONE = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=1024, n_parallel=1, store=tmp_path_factory.mktemp("store")) as url:
        yield url


def post(url: str, path: str, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.post(f"{url}{path}", json=body, timeout=300).json()
    return found


def test_a_tool_is_called_in_every_protocol(url: str) -> None:
    one = {"tool_choice": ONE}
    tools: dict[str, Any] = {"tools": [IN_OPENAIS], **one}
    of_ollama = post(url, "/api/chat", **ASKED, **tools)["message"]["tool_calls"]
    chat = post(url, "/v1/chat/completions", **ASKED, **tools, parallel_tool_calls=False)
    response = post(
        url,
        "/v1/responses",
        model="mini",
        input=MESSAGES,
        tools=[{"type": "function", **FUNCTION}],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
    )
    schema = {"name": "weather", "input_schema": FUNCTION["parameters"]}
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    message = post(url, "/v1/messages", **ASKED, max_tokens=99, tools=[schema], tool_choice=choice)
    (of_openai,) = chat["choices"][0]["message"]["tool_calls"]
    (of_responses,) = [each for each in response["output"] if each["type"] == "function_call"]
    (of_anthropic,) = [each for each in message["content"] if each["type"] == "tool_use"]
    assert chat["choices"][0]["finish_reason"] == "tool_calls"
    assert message["stop_reason"] == "tool_use"
    for found in (
        of_ollama[0]["function"]["arguments"],
        json.loads(of_openai["function"]["arguments"]),
        json.loads(of_responses["arguments"]),
        of_anthropic["input"],
    ):
        assert found in ({"town": "Rome"}, {"town": "Oslo"})


def test_a_model_that_cannot_think_says_so_in_every_protocol(url: str) -> None:
    for path, more in (
        ("/api/chat", {"think": True}),
        ("/v1/chat/completions", {"reasoning_effort": "high"}),
        ("/v1/messages", {"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 9}}),
    ):
        assert "does not support thinking" in json.dumps(post(url, path, **ASKED, **more))
    told = post(url, "/v1/responses", model="mini", input="Hi.", reasoning={"effort": "low"})
    assert "does not support thinking" in told["error"]["message"]
