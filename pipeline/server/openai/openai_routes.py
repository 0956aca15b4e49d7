"""OpenAI's HTTP API: models, chat completions, completions and embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.text_embedding import shortened
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent, CallDelta
from reellama.pipeline.server.anthropic.anthropic_errors import ANTHROPIC_HEADER
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.client_errors import status_and_message
from reellama.pipeline.server.disconnects import CLIENT_CLOSED_REQUEST, cancel_on_disconnect
from reellama.pipeline.server.model_registry.model_lookup import (
    all_models,
    delete_stored_model,
    look_up_model,
)
from reellama.pipeline.server.model_registry.model_name import ModelStoreError, short_name
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.openai import openai_replies as replies
from reellama.pipeline.server.openai.choices import ChoiceEvent, Choices
from reellama.pipeline.server.openai.openai_media import read_messages
from reellama.pipeline.server.openai.openai_schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    OpenAIGenerationRequest,
)
from reellama.pipeline.server.replies.event_streams import EventStream, sse_event, start_stream
from reellama.pipeline.server.request_bodies.json_bodies import invalid_parameter_message, json_body
from reellama.pipeline.server.service import Service

# Makes a choice without finish_reason from events of an answer and the index of the choice.
Render = Callable[[list[AnswerEvent], int], dict[str, Any]]


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with its exceptions turned into responses."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:  # of a URL's parameters
                return _error_response(400, invalid_parameter_message(error))
            except HTTPException as error:
                return _error_response(error.status_code, str(error.detail))
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except Exception as error:  # noqa: BLE001  # any error is logged and answered
                headers, option = getattr(error, "headers", None), getattr(error, "option", None)
                code = error.code if isinstance(error, ModelStoreError) else None
                return _error_response(
                    *status_and_message(error), option, code=code, headers=headers
                )

        return handler


router = APIRouter(prefix="/v1", route_class=OpenAIRoute, tags=["OpenAI"])


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that clients can use."""
    service: Service = request.app.state.service
    models = await asyncio.to_thread(all_models, service.settings, service.store)
    data = [_model_entry(request, registered) for registered in models]
    if ANTHROPIC_HEADER not in request.headers:
        return {"object": "list", "data": data}
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"data": data, "has_more": False, **ends}


@router.get("/models/{name:path}")
async def show_model(request: Request, name: str) -> dict[str, Any]:
    """One model."""
    service: Service = request.app.state.service
    registered = await asyncio.to_thread(look_up_model, name, service.settings, service.store)
    return _model_entry(request, registered) | {"id": name}  # as requested


@router.delete("/models/{name:path}")
async def delete_model(request: Request, name: str) -> dict[str, Any]:
    """Delete a model that a client created."""
    service: Service = request.app.state.service
    await asyncio.to_thread(delete_stored_model, name, service.settings, service.store)
    return {"id": name, "object": "model", "deleted": True}


@router.post("/chat/completions", response_model=None)
async def chat(
    request: Request, body: Annotated[ChatCompletionRequest, json_body(ChatCompletionRequest)]
) -> Response | dict[str, Any]:
    """The next message of a conversation, which may show pictures and videos."""
    service: Service = request.app.state.service

    async def ask() -> Choices:
        chat_request = body.to_chat(await read_messages(body.messages, service))
        body.messages.clear()  # frees them, also from garbage collections, before the answer
        choices = body.choices()
        answering = [service.chat(body.model, chat_request, options) for options in choices]
        return await Choices.start(answering, len(choices))

    def message(events: list[AnswerEvent], _: int) -> dict[str, Any]:
        return {"message": replies.message(events), **logprobs(events)}

    def delta(events: list[AnswerEvent], _: int) -> dict[str, Any]:
        return {"delta": replies.delta(events), **logprobs(events)}

    def logprobs(events: list[AnswerEvent]) -> dict[str, Any]:
        tokens = replies.text_tokens(events)
        n = body.top_logprobs or 0
        has_logprobs = body.logprobs and tokens
        return {"logprobs": replies.chat_logprobs(tokens, n) if has_logprobs else None}

    reply = replies.ReplyFrame("chat.completion", body.model)
    if body.stream:
        opening = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}
        openings = [opening] * len(body.choices())
        return await _stream(request, body, reply, ask(), delta, openings)
    return await _whole(request, reply, ask(), message)


@router.post("/completions", response_model=None)
async def complete(
    request: Request, body: Annotated[CompletionRequest, json_body(CompletionRequest)]
) -> Response | dict[str, Any]:
    """Continue a text, or each of several."""
    service: Service = request.app.state.service
    echoed = [_echoed_text(body, prompt) for prompt in body.prompts for _ in body.choices()]
    offsets = [len(text) for text in echoed]  # characters of each choice so far

    async def answer(prompt: str | list[int], options: RequestOptions) -> ChatAnswer:
        echo = bool(body.echo and not _echoed_text(body, prompt))
        suffix = body.suffix or None
        return ChatAnswer(await service.complete(body.model, prompt, options, (), suffix, echo))

    async def ask() -> Choices:
        choices = body.choices()
        answering = [answer(prompt, options) for prompt in body.prompts for options in choices]
        return await Choices.start(answering, len(choices))

    def chunk(events: list[AnswerEvent], choice: int) -> dict[str, Any]:
        tokens, n = replies.text_tokens(events), body.logprobs
        logprobs = None if n is None else replies.completion_logprobs(tokens, n, offsets[choice])
        text = "".join(token.text for token in tokens)
        offsets[choice] += len(text)
        return {"text": text, "logprobs": logprobs}

    def whole(events: list[AnswerEvent], choice: int) -> dict[str, Any]:
        rendered = chunk(events, choice)
        return rendered | {"text": f"{echoed[choice]}{rendered['text']}"}

    reply = replies.ReplyFrame("text_completion", body.model)
    if body.stream:
        openings = [{"text": text, "logprobs": None} if text else None for text in echoed]
        return await _stream(request, body, reply, ask(), chunk, openings)
    return await _whole(request, reply, ask(), whole)


