"""The requests of OpenAI's API: chat completions, completions and embeddings.

Fields that have no effect here (user, metadata, store, ...) are ignored. Unsupported fields that
would change the answer are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from reellama.pipeline.llm.generation_options import (
    NO_LIMIT,
    RANDOM_SEED,
    SAMPLING_OPTIONS,
    GenerationOptions,
    Sampling,
    requested_sampling,
)
from reellama.pipeline.llm.tool_calls.answer_events import ToolCall
from reellama.pipeline.server.chat.call_arguments import CallArguments, tool_call_from
from reellama.pipeline.server.chat.chat_request import (
    ChatRequest,
    ServiceMessage,
    think_from,
    tool_choice_from,
    tool_from_definition,
)
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.keep_alive import KeepAlive
from reellama.pipeline.server.openai.openai_parts import (
    MessagePart,
    PartsMessage,
)
from reellama.pipeline.server.video_options import VIDEO_OPTIONS, checked_video_options

MAX_CHOICES = 16  # answers to one request
MAX_ID_DIGITS = 9  # of a token id
MAX_INPUTS = 2048  # texts of one request for embeddings, as in OpenAI's API
NO_EFFORT = ("none", "minimal")  # values of reasoning_effort without reasoning
COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens for completions


class FunctionCall(BaseModel):
    """The tool that was called; `arguments` are JSON text."""

    name: str
    arguments: CallArguments = Field(default_factory=dict)


class MessageToolCall(BaseModel):
    """A call of a tool in an assistant's message."""

    id: str
    function: FunctionCall


class ChatMessage(PartsMessage):
    """One message: its content is a string, or parts of text, pictures and videos."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[MessagePart] | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    # The name of reasoning in DeepSeek's API, vLLM and llama.cpp; OpenAI's API has no such field.
    reasoning_content: str | None = None

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls."""
        return tuple(
            tool_call_from(call.function.name, call.function.arguments, call.id)
            for call in self.tool_calls or ()
        )


class JSONSchema(BaseModel):
    """The schema that an answer must follow; its name and strictness are ignored."""

    model_config = ConfigDict(populate_by_name=True)

    body: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """Whether the answer is text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given exactly when type is json_schema")
        return self

    def as_option(self) -> str | dict[str, Any] | None:
        """The service's response_format."""
        if self.json_schema is not None:
            return self.json_schema.body
        return "json" if self.type == "json_object" else None


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = None


def _check_max_tokens(n: int) -> int:
    """Allow also -1, which means no limit as in llama.cpp's server."""
    if n < 1 and n != NO_LIMIT:
        raise ValueError(f"an answer has at least 1 token, not {n}; for no limit give {NO_LIMIT}")
    return n


MaxTokens = Annotated[int, AfterValidator(_check_max_tokens)]


# A prompt that is echoed needs no answer: 0 tokens.
CompletionMaxTokens = Annotated[int, AfterValidator(lambda n: n and _check_max_tokens(n))]


class OpenAIGenerationRequest(BaseModel):
    """The common fields of chat completions and completions.

    Sampling options default to those of `Sampling`: the likeliest token, repeatably. Extensions are
    llama.cpp's samplers (top_k, min_p, ...), `VIDEO_OPTIONS`, and Ollama's `keep_alive`. Bounds are
    those of `requested_sampling`, as in Ollama's protocol.
    """

    model: str = Field(min_length=1)
    stream: bool | None = None
    keep_alive: KeepAlive = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: MaxTokens | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    frames: int | None = None
    sampling: str | None = None
    fps: float | None = None
    start: float | str | None = None
    end: float | str | None = None
    subtitles: str | None = None
    tokens: int | None = None
    pooling: str | None = None
    model_only: bool | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("logit_bias")
    @classmethod
    def _check_token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for name in bias or ():
            if not (name.isdecimal() and len(name) <= MAX_ID_DIGITS):
                raise ValueError(f"{name[:40]!r} is no token id: give those of this model")
        return bias

    @model_validator(mode="after")
    def _check_stream_options(self) -> OpenAIGenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def options(self) -> RequestOptions:
        """The service's options. Raises ReellamaError for a value out of range."""
        raise NotImplementedError

    def choices(self) -> list[RequestOptions]:
        """The options of each of the `n` answers to a prompt, which have different seeds."""
        first = self.options()
        choices = [first]
        for i in range(1, self.n or 1):
            sampling = first.generation_options.sampling
            if sampling.seed is not None:
                sampling = replace(sampling, seed=(sampling.seed + i) % RANDOM_SEED)
            generation_options = replace(first.generation_options, sampling=sampling)
            choices.append(replace(first, generation_options=generation_options))
        return choices

    def video(self) -> dict[str, Any]:
        """The video options. Raises ReellamaError for a value out of range."""
        return checked_video_options(self.model_dump(include={*VIDEO_OPTIONS}))

    def token_sampling(self) -> Sampling:
        """The sampling options. Raises SamplingError for a value out of range."""
        bias = tuple((int(token), value) for token, value in (self.logit_bias or {}).items())
        return replace(
            requested_sampling(self.model_dump(include={*SAMPLING_OPTIONS})), logit_bias=bias
        )


