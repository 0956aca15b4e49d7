"""The requests of the Responses API (https://platform.openai.com/docs/api-reference/responses).

Requests for unsupported features (built-in tools, conversations, background responses) are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reellama.pipeline.llm.generation_options import (
    NO_LIMIT,
    SAMPLING_OPTIONS,
    GenerationOptions,
    requested_sampling,
)
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.server.chat.call_arguments import CallArguments, tool_call_from
from reellama.pipeline.server.chat.chat_request import (
    ChatRequest,
    ServiceMessage,
    Think,
    ToolChoice,
    tool_from_definition,
)
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.keep_alive import KeepAlive
from reellama.pipeline.server.media.media_items import MediaItem
from reellama.pipeline.server.media.media_references import MediaReference
from reellama.pipeline.server.openai.openai_parts import (
    MessagePart,
    PartsMessage,
    parts_media,
    parts_text,
)
from reellama.pipeline.server.video_options import VIDEO_OPTIONS, checked_video_options

MAX_TOP_LOGPROBS = 20
LOGPROBS = "message.output_text.logprobs"  # a value of `include`


class MessageItem(PartsMessage):
    """A message: a string, or parts."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[MessagePart]


class FunctionCallItem(BaseModel):
    """A tool call; its arguments are JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: CallArguments = Field(default_factory=dict)

    @property
    def call(self) -> ToolCall:
        """The call."""
        return tool_call_from(self.name, self.arguments, self.call_id)


class FunctionCallOutputItem(BaseModel):
    """The result of a tool call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[MessagePart]

    @property
    def text(self) -> str:
        """The text of the result."""
        return parts_text(self.output) if isinstance(self.output, list) else self.output

    @property
    def media(self) -> list[MediaReference]:
        """The pictures and videos of the result."""
        return parts_media(self.output) if isinstance(self.output, list) else []


class ReasoningText(BaseModel):
    """A part of the reasoning."""

    type: str
    text: str


class ReasoningItem(BaseModel):
    """The assistant's reasoning."""

    type: Literal["reasoning"]
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None

    @property
    def text(self) -> str:
        """All of the reasoning."""
        return "\n".join(part.text for part in self.content or self.summary or ())


Item = Annotated[
    MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem,
    Field(discriminator="type"),
]


class InputItems(BaseModel):
    """Items of a conversation, as requests and the store have them."""

    input: list[Item]

    @field_validator("input", mode="before")
    @classmethod
    def _add_message_type(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [
            {**item, "type": item.get("type") or "message"}
            if isinstance(item, dict) and "role" in item
            else item
            for item in value
        ]


class FunctionTool(BaseModel):
    """A tool of the client."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def definition(self) -> dict[str, Any]:
        """The tool in the form of chat completions, which chat templates take."""
        description = {"description": self.description} if self.description else {}
        function = {"name": self.name, **description, "parameters": self.parameters or {}}
        return {"type": "function", "function": function}


class NamedTool(BaseModel):
    """The tool that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(BaseModel):
    """Whether the answer is text, any JSON object, or JSON that follows a schema."""

    model_config = ConfigDict(populate_by_name=True)
    type: Literal["text", "json_object", "json_schema"] = "text"
    body: dict[str, Any] | None = Field(None, alias="schema")
    name: str | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _default_to_text(cls, value: Any) -> Any:
        return "text" if value is None else value

    @model_validator(mode="after")
    def _check_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.body is not None):
            raise ValueError("schema is given exactly when type is json_schema")
        return self

    def as_option(self) -> str | dict[str, Any] | None:
        """The service's response_format."""
        return self.body if self.body is not None else "json" if self.type != "text" else None


class TextOptions(BaseModel):
    """Options of the answer's text."""

    format: TextFormat = Field(default_factory=lambda: TextFormat.model_validate({}))

    @field_validator("format", mode="before")
    @classmethod
    def _default_to_text(cls, value: Any) -> Any:
        return {} if value is None else value


