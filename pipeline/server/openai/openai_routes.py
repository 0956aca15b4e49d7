"""OpenAI's HTTP API: models, chat completions, completions and embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from reellama.pipeline.llm.text_embedding import shortened
from reellama.pipeline.llm.tool_calls.answer_events import AnswerEvent, CallDelta
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.client_errors import told
from reellama.pipeline.server.disconnects import CLIENT_CLOSED_REQUEST, cancel_on_disconnect
from reellama.pipeline.server.model_registry import (
    RegisteredModel,
    all_models,
    delete_made_model,
    look_up_model,
)
from reellama.pipeline.server.model_store import short_name
from reellama.pipeline.server.openai import openai_replies as replies
from reellama.pipeline.server.openai.openai_media import read_messages
from reellama.pipeline.server.openai.openai_schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    OpenAIGenerationRequest,
)
from reellama.pipeline.server.replies.json_bodies import address_problem, json_body
from reellama.pipeline.server.service import Service, ServiceError

# A choice without its finish_reason, from the pieces of an answer.
Render = Callable[[list[AnswerEvent]], dict[str, Any]]


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with what it raises turned into responses."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:  # of an address
                return _failed(400, address_problem(error))
            except HTTPException as error:
                return _failed(error.status_code, str(error.detail))
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told and logged
                headers, option = getattr(error, "headers", None), getattr(error, "option", None)
                return _failed(*told(error), option, headers=headers)

        return handler


router = APIRouter(prefix="/v1", route_class=OpenAIRoute, tags=["OpenAI"])


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that answer here."""
    service: Service = request.app.state.service
    known = await asyncio.to_thread(all_models, service.settings, service.store)
    return {"object": "list", "data": [_model(each) for each in known]}


@router.get("/models/{name:path}")
async def show_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    service: Service = request.app.state.service
    known = await asyncio.to_thread(look_up_model, name, service.settings, service.store)
    return _model(known) | {"id": name}  # as it was asked for


@router.delete("/models/{name:path}")
async def delete_model(request: Request, name: str) -> dict[str, Any]:
    """Forget one that a client made."""
    service: Service = request.app.state.service
    await asyncio.to_thread(delete_made_model, name, service.settings, service.store)
    return {"id": name, "object": "model", "deleted": True}


@router.post("/chat/completions", response_model=None)
async def chat(
    request: Request, body: Annotated[ChatCompletionRequest, json_body(ChatCompletionRequest)]
) -> Response | dict[str, Any]:
    """The next message of a conversation, which may show pictures and videos."""
    service: Service = request.app.state.service

    async def ask() -> ChatAnswer:
        messages = await read_messages(body.messages, service)
        return await service.chat(body.model, body.to_chat(messages), body.options())

    def message(events: list[AnswerEvent]) -> dict[str, Any]:
        return {"message": replies.message(events), **logprobs(events)}

    def delta(events: list[AnswerEvent]) -> dict[str, Any]:
        return {"delta": replies.delta(events), **logprobs(events)}

    def logprobs(events: list[AnswerEvent]) -> dict[str, Any]:
        tokens = replies.text_tokens(events)
        n = body.top_logprobs or 0
        wanted = body.logprobs and tokens
        return {"logprobs": replies.chat_logprobs(tokens, n) if wanted else None}

    reply = replies.ReplyFrame("chat.completion", body.model)
    if body.stream:
        opening = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}
        return await _stream(request, body, reply, ask(), delta, opening)
    return await _whole(request, reply, ask(), message)


@router.post("/completions", response_model=None)
async def complete(
    request: Request, body: Annotated[CompletionRequest, json_body(CompletionRequest)]
) -> Response | dict[str, Any]:
    """What follows a text."""
    service: Service = request.app.state.service
    echoed = body.text if body.echo else ""
    n_written = 0  # characters so far

    async def ask() -> ChatAnswer:
        return ChatAnswer(await service.complete(body.model, body.text, body.options()))

    def piece(events: list[AnswerEvent]) -> dict[str, Any]:
        nonlocal n_written
        tokens, n = replies.text_tokens(events), body.logprobs
        offset = len(echoed) + n_written
        logprobs = None if n is None else replies.completion_logprobs(tokens, n, offset)
        text = "".join(token.text for token in tokens)
        n_written += len(text)
        return {"text": text, "logprobs": logprobs}

    def whole(events: list[AnswerEvent]) -> dict[str, Any]:
        choice = piece(events)
        return choice | {"text": echoed + choice["text"]}

    reply = replies.ReplyFrame("text_completion", body.model)
    if body.stream:
        opening = {"text": echoed, "logprobs": None} if echoed else None
        return await _stream(request, body, reply, ask(), piece, opening)
    return await _whole(request, reply, ask(), whole)