class ChatCompletionRequest(OpenAIGenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # of llama.cpp's server and vLLM

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs: true")
        return self

    def to_chat(self, messages: Sequence[ServiceMessage]) -> ChatRequest:
        """The service's request. Raises ReellamaError for tools that cannot be used."""
        return ChatRequest(
            messages,
            [tool_from_definition(tool) for tool in self.tools or ()],
            tool_choice_from(self.tool_choice),
            self.parallel_tool_calls is not False,
            think_from(False if self.reasoning_effort in NO_EFFORT else self.reasoning_effort),
            self.chat_template_kwargs or {},
        )

    def options(self) -> RequestOptions:
        """The service's options."""
        return RequestOptions(
            GenerationOptions(
                sampling=self.token_sampling(),
                max_tokens=self.max_completion_tokens or self.max_tokens or NO_LIMIT,
                stop=self.stop or (),
                n_probs=max(1, self.top_logprobs or 0) if self.logprobs else 0,
            ),
            keep_alive=self.keep_alive,
            response_format=self.response_format.as_option() if self.response_format else None,
            video=self.video(),
            model_only=self.model_only,
        )


class CompletionRequest(OpenAIGenerationRequest):
    """POST /v1/completions: the prompt is read as it is, without a chat template."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: CompletionMaxTokens | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return [*self.prompt]

    @model_validator(mode="after")
    def _check_number_of_choices(self) -> CompletionRequest:
        n = (self.n or 1) * len(self.prompts) if self.prompt or self.prompt == "" else 0
        if not 1 <= n <= MAX_CHOICES:
            raise ValueError(f"prompt: 1 to {MAX_CHOICES} answers are written, not {n}")
        is_text = all(isinstance(prompt, str) for prompt in self.prompts)
        if self.echo and self.suffix and not (is_text and self.logprobs is None):
            raise ValueError("suffix: with one, echo takes a prompt that is text, and no logprobs")
        return self

    def options(self) -> RequestOptions:
        """The service's options."""
        return RequestOptions(
            GenerationOptions(
                sampling=self.token_sampling(),
                max_tokens=COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens,
                stop=self.stop or (),
                n_probs=0 if self.logprobs is None else max(1, self.logprobs),
            ),
            keep_alive=self.keep_alive,
        )


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings: one text or several, each as text or as token ids."""

    model: str = Field(min_length=1)
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    keep_alive: KeepAlive = None

    @field_validator("input", mode="before")
    @classmethod
    def _check_input(cls, value: Any) -> Any:
        inputs = value if isinstance(value, list) else [value]
        kinds = {type(text) for text in inputs}
        if kinds not in ({str}, {int}, {list}):
            raise ValueError("give a text, texts, a list of token ids, or a list of such lists")
        if len(inputs) > MAX_INPUTS and kinds != {int}:
            raise ValueError(f"at most {MAX_INPUTS} texts are taken, not {len(inputs)}")
        return value

    @property
    def texts(self) -> list[str | list[int]]:
        """The texts, each as text or token ids."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            return [self.input]
        return [*self.input]
