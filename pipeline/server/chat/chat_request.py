"""The request for a chat answer, in any protocol: messages, tools, and whether to think first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.llm.tool_calls.tool import Tool
from reellama.pipeline.server.media.media_items import MediaItem

# Whether to reason before the answer, and how much; None leaves it to the model.
Think = bool | Literal["low", "medium", "high"] | None
MAX_TOOLS = 128  # in one request, as in OpenAI's API
MAX_VARIABLE_CHARACTERS = 10_000  # of a template's variables, as JSON
# Variables of a template that the server sets.
RESERVED_VARIABLES = {
    *("messages", "tools", "xml_tools", "documents"),
    *("add_generation_prompt", "bos_token", "eos_token"),
}
THINK_LEVELS = ("low", "medium", "high")


@dataclass(frozen=True)
class ServiceMessage:
    """One message; `media` are its pictures and videos, in order.

    role: "system", "user", "assistant" or "tool". A message of the assistant may have `tool_calls`
    and `reasoning`. A message of a tool is the result of a call, which `tool_call_id` or the tool's
    `name` identifies.
    """

    role: str
    content: str
    media: tuple[MediaItem, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools may or must be called. `name`: with "required", the tool to call."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to answer. Raises ReellamaError for fields that contradict each other.

    parallel_tool_calls: whether one answer may have several calls. template_variables: more
    variables of the chat template, JSON values, which override those that follow from `think`.
    """

    messages: Sequence[ServiceMessage]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    think: Think = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_variables(self.template_variables)
        names = [tool.name for tool in self.tools]
        repeated = [name for name, n in Counter(names).items() if n > 1]
        if repeated:
            raise ReellamaError(f"there are two tools named {repeated[0]!r}")
        if len(names) > MAX_TOOLS:
            raise ReellamaError(f"{len(names)} tools: at most {MAX_TOOLS} are taken")
        choice = self.tool_choice
        if choice.mode == "required" and not names:
            raise ReellamaError("tool_choice asks for a call, but there are no tools")
        if choice.name is not None and choice.name not in names:
            raise ReellamaError(f"tool_choice names {choice.name!r}, which is none of the tools")

    @property
    def usable_tools(self) -> Sequence[Tool]:
        """The tools that the model may call."""
        return () if self.tool_choice.mode == "none" else self.tools

    @property
    def required_tools(self) -> Sequence[Tool]:
        """The tools of which one must be called; none if a call is not required."""
        choice = self.tool_choice
        if choice.mode != "required":
            return ()
        return [tool for tool in self.tools if choice.name in (None, tool.name)]


def check_variables(variables: Mapping[str, Any]) -> None:
    """Raise ReellamaError for template variables that are reserved or too large."""
    if reserved := RESERVED_VARIABLES.intersection(variables):
        raise ReellamaError(f"chat_template_kwargs: {min(reserved)} is set by the request itself")
    if len(json.dumps(variables)) > MAX_VARIABLE_CHARACTERS:
        raise ReellamaError(
            f"chat_template_kwargs: at most {MAX_VARIABLE_CHARACTERS} characters are taken"
        )


def with_system(messages: Sequence[ServiceMessage], system: str | None) -> list[ServiceMessage]:
    """The messages, with this system prompt if they have none."""
    if not system or any(message.role == "system" for message in messages):
        return list(messages)
    return [ServiceMessage("system", system), *messages]


def tool_from_definition(definition: Any) -> Tool:
    """The tool of a definition in OpenAI's form, which is also Ollama's.

    Raises ReellamaError for a definition that cannot be used.
    """
    function = definition.get("function") if isinstance(definition, dict) else None
    if not isinstance(function, dict) or definition.get("type") not in (None, "function"):
        raise ReellamaError('a tool is {"type": "function", "function": {"name": ...}}')
    name, parameters = function.get("name"), function.get("parameters") or {}
    return Tool(str(name or ""), parameters, {**definition, "type": "function"})


def tool_choice_from(value: Any) -> ToolChoice:
    """OpenAI's `tool_choice`: "auto", "none", "required", or an object that names a tool.

    Raises ReellamaError for anything else.
    """
    if value is None:
        return ToolChoice()
    if value in ("auto", "none", "required"):
        return ToolChoice(value)
    named = value.get("function", value) if isinstance(value, dict) else None
    if isinstance(named, dict) and isinstance(name := named.get("name"), str):
        return ToolChoice("required", name)
    raise ReellamaError(
        'tool_choice is "auto", "none", "required" or {"type": "function", "function": {"name": '
        "...}}"
    )


def think_from(value: bool | str | None) -> Think:
    """Ollama's `think`. Raises ReellamaError, in Ollama's words, for an unknown value."""
    if value is None or isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    if value in THINK_LEVELS:
        return value  # type: ignore[return-value]
    raise ReellamaError(
        f'invalid think value: "{value}" (must be "high", "medium", "low", true, or false)'
    )
