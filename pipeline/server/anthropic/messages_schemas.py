"""The requests of Anthropic's Messages API (https://docs.anthropic.com/en/api/messages).

Extensions are the fields of `VideoFields` in blocks with media, and `VIDEO_OPTIONS` in requests.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reellama.pipeline.llm.finite_json import finite_object
from reellama.pipeline.llm.generation_options import (
    NO_LIMIT,
    SAMPLING_OPTIONS,
    GenerationOptions,
    requested_sampling,
)
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
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
from reellama.pipeline.server.media.media_references import MediaReference, VideoFields
from reellama.pipeline.server.video_options import VIDEO_OPTIONS, checked_video_options

# Budgets of thinking, in tokens, up to which the level is low, and medium; beyond it is high.
LOW_BUDGET, MEDIUM_BUDGET = 2048, 8192


class TextBlock(BaseModel):
    """A block of text."""

    type: Literal["text"]
    text: str


def _documents_as_text(content: Any) -> Any:
    """The content of a message, with plain-text documents turned into blocks of text."""
    if not isinstance(content, list):
        return content
    return [_text_of_document(part) if isinstance(part, dict) else part for part in content]


def _text_of_document(block: dict[str, Any]) -> dict[str, Any]:
    source, title = block.get("source"), block.get("title")
    if block.get("type") != "document" or not isinstance(source, dict):
        return block
    if source.get("type") != "text":
        return block
    text = source.get("data")
    if not isinstance(text, str):
        raise ValueError("a document that is text has it in source.data")
    return {"type": "text", "text": f"{title}\n{text}" if isinstance(title, str) else text}


class MediaBlockSource(BaseModel):
    """The source of a picture or video: base64, a URL, or an uploaded file."""

    type: Literal["base64", "url", "file"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


class MediaBlock(VideoFields):
    """A block with a picture or video."""

    type: Literal["image", "video", "document", "container_upload"]
    source: MediaBlockSource
    title: str | None = None

    def reference(self) -> MediaReference:
        """The block as a media reference."""
        fields = {name: getattr(self, name) for name in VideoFields.model_fields}
        source = self.source
        key = {"base64": "data", "url": "url", "file": "file_id"}[source.type]
        fields |= {key: getattr(source, key), "name": self.name or self.title}
        return MediaReference.model_validate(fields)

    @model_validator(mode="after")
    def _check_source(self) -> MediaBlock:
        self.reference()
        return self


class ToolUseBlock(BaseModel):
    """A tool call of the assistant."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] | None = None


class ToolResultBlock(BaseModel):
    """The result of a tool call: text, pictures and videos."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[
        str | list[Annotated[TextBlock | MediaBlock, Field(discriminator="type")]] | None,
        BeforeValidator(_documents_as_text),
    ] = None
    is_error: bool | None = None

    @property
    def text(self) -> str:
        """The text of the result."""
        blocks = self.content if isinstance(self.content, list) else []
        texts = [block.text for block in blocks if isinstance(block, TextBlock)]
        text = self.content if isinstance(self.content, str) else "\n".join(texts)
        return f"Error: {text}" if self.is_error else text

    @property
    def media(self) -> list[MediaReference]:
        """The pictures and videos of the result."""
        blocks = self.content if isinstance(self.content, list) else []
        return [block.reference() for block in blocks if isinstance(block, MediaBlock)]


class ThinkingBlock(BaseModel):
    """The assistant's reasoning."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(BaseModel):
    """Encrypted reasoning of the assistant, which is ignored."""

    type: Literal["redacted_thinking"]
    data: str


Block = Annotated[
    TextBlock | MediaBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock,
    Field(discriminator="type"),
]


class AnthropicMessage(BaseModel):
    """One message: text, or blocks."""

    role: Literal["user", "assistant"]
    content: Annotated[str | list[Block], BeforeValidator(_documents_as_text)]

    @property
    def blocks(self) -> list[Any]:
        """The message's content as blocks."""
        if isinstance(self.content, str):
            return [TextBlock(type="text", text=self.content)]
        return self.content

    def of(self, kind: type[Any]) -> list[Any]:
        """The blocks of one kind."""
        return [block for block in self.blocks if isinstance(block, kind)]

    @model_validator(mode="after")
    def _check_blocks_for_role(self) -> AnthropicMessage:
        if self.role == "assistant" and (self.of(MediaBlock) or self.of(ToolResultBlock)):
            raise ValueError("pictures, videos and results of tools belong in user messages")
        if self.role == "user" and (self.of(ToolUseBlock) or self.of(ThinkingBlock)):
            raise ValueError("tool_use and thinking belong in messages of the assistant")
        return self

    @property
    def media(self) -> list[list[MediaReference]]:
        """The media references of each message of `as_messages`."""
        results = [block.media for block in self.of(ToolResultBlock)]
        others = [block.reference() for block in self.of(MediaBlock)]
        return [*results, others] if self._is_more_than_results or not results else results

    def as_messages(self, media: list[tuple[MediaItem, ...]]) -> list[ServiceMessage]:
        """The service's messages: one for each tool result, then one for the rest.

        media: the items that `self.media` refers to.
        """
        results = self.of(ToolResultBlock)
        messages = [
            ServiceMessage("tool", block.text, items, tool_call_id=block.tool_use_id)
            for block, items in zip(results, media, strict=False)
        ]
        if self._is_more_than_results or not results:
            calls = [
                ToolCall(block.name, block.input or {}, block.id) for block in self.of(ToolUseBlock)
            ]
            text = "\n".join(block.text for block in self.of(TextBlock))
            reasoning = "\n".join(block.thinking for block in self.of(ThinkingBlock))
            messages.append(
                ServiceMessage(self.role, text, media[-1], tuple(calls), reasoning=reasoning)
            )
        return messages

    @property
    def _is_more_than_results(self) -> bool:
        return any(not isinstance(block, ToolResultBlock) for block in self.blocks)


