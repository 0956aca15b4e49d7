"""/v1/responses: the server stores responses, so that clients need only send new items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.chat_request import ChatRequest
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.client_errors import status_and_message
from reellama.pipeline.server.disconnects import cancel_on_disconnect
from reellama.pipeline.server.media.media_references import read_media
from reellama.pipeline.server.openai.openai_routes import OpenAIRoute
from reellama.pipeline.server.replies.answer_blocks import (
    AnswerBlock,
    BlockEvent,
    block_events,
    whole_blocks,
)
from reellama.pipeline.server.replies.event_streams import EventStream, sse_event, start_stream
from reellama.pipeline.server.request_bodies.json_bodies import (
    MAX_OBJECTS,
    InvalidBody,
    invalid_body,
    json_body,
)
from reellama.pipeline.server.responses.response_store import ResponseStore, StoredResponse
from reellama.pipeline.server.responses.responses_replies import (
    ResponseReply,
    failure,
    response_events,
)
from reellama.pipeline.server.responses.responses_schemas import (
    FunctionCallOutputItem,
    InputItems,
    Item,
    MessageItem,
    ResponsesRequest,
    as_messages,
)
from reellama.pipeline.server.service import Service

router = APIRouter(prefix="/v1/responses", route_class=OpenAIRoute, tags=["responses"])


@router.post("", response_model=None)
async def respond(
    request: Request, body: Annotated[ResponsesRequest, json_body(ResponsesRequest)]
) -> Response | dict[str, Any]:
    """The next response of a conversation, whose earlier items may be stored."""
    service: Service = request.app.state.service
    reply = ResponseReply(ResponseStore.new_id(), body)

    async def ask() -> ChatAnswer:
        return await service.chat(body.model, await _read_chat(service, body), body.options())

    if body.stream:
        answer, events = await cancel_on_disconnect(request, start_stream(ask(), block_events))
        return EventStream(answer, _sse_events(service, reply, events, answer))
    blocks, answer = await cancel_on_disconnect(request, _finish(ask()))
    response = reply.finished(blocks, answer)
    await _store(service, body, response)
    return response


@router.post("/input_tokens")
async def count_input_tokens(
    request: Request, body: Annotated[ResponsesRequest, json_body(ResponsesRequest)]
) -> dict[str, Any]:
    """How many tokens a conversation takes, with its videos and stored items."""
    service: Service = request.app.state.service

    async def count() -> int:
        chat = await _read_chat(service, body)
        return await service.count_tokens(body.model, chat, body.options())

    n_tokens = await cancel_on_disconnect(request, count())
    return {"object": "response.input_tokens", "input_tokens": n_tokens}


@router.get("/{id_}")
async def show_response(request: Request, id_: str) -> dict[str, Any]:
    """A stored response."""
    return (await asyncio.to_thread(_responses(request).get, id_)).response


@router.get("/{id_}/input_items")
async def list_input_items(
    request: Request,
    id_: str,
    limit: int = Query(20, ge=1, le=100),
    order: str = Query("desc", pattern="^(asc|desc)$"),
    after: str | None = None,
) -> dict[str, Any]:
    """A page of the items of a response's request."""
    stored = await asyncio.to_thread(_responses(request).get, id_)
    items = [{"id": f"{id_}-{i}", **item} for i, item in enumerate(stored.items)]
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }


@router.delete("/{id_}")
async def delete_response(request: Request, id_: str) -> dict[str, Any]:
    """Delete a response."""
    await asyncio.to_thread(_responses(request).delete, id_)
    return {"id": id_, "object": "response", "deleted": True}


def _responses(request: Request) -> ResponseStore:
    return request.app.state.service.responses


async def _read_chat(service: Service, body: ResponsesRequest) -> ChatRequest:
    """The chat of a request, with its stored items, and its media read."""
    earlier = await asyncio.to_thread(service.responses.conversation, body.previous_response_id)
    items = await asyncio.to_thread(_parse_items, [*earlier, *body.own_items])
    media = [
        await read_media(item.media, service.settings, service.files)
        if isinstance(item, MessageItem | FunctionCallOutputItem)
        else ()
        async for item in yielding_to_event_loop(items)
    ]
    return body.to_chat(as_messages(items, media))


def _parse_items(items: list[dict[str, Any]]) -> list[Item]:
    """The items of a conversation. Raises InvalidBody."""
    if not items:
        raise InvalidBody("input: say something", "input")
    if (n := sum(map(_n_objects, items))) > MAX_OBJECTS:
        raise InvalidBody(
            f"input: the conversation has {n} items and parts of them: at most {MAX_OBJECTS} are "
            "taken, those that are remembered among them",
            "input",
        )
    try:
        return InputItems.model_validate({"input": items}).input
    except ValidationError as error:
        raise invalid_body(error, {"input": items}) from error


def _n_objects(item: dict[str, Any]) -> int:
    return 1 + sum(len(part) for part in item.values() if isinstance(part, list))


async def _finish(
    asking: Coroutine[Any, Any, ChatAnswer],
) -> tuple[list[AnswerBlock], ChatAnswer]:
    async with aclosing(await asking) as answer:
        return await whole_blocks(answer), answer


async def _sse_events(
    service: Service,
    reply: ResponseReply,
    events: AsyncIterator[BlockEvent],
    answer: ChatAnswer,
) -> AsyncIterator[str]:
    number = -1
    try:
        async for name, data in response_events(reply, events, answer):
            number = data["sequence_number"]
            if name in ("response.completed", "response.incomplete"):
                await _store(service, reply.body, data["response"])
            yield sse_event(data, name)
    except Exception as error:  # noqa: BLE001  # the status was sent already
        name, data = failure(reply, number + 1, status_and_message(error)[1])
        yield sse_event(data, name)


async def _store(service: Service, body: ResponsesRequest, response: dict[str, Any]) -> None:
    if body.store is not False:
        stored = StoredResponse(response, body.own_items, body.previous_response_id)
        await asyncio.to_thread(service.responses.put, response["id"], stored)