def _echoed_text(body: CompletionRequest, prompt: str | list[int]) -> str:
    """The prompt that an answer begins with; "" if it has none, or has the prompt's tokens."""
    is_echoed = body.echo and body.logprobs is None
    return prompt if is_echoed and isinstance(prompt, str) else ""


@router.post("/embeddings")
async def embed(
    request: Request, body: Annotated[EmbeddingRequest, json_body(EmbeddingRequest)]
) -> dict[str, Any]:
    """Unit vectors for texts."""
    service: Service = request.app.state.service
    embedding = service.embed(body.model, body.texts, keep_alive=body.keep_alive)
    vectors, n_tokens = await cancel_on_disconnect(request, embedding)
    if body.dimensions:
        if body.dimensions > len(vectors[0]):
            raise ReellamaError(f"{body.model} makes {len(vectors[0])} dimensions, not more")
        vectors = [shortened(vector, body.dimensions) for vector in vectors]
    return replies.embeddings(vectors, body.encoding_format or "float", body.model, n_tokens)


async def _whole(
    request: Request,
    reply: replies.ReplyFrame,
    asking: Coroutine[Any, Any, Choices],
    render: Render,
) -> dict[str, Any]:
    events, choices = await cancel_on_disconnect(request, _finish(asking))
    rendered = [
        render(events[i], i) | {"finish_reason": answer.finish_reason}
        for i, answer in enumerate(choices.answers)
    ]
    return reply.whole(rendered, choices.stats)


async def _finish(asking: Coroutine[Any, Any, Choices]) -> tuple[list[list[AnswerEvent]], Choices]:
    """The events of each choice, without calls that the model itself left unfinished."""
    async with aclosing(await asking) as choices:
        events: list[list[AnswerEvent]] = [[] for _ in choices.answers]
        async for i, event in choices.events():
            events[i] += [event] if event is not None else []
        for i, answer in enumerate(choices.answers):
            if answer.finish_reason != "length":
                events[i] = replies.without_unfinished_calls(events[i])
        return events, choices


async def _stream(
    request: Request,
    body: OpenAIGenerationRequest,
    reply: replies.ReplyFrame,
    asking: Coroutine[Any, Any, Choices],
    render: Render,
    openings: Sequence[dict[str, Any] | None],
) -> Response:
    choices, events = await cancel_on_disconnect(request, start_stream(asking, Choices.events))
    rendered = _rendered_events(choices, events, render, openings)
    return EventStream(choices, _sse_events(choices, rendered, reply, body.include_usage))


async def _rendered_events(
    choices: Choices,
    events: AsyncIterator[ChoiceEvent],
    render: Render,
    openings: Sequence[dict[str, Any] | None],
) -> AsyncIterator[dict[str, Any]]:
    """The choices of a stream's chunks: the openings, the events, and an end for each choice."""
    for i, opening in enumerate(openings):
        if opening is not None:
            yield {"index": i, **opening}
    async for i, event in events:
        if event is None:
            ending = {"finish_reason": choices.answers[i].finish_reason}
            yield {"index": i, **render([], i), **ending}
        elif not (isinstance(event, CallDelta) and event.is_end_alone):
            yield {"index": i, **render([event], i)}


async def _sse_events(
    choices: Choices,
    rendered: AsyncIterator[dict[str, Any]],
    reply: replies.ReplyFrame,
    include_usage: bool,
) -> AsyncIterator[str]:
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        async for choice in rendered:
            yield sse_event(reply.chunk(choice) | usage)
    except Exception as error:  # noqa: BLE001  # the status was sent already
        yield sse_event(replies.error(*status_and_message(error)))
        return
    if include_usage:
        yield sse_event(reply.chunk(None) | {"usage": replies.usage(choices.stats)})
    yield replies.DONE_EVENT


def _model_entry(request: Request, registered: RegisteredModel) -> dict[str, Any]:
    modified_at = datetime.fromisoformat(registered.modified_at)
    name = short_name(registered.manifest.name)
    if ANTHROPIC_HEADER in request.headers:
        date = modified_at.astimezone(timezone.utc).isoformat()
        return {"type": "model", "id": name, "display_name": name, "created_at": date}
    created = int(modified_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "reellama"}


def _error_response(
    status: int,
    message: str,
    param: str | None = None,
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    return JSONResponse(replies.error(status, message, param=param, code=code), status, headers)
