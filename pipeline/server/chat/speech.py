"""How a model is asked to think, to call tools, to keep to JSON; and how its answer is read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.llm.tool_calls.dialect import Dialect
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.server.chat.chat_request import ChatRequest, Think
from reellama.pipeline.server.sandbox.grammars import Grammars
from reellama.pipeline.server.sandbox.sandbox import SandboxError


def check_think(think: Think, dialect: Dialect, model: str) -> None:
    """Raise ReellamaError, in Ollama's words, where a model that cannot is asked to think."""
    if think and dialect.reasoning is None:
        raise ReellamaError(f'"{model}" does not support thinking')


def template_variables(think: Think) -> dict[str, Any]:
    """What chat templates are told: Qwen's name for it, DeepSeek's and Granite's, gpt-oss's.

    Nothing where nothing was asked: a template has its own default.
    """
    if think is None:
        return {}
    found: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
    return found | {"reasoning_effort": think} if isinstance(think, str) else found


def opens_reasoning(opening: str, dialect: Dialect) -> bool:
    """Whether the opening of an answer begins reasoning and does not end it."""
    tags = dialect.reasoning
    return tags is not None and opening.rfind(tags.begin) > opening.rfind(tags.end)


def grammar_request(
    asked: ChatRequest, schema: dict[str, Any] | None, dialect: Dialect
) -> dict[str, Any] | None:
    """What `Grammars.get` is asked for: arguments of `answer_grammar`; None where all is free.

    Models that know tools call them freely unless one is required. Those that do not are held to
    a form, or to words.
    """
    tools = asked.required_tools
    words = False
    if not tools and asked.usable_tools and (schema is not None or not dialect.knows_tools):
        tools, words = asked.usable_tools, schema is None
    if asked.required_tools:
        schema = None
    if not tools and schema is None:
        return None
    return _wanted(asked, tools, dialect, words=words, schema=schema)


def free_call_begin(
    asked: ChatRequest, schema: dict[str, Any] | None, dialect: Dialect
) -> str | None:
    """The text with which calls begin that a model makes by itself.

    None where such a call has no beginning of its own, or the whole answer is bound anyway.
    """
    form, tags = dialect.form, dialect.reasoning
    is_bound = asked.required_tools or schema is not None or not dialect.knows_tools
    has_channels = tags is not None and bool(tags.silent)
    if is_bound or not asked.usable_tools or form.bare or has_channels:
        return None
    return form.begins[0]


async def find_grammar(
    grammars: Grammars,
    model: Path,
    asked: ChatRequest,
    schema: dict[str, Any] | None,
    dialect: Dialect,
) -> tuple[str | None, str | None]:
    """What an answer must follow, if anything, and the text with which that begins, if not at once.

    Calls that nobody asked for are free where their schemas have no grammar.
    """
    if wanted := grammar_request(asked, schema, dialect):
        return await grammars.get(wanted, model), None
    first = free_call_begin(asked, schema, dialect)
    if first is not None:
        with suppress(SandboxError):
            return await grammars.get(_wanted(asked, asked.usable_tools, dialect), model), first
    return None, None


def _wanted(
    asked: ChatRequest,
    tools: Sequence[Tool],
    dialect: Dialect,
    *,
    words: bool = False,
    schema: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "form": dialect.form_name,
        "tools": [[tool.name, tool.parameters] for tool in tools],
        "several": asked.several_calls,
        "words": words,
        "schema": schema,
    }


def bound(
    generation: GenerationOptions,
    dialect: Dialect,
    opening: str,
    grammar: str | None,
    words: bool,
    first: str | None = None,
) -> GenerationOptions:
    """How to generate: what a grammar binds begins after the reasoning that a prompt opens.

    words: it binds words alone, no calls. Where these have a channel, it begins there. first: the
    text with which it begins; what stands before that is free.
    """
    if grammar is None:
        return generation
    tags = dialect.reasoning
    after = tags.end if tags and opens_reasoning(opening, dialect) else None
    if tags and tags.answer and words:
        after = tags.answer
    sampling = replace(
        generation.sampling, grammar=grammar, grammar_after=after, grammar_from=first
    )
    return replace(generation, sampling=sampling)


def parser_for(dialect: Dialect, asked: ChatRequest, opening: str) -> AnswerParser | None:
    """What takes the answer apart; None where it is words alone."""
    form = dialect.form if asked.usable_tools else None
    if form is None and dialect.reasoning is None:
        return None
    return AnswerParser(form, dialect.reasoning, opens_reasoning(opening, dialect), asked.tools)
