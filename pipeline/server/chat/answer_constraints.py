"""What a request asks of the answer's form: reasoning, tool calls, JSON; grammar and parser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.tool_calls.answer_parser import AnswerParser
from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.server.chat.chat_request import ChatRequest, Think
from reellama.pipeline.server.sandbox.grammar_cache import GrammarCache
from reellama.pipeline.server.sandbox.sandbox import SandboxError


def check_think(think: Think, chat_format: ChatFormat, model: str) -> None:
    """Raise ReellamaError, in Ollama's words, if thinking is asked of a model that cannot think."""
    if think and chat_format.reasoning is None:
        raise ReellamaError(f'"{model}" does not support thinking')


def template_variables(think: Think) -> dict[str, Any]:
    """The variables by which chat templates switch reasoning on or off.

    enable_thinking is Qwen's, thinking DeepSeek's and Granite's, reasoning_effort that of gpt-oss.
    None sets no variable: templates have their own defaults.
    """
    if think is None:
        return {}
    variables: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
    return variables | {"reasoning_effort": think} if isinstance(think, str) else variables


def opens_reasoning(opening: str, chat_format: ChatFormat) -> bool:
    """Whether an answer begins inside of reasoning, which the end of the prompt has opened."""
    tags = chat_format.reasoning
    return tags is not None and opening.rfind(tags.begin) > opening.rfind(tags.end)


def grammar_request(
    request: ChatRequest, schema: dict[str, Any] | None, chat_format: ChatFormat
) -> dict[str, Any] | None:
    """The arguments of `answer_grammar`, or None if no grammar is needed.

    Models that were trained to call tools do so without a grammar, unless a call is required. All
    others are held to GENERIC calls or text.
    """
    tools = request.required_tools
    allow_text = False
    if not tools and request.usable_tools and (schema is not None or not chat_format.knows_tools):
        tools, allow_text = request.usable_tools, schema is None
    if request.required_tools:
        schema = None
    if not tools and schema is None:
        return None
    return _grammar_arguments(request, tools, chat_format, allow_text=allow_text, schema=schema)


def free_call_marker(
    request: ChatRequest, schema: dict[str, Any] | None, chat_format: ChatFormat
) -> str | None:
    """The text that begins the calls of a model that is free to call tools or not.

    None where calls have no such text, or a grammar binds the whole answer.
    """
    form, tags = chat_format.tool_form, chat_format.reasoning
    is_bound = request.required_tools or schema is not None or not chat_format.knows_tools
    has_channels = tags is not None and bool(tags.silent)
    if is_bound or not request.usable_tools or form.is_plain_json or has_channels:
        return None
    return form.start_markers[0]


async def find_grammar(
    grammars: GrammarCache,
    model: Path,
    request: ChatRequest,
    schema: dict[str, Any] | None,
    chat_format: ChatFormat,
) -> tuple[str | None, str | None]:
    """The grammar of an answer, if any, and the text with which it starts, if not at once.

    A schema without a grammar is an error only if a call is required, or the model must be held to
    the form of a call.
    """
    if arguments := grammar_request(request, schema, chat_format):
        return await grammars.get(arguments, model), None
    start_marker = free_call_marker(request, schema, chat_format)
    if start_marker is not None:
        with suppress(SandboxError):
            return await grammars.get(
                _grammar_arguments(request, request.usable_tools, chat_format), model
            ), start_marker
    return None, None


def _grammar_arguments(
    request: ChatRequest,
    tools: Sequence[Tool],
    chat_format: ChatFormat,
    *,
    allow_text: bool = False,
    schema: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "form": chat_format.tool_form_name,
        "tools": [[tool.name, tool.parameters] for tool in tools],
        "parallel": request.parallel_tool_calls,
        "allow_text": allow_text,
        "schema": schema,
    }


def with_grammar(
    generation_options: GenerationOptions,
    chat_format: ChatFormat,
    opening: str,
    grammar: str | None,
    text_only: bool,
    start_marker: str | None = None,
) -> GenerationOptions:
    """Options of a generation with a grammar, which starts after the reasoning, if there is any.

    text_only: the grammar has no calls; if the model has a channel for text, it starts there.
    start_marker: the text with which the grammar starts; the text before is free.
    """
    if grammar is None:
        return generation_options
    tags = chat_format.reasoning
    after = tags.end if tags and opens_reasoning(opening, chat_format) else None
    if tags and tags.answer and text_only:
        after = tags.answer
    sampling = replace(
        generation_options.sampling, grammar=grammar, grammar_after=after, grammar_from=start_marker
    )
    return replace(generation_options, sampling=sampling)


def parser_for(chat_format: ChatFormat, request: ChatRequest, opening: str) -> AnswerParser | None:
    """The parser of an answer, or None if the answer is text alone."""
    form = chat_format.tool_form if request.usable_tools else None
    if form is None and chat_format.reasoning is None:
        return None
    return AnswerParser(
        form, chat_format.reasoning, opens_reasoning(opening, chat_format), request.tools
    )
