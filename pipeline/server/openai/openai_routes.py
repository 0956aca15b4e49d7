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

from reellama.pipeline.llm.engine import Token
from reellama.pipeline.llm.text_embedding import shortened
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
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    OpenAIGenerationRequest,
)
from reellama.pipeline.server.replies.json_bodies import address_problem, json_body
from reellama.pipeline.server.service import Generation, Service, ServiceError

# A choice without its finish_reason, from tokens and the characters that came before them.
Render = Callable[[list[Token], int], dict[str, Any]]


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
    request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]
) -> Response | dict[str, Any]:
    """The next message of a conversation, which may show pictures and videos."""
    service: Service = request.app.state.service

    async def ask() -> Generation:
        messages = await read_messages(body.messages, service)
        return await service.chat(body.model, messages, body.options())

    def message(tokens: list[Token], _: int) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": _text(tokens)}, **logprobs(tokens)}

    def delta(tokens: list[Token], _: int) -> dict[str, Any]:
        return {"delta": {"content": _text(tokens)} if tokens else {}, **logprobs(tokens)}

    def logprobs(tokens: list[Token]) -> dict[str, Any]:
        wanted = body.logprobs and tokens
        n = body.top_logprobs or 0
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

    def piece(tokens: list[Token], n_before: int) -> dict[str, Any]:
        n, offset = body.logprobs, len(echoed) + n_before
        logprobs = None if n is None else replies.completion_logprobs(tokens, n, offset)
        return {"text": _text(tokens), "logprobs": logprobs}

    def whole(tokens: list[Token], _: int) -> dict[str, Any]:
        return piece(tokens, 0) | {"text": echoed + _text(tokens)}

    reply = replies.ReplyFrame("text_completion", body.model)
    work = service.complete(body.model, body.text, body.options(), raw=True)
    if body.stream:
        opening = {"text": echoed, "logprobs": None} if echoed else None
        return await _stream(request, body, reply, work, piece, opening)
    return await _whole(request, reply, work, whole)


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
    work: Coroutine[Any, Any, Generation],
    render: Render,
) -> dict[str, Any]:
    tokens, generation = await cancel_on_disconnect(request, _finish(work))
    return reply.whole(render(tokens, 0), generation.stats)


async def _stream(
    request: Request,
    body: OpenAIGenerationRequest,
    reply: replies.ReplyFrame,
    work: Coroutine[Any, Any, Generation],
    render: Render,
    opening: dict[str, Any] | None,
) -> Response:
    # The first token is awaited here, where an error still has a status of its own.
    generation, first = await cancel_on_disconnect(request, _begin(work))
    pieces = _pieces(generation, first, render, opening)
    return EventStream(generation, _events(generation, pieces, reply, body.include_usage))


async def _begin(work: Coroutine[Any, Any, Generation]) -> tuple[Generation, Token | None]:
    generation = await work
    try:
        return generation, await anext(generation, None)
    except BaseException:
        await generation.aclose()
        raise


async def _finish(work: Coroutine[Any, Any, Generation]) -> tuple[list[Token], Generation]:
    async with aclosing(await work) as generation:
        return [token async for token in generation], generation


class EventStream(StreamingResponse):
    """Server-sent events of a generation, which ends with the response, however that ends."""

    def __init__(self, generation: Generation, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._generation.aclose()


async def _pieces(
    generation: Generation, first: Token | None, render: Render, opening: dict[str, Any] | None
) -> AsyncIterator[dict[str, Any]]:
    """The choices of a stream: its opening, one a token, and one with nothing but its end."""
    if opening is not None:
        yield opening
    n_before = 0
    if first is not None:
        yield render([first], 0)
        n_before = len(first.text)
    async for token in generation:
        yield render([token], n_before)
        n_before += len(token.text)
    yield render([], n_before) | {"finish_reason": generation.stats.stop_reason}


async def _events(
    generation: Generation,
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
        yield replies.event(reply.piece(None) | {"usage": replies.usage(generation.stats)})
    yield replies.DONE_EVENT


def _text(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def _model(known: RegisteredModel) -> dict[str, Any]:
    made = int(datetime.fromisoformat(known.modified_at).timestamp())
    name = short_name(known.manifest.name)
    return {"id": name, "object": "model", "created": made, "owned_by": "reellama"}


def _failed(
    status: int, message: str, param: str | None = None, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(replies.error(status, message, param=param), status, headers)