class AnthropicTool(BaseModel):
    """A tool of the client."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]

    @property
    def definition(self) -> dict[str, Any]:
        """The tool in OpenAI's form, which chat templates take."""
        description = {"description": self.description} if self.description else {}
        function = {"name": self.name, **description, "parameters": self.input_schema}
        return {"type": "function", "function": function}


class AnthropicToolChoice(BaseModel):
    """Whether tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_tool_name(self) -> AnthropicToolChoice:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("name is given exactly when type is tool")
        return self

    def as_choice(self) -> ToolChoice:
        """This tool choice as a `ToolChoice`."""
        if self.type in ("any", "tool"):
            return ToolChoice("required", self.name)
        return ToolChoice("none" if self.type == "none" else "auto")


class Thinking(BaseModel):
    """Whether to think first, and for how many tokens."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)

    @property
    def level(self) -> Think:
        """The level of thinking."""
        if self.type == "adaptive":
            return None
        if self.type == "disabled" or self.budget_tokens is None:
            return self.type == "enabled"
        n = self.budget_tokens
        return "low" if n <= LOW_BUDGET else "medium" if n <= MEDIUM_BUDGET else "high"


class OutputFormat(BaseModel):
    """A JSON schema that the answer must follow."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["json_schema"]
    body: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    """The format of the answer; other fields (effort) are ignored."""

    format: OutputFormat | None = None


class CountTokensRequest(BaseModel):
    """POST /v1/messages/count_tokens."""

    model: str = Field(min_length=1)
    messages: list[AnthropicMessage] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    keep_alive: KeepAlive = None
    frames: int | None = None
    sampling: str | None = None
    fps: float | None = None
    start: float | str | None = None
    end: float | str | None = None
    subtitles: str | None = None
    tokens: int | None = None
    pooling: str | None = None
    model_only: bool | None = None

    @property
    def instructions(self) -> str:
        """The system prompt."""
        if isinstance(self.system, list):
            return "\n".join(block.text for block in self.system)
        return self.system or ""

    def to_chat(self, messages: list[ServiceMessage]) -> ChatRequest:
        """The service's request. Raises ReellamaError for tools that cannot be used."""
        system = [ServiceMessage("system", self.instructions)] if self.instructions else []
        choice = self.tool_choice
        return ChatRequest(
            [*system, *messages],
            [tool_from_definition(tool.definition) for tool in self.tools or ()],
            choice.as_choice() if choice else ToolChoice(),
            parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
            think=self.thinking.level if self.thinking else None,
        )

    def options(self) -> RequestOptions:
        """The service's options. Raises ReellamaError for a value out of range."""
        video = checked_video_options(self.model_dump(include={*VIDEO_OPTIONS}))
        generation_options = GenerationOptions(max_tokens=NO_LIMIT, n_probs=0)
        return RequestOptions(
            generation_options,
            keep_alive=self.keep_alive,
            video=video,
            model_only=self.model_only,
        )


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages. Sampling options default to those of `Sampling`."""

    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the older name of output_config.format
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

    def options(self) -> RequestOptions:
        """The service's options. Raises ReellamaError for a value out of range."""
        generation_options = GenerationOptions(
            sampling=requested_sampling(self.model_dump(include={*SAMPLING_OPTIONS})),
            max_tokens=self.max_tokens,
            stop=self.stop_sequences or (),
            n_probs=0,
        )
        return RequestOptions(
            generation_options,
            keep_alive=self.keep_alive,
            response_format=self._response_format,
            video=super().options().video,
            model_only=self.model_only,
        )

    @property
    def _response_format(self) -> dict[str, Any] | None:
        """The schema that the answer follows."""
        form = (self.output_config and self.output_config.format) or self.output_format
        return form.body if form else None


def call_input(text: str) -> dict[str, Any]:
    """The arguments of a call from their JSON text; {} if that is no object."""
    return finite_object(text) or {}
