"""Anthropic's Messages API: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reellama.pipeline.server.anthropic import messages_replies as replies
from reellama.pipeline.server.anthropic.anthropic_errors import anthropic_error
from reellama.pipeline.server.anthropic.messages_schemas import (
    CountTokensRequest,
    MessagesRequest,
)
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.chat_request import ChatRequest
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.client_errors import status_and_message
from reellama.pipeline.server.disconnects import CLIENT_CLOSED_REQUEST, cancel_on_disconnect
from reellama.pipeline.server.media.media_references import read_media
from reellama.pipeline.server.replies.answer_blocks import BlockEvent, block_events, whole_blocks
from reellama.pipeline.server.replies.event_streams import EventStream, sse_event, start_stream
from reellama.pipeline.server.request_bodies.json_bodies import json_body
from reellama.pipeline.server.service import Service


class AnthropicRoute(APIRoute):
    """A route whose errors have Anthropic's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with its exceptions turned into responses."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                return _error_response(error.status_code, str(error.detail))
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except Exception as error:  # noqa: BLE001  # any error is logged and answered
                return _error_response(
                    *status_and_message(error), headers=getattr(error, "headers", None)
                )

        return handler


router = APIRouter(prefix="/v1/messages", route_class=AnthropicRoute, tags=["Anthropic"])


@router.post("", response_model=None)
async def answer_messages(
    request: Request, body: Annotated[MessagesRequest, json_body(MessagesRequest)]
) -> Response | dict[str, Any]:
    """The next message of a conversation."""
    service: Service = request.app.state.service

    async def ask() -> ChatAnswer:
        return await service.chat(body.model, await _read_chat(service, body), body.options())

    if not body.stream:
        blocks, answer = await cancel_on_disconnect(request, _finish(ask()))
        return replies.message(body.model, blocks, answer)
    answer, events = await cancel_on_disconnect(request, start_stream(ask(), block_events))
    return EventStream(answer, _sse_events(body.model, events, answer))


@router.post("/count_tokens")
async def count_tokens(
    request: Request, body: Annotated[CountTokensRequest, json_body(CountTokensRequest)]
) -> dict[str, int]:
    """How many tokens a conversation takes, with its videos."""
    service: Service = request.app.state.service

    async def count() -> int:
        chat = await _read_chat(service, body)
        return await service.count_tokens(body.model, chat, body.options())

    return {"input_tokens": await cancel_on_disconnect(request, count())}


async def _read_chat(service: Service, body: CountTokensRequest) -> ChatRequest:
    """The chat of a request, with its media read."""
    messages = []
    async for message in yielding_to_event_loop(body.messages):
        media = [
            await read_media(references, service.settings, service.files)
            for references in message.media
        ]
        messages += message.as_messages(media)
    body.messages.clear()  # frees them, also from garbage collections, before the answer
    return body.to_chat(messages)


async def _finish(asking: Coroutine[Any, Any, ChatAnswer]) -> tuple[list[Any], ChatAnswer]:
    async with aclosing(await asking) as answer:
        return await whole_blocks(answer), answer


async def _sse_events(
    model: str, events: AsyncIterator[BlockEvent], answer: ChatAnswer
) -> AsyncIterator[str]:
    try:
        async for text in replies.message_events(model, events, answer):
            yield text
    except Exception as error:  # noqa: BLE001  # the status was sent already
        yield sse_event(anthropic_error(*status_and_message(error)), "error")


def _error_response(
    status: int, message: str, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(anthropic_error(status, message), status, headers)
