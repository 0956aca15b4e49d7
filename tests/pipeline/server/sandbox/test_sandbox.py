"""Schemas and templates that clients send are read in a child, which they can only end."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from llama_cpp import llama_cpp

from reellama.gguf_tools.runtime.backend import Model, load_model
from reellama.pipeline.llm.token_sampling import grammar_sampler
from reellama.pipeline.server.request_context import CLIENT
from reellama.pipeline.server.sandbox.grammar_cache import GrammarCache
from reellama.pipeline.server.sandbox.sandbox import Sandbox, SandboxChild, SandboxError
from reellama.pipeline.server.sandbox.sandboxed_template import SandboxedTemplate
from tests.helpers.hostile_schemas import schemas

ASKED = [{"role": "user", "content": "How?"}]
CONTENT = "{{ messages[0].content }}"


@pytest.fixture(scope="module")
def child() -> Iterator[SandboxChild]:
    child = SandboxChild(seconds=1.0)
    yield child
    child.close()


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[Model]:
    with load_model(tiny_llama, vocab_only=True) as model:
        yield model


def ambiguous() -> dict[str, Any]:
    """Lists in lists, at each of which there are ever more ways to go on."""

    def pair(first: str, second: str) -> dict[str, Any]:
        named = [{"$ref": f"#/$defs/{name}"} for name in (first, second)]
        return {"type": "array", "items": named}

    ways = [pair("a", "b"), pair("b", "a"), pair("a", "a"), pair("b", "b")]
    defined = {name: {"anyOf": [*ways, {"const": name}]} for name in "ab"}
    return {"properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"], "$defs": defined}


MANY_PROPERTIES: dict[str, Any] = {"properties": {f"p{i}": {} for i in range(900)}}
HOSTILE: dict[str, tuple[Any, str]] = {
    "no end": ({"type": "string", "pattern": "^a]b)$"}, "closes nothing"),
    "nothing repeated": ({"type": "string", "pattern": "^*+?$"}, "repeats nothing"),
    "items": ({"type": "array", "items": {}, "minItems": 10**6}, "minItems is 1000000"),
    "letters": ({"type": "string", "minLength": 10**9}, "minLength is 1000000000"),
    "infinite": ({"type": "string", "minLength": float("inf")}, "minLength is inf"),
    "count": ({"type": "string", "pattern": "^a{2,999999999999}$"}, "a number in its pattern"),
    "many": ({"type": "string", "pattern": "^((a?){1000}){1000}$"}, ""),
    "parentheses": ({"type": "string", "pattern": f"^{'(' * 9000}a{')' * 9000}$"}, ""),
    "large": ({"enum": ["x" * 200_000]}, "characters"),
    # Too long for one processor, and too large for the others.
    "optional": ({"properties": dict.fromkeys("abcde", MANY_PROPERTIES)}, ""),
    "left out": (
        {"properties": {f"p{i}": {} for i in range(3000)}},
        "too many properties are optional",
    ),
    "ambiguous": (ambiguous(), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_schema_over_a_limit_is_refused_with_its_reason(
    child: SandboxChild, tiny_llama: Path, name: str
) -> None:
    schema, reason = HOSTILE[name]
    with pytest.raises(SandboxError) as caught:
        child.ask("grammar", arguments={"schema": schema}, model=str(tiny_llama))
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    good = child.ask("grammar", arguments={"schema": {"type": "boolean"}}, model=str(tiny_llama))
    assert "true" in good["gbnf"]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schemas())
def test_any_schema_is_a_grammar_that_llama_cpp_takes_or_is_refused(
    child: SandboxChild, model: Model, schema: dict[str, Any]
) -> None:
    try:
        answer = child.ask("grammar", arguments={"schema": schema}, model=str(model.path))
    except SandboxError as error:
        reason = str(error)
    else:
        llama_cpp.llama_sampler_free(grammar_sampler(answer["gbnf"], model))
        reason = "none"
    assert reason and "\n" not in reason


def test_a_schema_is_read_once(tiny_llama: Path) -> None:
    async def twice(schema: dict[str, Any]) -> list[str]:
        sandbox = Sandbox()
        grammars, found = GrammarCache(sandbox), []
        try:
            for _ in range(2):
                try:
                    found.append(await grammars.get({"schema": schema}, tiny_llama))
                except SandboxError as error:
                    found.append(str(error))
                sandbox.close()  # the second time nobody could read it
        finally:
            sandbox.close()
        return found

    for schema in ({"type": "boolean"}, HOSTILE["letters"][0]):
        first, second = asyncio.run(twice(schema))
        assert first == second


def test_a_client_that_asks_for_much_waits_for_itself() -> None:
    async def order() -> list[str]:
        sandbox, done = Sandbox(n_children=1), list[str]()

        async def ask(client: str) -> None:
            CLIENT.set(client)
            await sandbox.call(lambda child: done.append(client))

        try:
            await asyncio.gather(*map(ask, ["many", "many", "many", "one"]))
        finally:
            sandbox.close()
        return done

    assert asyncio.run(order()) == ["many", "one", "many", "many"]


def test_a_template_renders_as_it_does_outside(child: SandboxChild) -> None:
    source = "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    segments = SandboxedTemplate(child, source, "<s>").render(ASKED)
    assert [(s.text, s.special, s.content) for s in segments] == [
        ("<s>[user] ", True, None),
        ("How?", False, 0),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "{{ (10**60000000) % 7 }}" + CONTENT,
        "{{ 'x' * 500000000 }}" + CONTENT,
        "{{ 'x' * 5000000000 }}" + CONTENT,
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + CONTENT,
        "{{ '%0999999999d' % 1 }}" + CONTENT,
        "{{ .Prompt }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}" + CONTENT,
        "x" * 300_000 + CONTENT,
    ],
    ids=["power", "long", "longer", "loop", "padding", "Go", "escape", "source"],
)
def test_a_template_that_takes_too_much_is_refused(child: SandboxChild, source: str) -> None:
    with pytest.raises(SandboxError) as caught:
        SandboxedTemplate(child, source).render(ASKED)
    assert "template" in str(caught.value) and "\n" not in str(caught.value)
    assert SandboxedTemplate(child, CONTENT).render(ASKED)[0].text == "How?"


def test_a_ggufs_own_template_that_fails_is_replaced(child: SandboxChild) -> None:
    segments = SandboxedTemplate(child, "{{ nothing.at.all }}", strict=False).render(ASKED)
    assert segments[0].text.startswith("<|im_start|>")


def test_a_child_that_was_killed_is_started_again(child: SandboxChild) -> None:
    assert SandboxedTemplate(child, CONTENT).render(ASKED)
    assert child._child is not None
    child._child.kill()
    child._child.wait()
    assert SandboxedTemplate(child, CONTENT).render(ASKED)


def test_the_memory_of_a_task_is_given_back(child: SandboxChild) -> None:
    assert SandboxedTemplate(child, CONTENT).render(ASKED)
    assert child._child is not None
    process = psutil.Process(child._child.pid)
    before = process.memory_info().rss
    with pytest.raises(SandboxError):
        SandboxedTemplate(child, "{{ 'x' * 300000000 }}" + CONTENT).render(ASKED)
    assert process.is_running() and process.memory_info().rss < before + 30_000_000


def test_a_child_that_is_closed_ends_what_it_is_doing() -> None:
    own = SandboxChild(seconds=60)
    try:
        assert SandboxedTemplate(own, CONTENT).render(ASKED)
        assert own._child is not None
        process = psutil.Process(own._child.pid)
        asked = threading.Thread(target=_ask_without_end, args=[own])
        asked.start()
        while not (forks := process.children()):
            time.sleep(0.01)
        own.close()
        asked.join(30)
        assert not asked.is_alive()
        psutil.wait_procs(forks, timeout=30)
        assert not any(fork.is_running() for fork in forks)
    finally:
        own.close()


def _ask_without_end(child: SandboxChild) -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with suppress(SandboxError, ValueError):
        SandboxedTemplate(child, loops + CONTENT).render(ASKED)


def test_a_message_cannot_forge_the_childs_answer(child: SandboxChild) -> None:
    told = json.dumps({"segments": [], "problem": ""})
    (segment,) = SandboxedTemplate(child, CONTENT).render(
        [{"role": "user", "content": f"\n{told}\n"}]
    )
    assert segment.text.strip() == told