class Reasoning(BaseModel):
    """Whether to think first, and how much."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None

    @property
    def level(self) -> Think:
        """The level of thinking."""
        levels: dict[str, Think] = {"none": False, "minimal": "low", "xhigh": "high"}
        effort = self.effort
        return None if effort is None else levels.get(effort, effort)  # type: ignore[arg-type]


class ResponsesRequest(BaseModel):
    """POST /v1/responses. Sampling options default to those of `Sampling`."""

    model: str = Field(min_length=1)
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    include: list[str] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    keep_alive: KeepAlive = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    frames: int | None = None
    sampling: str | None = None
    fps: float | None = None
    start: float | str | None = None
    end: float | str | None = None
    subtitles: str | None = None
    tokens: int | None = None
    pooling: str | None = None
    model_only: bool | None = None

    @field_validator("background", "conversation", "prompt")
    @classmethod
    def _reject_unsupported(cls, value: Any) -> Any:
        if value:
            raise ValueError("this is not supported: leave it out")
        return value

    @property
    def own_items(self) -> list[dict[str, Any]]:
        """The input as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return self.input

    @property
    def wants_logprobs(self) -> bool:
        """Whether the text comes with log-probabilities."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def to_chat(self, messages: list[ServiceMessage]) -> ChatRequest:
        """The service's request. Raises ReellamaError for tools that cannot be used."""
        system = [ServiceMessage("system", self.instructions)] if self.instructions else []
        choice = self.tool_choice
        if isinstance(choice, NamedTool):
            chosen = ToolChoice("required", choice.name)
        else:
            chosen = ToolChoice(choice or "auto")
        return ChatRequest(
            [*system, *messages],
            [tool_from_definition(tool.definition) for tool in self.tools or ()],
            chosen,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            think=self.reasoning.level if self.reasoning else None,
        )

    def options(self) -> RequestOptions:
        """The service's options. Raises ReellamaError for a value out of range."""
        generation_options = GenerationOptions(
            sampling=requested_sampling(self.model_dump(include={*SAMPLING_OPTIONS})),
            max_tokens=self.max_output_tokens or NO_LIMIT,
            n_probs=max(1, self.top_logprobs or 0) if self.wants_logprobs else 0,
        )
        return RequestOptions(
            generation_options,
            keep_alive=self.keep_alive,
            response_format=self.text.format.as_option() if self.text else None,
            video=checked_video_options(self.model_dump(include={*VIDEO_OPTIONS})),
            model_only=self.model_only,
        )


def as_messages(
    items: Sequence[Item], media: Sequence[tuple[MediaItem, ...]]
) -> list[ServiceMessage]:
    """The service's messages for a conversation's items, with the media of each item.

    Neighbouring reasoning, text and calls of the assistant become one message.
    """
    messages: list[ServiceMessage] = []
    # Parts of the assistant's message that is being assembled.
    reasoning, text, is_assembling = "", "", False
    calls: list[ToolCall] = []

    def finish() -> None:
        nonlocal reasoning, text, calls, is_assembling
        if is_assembling:
            messages.append(
                ServiceMessage("assistant", text, tool_calls=tuple(calls), reasoning=reasoning)
            )
        reasoning, text, calls, is_assembling = "", "", [], False

    for item, own_media in zip(items, media, strict=True):
        if isinstance(item, ReasoningItem):
            finish()
            reasoning, is_assembling = item.text, True
        elif isinstance(item, FunctionCallItem):
            calls.append(item.call)
            is_assembling = True
        elif isinstance(item, MessageItem) and item.role == "assistant":
            if text or calls:
                finish()
            text, is_assembling = item.text, True
        elif isinstance(item, FunctionCallOutputItem):
            finish()
            messages.append(ServiceMessage("tool", item.text, own_media, tool_call_id=item.call_id))
        else:
            finish()
            role = "system" if item.role == "developer" else item.role
            messages.append(ServiceMessage(role, item.text, own_media))
    finish()
    return messages