@router.post("/embeddings")
async def embed(
    request: Request, body: Annotated[EmbeddingRequest, json_body(EmbeddingRequest)]
) -> dict[str, Any]:
    """Texts as unit vectors."""
    service: Service = request.app.state.service
    work = service.embed(body.model, body.texts, keep_alive=body.keep_alive)
    vectors, read = await cancel_on_disconnect(request, work)
    if body.dimensions:
        if body.dimensions > len(vectors[0]):
            raise ServiceError(f"{body.model} makes {len(vectors[0])} dimensions, not more")
        vectors = [shortened(vector, body.dimensions) for vector in vectors]
    return replies.embeddings(vectors, body.encoding_format, body.model, read)


async def _whole(
    request: Request,
    reply: replies.ReplyFrame,
    work: Coroutine[Any, Any, ChatAnswer],
    render: Render,
) -> dict[str, Any]:
    events, answer = await cancel_on_disconnect(request, _finish(work))
    return reply.whole(render(events), answer.finish_reason, answer.stats)


async def _stream(
    request: Request,
    body: OpenAIGenerationRequest,
    reply: replies.ReplyFrame,
    work: Coroutine[Any, Any, ChatAnswer],
    render: Render,
    opening: dict[str, Any] | None,
) -> Response:
    # The first piece is awaited here, where an error still has a status of its own.
    answer, first = await cancel_on_disconnect(request, _begin(work))
    pieces = _pieces(answer, first, render, opening)
    return EventStream(answer, _events(answer, pieces, reply, body.include_usage))


async def _begin(
    work: Coroutine[Any, Any, ChatAnswer],
) -> tuple[ChatAnswer, AnswerEvent | None]:
    answer = await work
    try:
        return answer, await anext(answer, None)
    except BaseException:
        await answer.aclose()
        raise


async def _finish(work: Coroutine[Any, Any, ChatAnswer]) -> tuple[list[AnswerEvent], ChatAnswer]:
    async with aclosing(await work) as answer:
        return [event async for event in answer], answer


class EventStream(StreamingResponse):
    """Server-sent events of an answer, which ends with the response, however that ends."""

    def __init__(self, answer: ChatAnswer, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


async def _pieces(
    answer: ChatAnswer,
    first: AnswerEvent | None,
    render: Render,
    opening: dict[str, Any] | None,
) -> AsyncIterator[dict[str, Any]]:
    """The choices of a stream: its opening, one a piece, and one with nothing but its end."""
    if opening is not None:
        yield opening
    if first is not None:
        yield render([first])
    async for event in answer:
        if not (isinstance(event, CallDelta) and event.is_end_alone):
            yield render([event])
    yield render([]) | {"finish_reason": answer.finish_reason}


async def _events(
    answer: ChatAnswer,
    pieces: AsyncIterator[dict[str, Any]],
    reply: replies.ReplyFrame,
    include_usage: bool,
) -> AsyncIterator[str]:
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        async for choice in pieces:
            yield replies.event(reply.piece(choice) | usage)
    except Exception as error:  # noqa: BLE001  # the status is long sent
        yield replies.event(replies.error(*told(error)))
        return
    if include_usage:
        yield replies.event(reply.piece(None) | {"usage": replies.usage(answer.stats)})
    yield replies.DONE_EVENT


def _model(known: RegisteredModel) -> dict[str, Any]:
    made = int(datetime.fromisoformat(known.modified_at).timestamp())
    name = short_name(known.manifest.name)
    return {"id": name, "object": "model", "created": made, "owned_by": "reellama"}


def _failed(
    status: int, message: str, param: str | None = None, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(replies.error(status, message, param=param), status, headers)
