"""The requests of Ollama's API (https://docs.ollama.com/api). Unknown fields are ignored, as there.

Unlike in Ollama, sampling defaults to the likeliest token (see `Sampling`), and the length of an
answer has no limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.generation_options import (
    INTEGER_OPTIONS,
    NO_LIMIT,
    REAL_OPTIONS,
    SAMPLING_OPTIONS,
    GenerationOptions,
    requested_sampling,
)
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.option_fields import as_float
from reellama.pipeline.server.chat.chat_request import (
    ChatRequest,
    ServiceMessage,
    Think,
    think_from,
    tool_choice_from,
    tool_from_definition,
)
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.keep_alive import KeepAlive
from reellama.pipeline.server.media.media_references import MediaReference
from reellama.pipeline.server.video_options import checked_video_options

MAX_TOP_LOGPROBS = 20
INVALID_FORMAT = 'invalid format; expected "json" or a JSON schema'

# Names of options: those of `Sampling`, num_predict for max_tokens, and num_ctx for n_ctx.
INTEGERS = (*INTEGER_OPTIONS, "num_predict", "num_ctx")


class ModelRequest(BaseModel):
    """The fields of all requests about a model. Old clients call the model `name`."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    model: str = Field(min_length=1, validation_alias=AliasChoices("model", "name"))
    stream: bool | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer is streamed, as it is by default."""
        return self.stream is not False


class PushRequest(ModelRequest):
    """POST /api/push."""

    insecure: bool | None = None


class LoadingRequest(ModelRequest):
    """A request that loads the model."""

    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class OllamaGenerationRequest(LoadingRequest):
    """A request that is answered with generated text."""

    format: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    think: bool | str | None = None
    truncate: bool | None = None

    @property
    def wants_thinking(self) -> Think:
        """Whether to think first. Raises ReellamaError, in Ollama's words, for another value."""
        return think_from(self.think)

    def to_options(self, parameters: Mapping[str, Any]) -> RequestOptions:
        """The service's options: those of the request, which override the model's `parameters`.

        Raises ReellamaError for a value of a wrong kind or out of range.
        """
        if isinstance(self.format, str) and self.format not in ("", "json"):
            raise ReellamaError(INVALID_FORMAT)
        checked = check_options({**parameters, **(self.options or {})})
        n_probs = max(self.top_logprobs or 0, 1) if self.logprobs else 0
        return RequestOptions(
            replace(generation_options(checked), n_probs=n_probs),
            n_ctx=max(checked.get("num_ctx", 0), 0) or None,
            keep_alive=self.keep_alive,
            response_format=self.format or None,
            video=checked_video_options(self.options or {}),
            model_only=checked.get("model_only"),
            truncate=self.truncate is not False,
        )


class MediaFields(BaseModel):
    """Pictures and videos: base64, or paths in folders that are allowed.

    videos: also objects, see `MediaReference`. times: seconds of the `images`, which are then one
    video.
    """

    images: list[str] | None = None
    videos: list[str | MediaReference] | None = None
    times: list[float] | None = None

    @model_validator(mode="after")
    def _check_times(self) -> MediaFields:
        _ = self.media
        return self

    @property
    def media(self) -> list[str | MediaReference]:
        """The pictures and videos, in order."""
        images: list[str | MediaReference] = [*(self.images or ())]
        if self.times is not None:
            video = {"images": self.images, "times": self.times}
            images = [MediaReference.model_validate(video)]
        return [*images, *(self.videos or ())]


class OllamaFunctionCall(BaseModel):
    """The tool that was called, and its arguments."""

    name: str
    arguments: dict[str, Any] | None = None


class OllamaToolCall(BaseModel):
    """A call of a tool in an assistant's message."""

    id: str | None = None
    function: OllamaFunctionCall


class OllamaMessage(MediaFields):
    """One message."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = Field(None, validation_alias=AliasChoices("tool_name", "name"))
    tool_call_id: str | None = None

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls."""
        return tuple(
            ToolCall(call.function.name, call.function.arguments or {}, call.id or "")
            for call in self.tool_calls or ()
        )


class OllamaChatRequest(OllamaGenerationRequest):
    """POST /api/chat."""

    messages: list[OllamaMessage] | None = None
    tools: list[Any] | None = None
    # As in OpenAI's protocol; not a field of Ollama's. It may also be one of the options.
    tool_choice: Any = None

    def to_chat(self, messages: Sequence[ServiceMessage]) -> ChatRequest:
        """The service's request. Raises ReellamaError for tools that cannot be used."""
        return ChatRequest(
            messages,
            [tool_from_definition(tool) for tool in self.tools or ()],
            tool_choice_from(self.tool_choice or (self.options or {}).get("tool_choice")),
            think=self.wants_thinking,
        )


class GenerateRequest(OllamaGenerationRequest, MediaFields):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None


class EmbedRequest(LoadingRequest):
    """POST /api/embed."""

    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=0)

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        return [self.input] if isinstance(self.input, str) else self.input or []


class EmbeddingsRequest(LoadingRequest):
    """POST /api/embeddings, the predecessor of /api/embed."""

    prompt: str | None = None


class ShowRequest(ModelRequest):
    """POST /api/show."""

    verbose: bool | None = None


class CopyRequest(BaseModel):
    """POST /api/copy."""

    source: str = Field(min_length=1)
    destination: str = Field(min_length=1)


class CreateRequest(ModelRequest):
    """POST /api/create. `files` and `adapters` are digests of blobs by file name."""

    from_: str | None = Field(None, alias="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[OllamaMessage] | None = None
    quantize: str | None = None


def generation_options(options: Mapping[str, Any]) -> GenerationOptions:
    """The `GenerationOptions` of a request's or a model's options.

    Raises ReellamaError for a value of a wrong kind or out of range.
    """
    checked = check_options(options)
    return GenerationOptions(
        sampling=requested_sampling({n: checked[n] for n in SAMPLING_OPTIONS if n in checked}),
        max_tokens=max(checked.get("num_predict", NO_LIMIT), NO_LIMIT),
        stop=checked.get("stop", ()),
    )


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The supported options with values of the right kind, without nulls.

    Raises ReellamaError, in Ollama's words, for a value of another kind.
    """
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in REAL_OPTIONS:
            checked[name] = as_float(_number(name, value, "float32"))
        elif name in INTEGERS:
            checked[name] = _integer(name, value)
        elif name == "stop":
            checked[name] = _strings(name, value)
        elif name == "model_only":
            checked[name] = _boolean(name, value)
    return checked


def _number(name: str, value: Any, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReellamaError(f'option "{name}" must be of type {kind}')
    return value


def _integer(name: str, value: Any) -> int:
    number = _number(name, value, "integer")
    if not abs(number) <= (2**63 if isinstance(number, int) else 2**53):
        raise ReellamaError(f'option "{name}" must be of type integer')
    return int(number)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ReellamaError(f'option "{name}" must be true or false')
    return value


def _strings(name: str, value: Any) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
        raise ReellamaError(f'option "{name}" must be of type array')
    return [text for text in strings if text]
