"""Ollama's /api/chat and /api/generate. `router` includes the other routes of Ollama's API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.llm.tool_calls.answer_events import CallCollector, CallDelta, ToolCall
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.chat_request import ChatRequest, ServiceMessage
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.disconnects import cancel_on_disconnect
from reellama.pipeline.server.media.local_files import local_file
from reellama.pipeline.server.media.media_items import Content, MediaItem
from reellama.pipeline.server.media.media_references import MediaReference, read_media, read_text
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel
from reellama.pipeline.server.ollama import model_routes
from reellama.pipeline.server.ollama.answer_items import (
    ItemOf,
    message_item,
    response_item,
    whole_answer,
)
from reellama.pipeline.server.ollama.model_routes import find_model
from reellama.pipeline.server.ollama.ndjson import JsonItem, OllamaRoute, gather_items, stream
from reellama.pipeline.server.ollama.ollama_schemas import (
    GenerateRequest,
    OllamaChatRequest,
    OllamaGenerationRequest,
)
from reellama.pipeline.server.replies.token_logprobs import token_logprobs
from reellama.pipeline.server.request_bodies.json_bodies import json_body
from reellama.pipeline.server.request_context import CLIENT, LOCAL, readable_dirs
from reellama.pipeline.server.service import Service

MAX_PATH_CHARACTERS = 4096
ROLES = ("system", "user", "assistant", "tool")

Start = Callable[[], Any]  # () -> Awaitable[ChatAnswer]

router = APIRouter(route_class=OllamaRoute, tags=["ollama"])
router.include_router(model_routes.router)


@router.post("/api/chat")
async def chat(
    request: Request, body: Annotated[OllamaChatRequest, json_body(OllamaChatRequest)]
) -> Response:
    """The next message of a conversation. Without messages the model is loaded, or unloaded."""
    service: Service = request.app.state.service
    registered = await find_model(request, body.model)
    options = body.to_options(registered.manifest.parameters)
    if not body.messages:
        return await _load(request, body, registered, message_item)
    messages = [ServiceMessage(m["role"], m["content"]) for m in registered.manifest.messages]
    async for message in yielding_to_event_loop(body.messages):
        if message.role not in ROLES:
            raise ReellamaError(f"invalid role {message.role!r}; it is one of {', '.join(ROLES)}")
        messages.append(
            ServiceMessage(
                message.role,
                message.content or "",
                await _media(service, message.media),
                message.calls,
                message.tool_call_id or "",
                message.tool_name or "",
                message.thinking or "",
            )
        )
    body.messages.clear()  # frees them, also from garbage collections, before the answer
    if registered.manifest.system and all(m.role != "system" for m in messages):
        messages.insert(0, ServiceMessage("system", registered.manifest.system))
    start = partial(service.chat, registered.service_name, body.to_chat(messages), options)
    return await _answer(request, body, start, message_item)


@router.post("/api/generate")
async def generate(
    request: Request, body: Annotated[GenerateRequest, json_body(GenerateRequest)]
) -> Response:
    """The answer to a prompt. Without a prompt the model is loaded, or unloaded."""
    service: Service = request.app.state.service
    registered = await find_model(request, body.model)
    if body.raw and (body.template or body.system or body.context):
        raise ReellamaError("raw mode does not support template, system, or context")
    options = body.to_options(registered.manifest.parameters)
    if not body.prompt:
        return await _load(request, body, registered, response_item)
    media = await _media(service, body.media)
    if body.raw or body.suffix:
        suffix = body.suffix or None
        text = body.prompt
        start: Start = partial(
            _complete, service, registered.service_name, text, options, media, suffix
        )
    else:
        options = replace(options, context=tuple(body.context or ()))
        system = body.system or registered.manifest.system
        messages = [ServiceMessage("system", system)] if system else []
        question = ServiceMessage("user", body.prompt, media)
        chat = ChatRequest([*messages, question], think=body.wants_thinking)
        template = body.template or None
        start = partial(service.chat, registered.service_name, chat, options, template)
    return await _answer(request, body, start, response_item)


async def _complete(
    service: Service,
    model: str,
    prompt: str,
    options: RequestOptions,
    media: tuple[MediaItem, ...],
    suffix: str | None,
) -> ChatAnswer:
    return ChatAnswer(await service.complete(model, prompt, options, media, suffix))


async def _load(
    request: Request, body: OllamaGenerationRequest, registered: RegisteredModel, item_of: ItemOf
) -> Response:
    """Load the model for `keep_alive`, or unload it where that is 0."""
    service: Service = request.app.state.service
    # One token of the shortest prompt loads the model and sets its keep_alive.
    options = RequestOptions(GenerationOptions(max_tokens=1, n_probs=0), keep_alive=body.keep_alive)

    async def load() -> None:
        generation = await service.complete(registered.service_name, " ", options)
        async for _ in generation:
            pass

    await cancel_on_disconnect(request, load())
    reason = "unload" if body.keep_alive == 0 else "load"
    return JSONResponse({**_item_head(body), **item_of(None), "done": True, "done_reason": reason})


async def _answer(
    request: Request, body: OllamaGenerationRequest, start: Start, item_of: ItemOf
) -> Response:
    items = _answer_items(body, start, item_of)
    if body.streams:
        return await stream(request, items)
    return JSONResponse(whole_answer(await gather_items(request, items)))


async def _answer_items(
    body: OllamaGenerationRequest, start: Start, item_of: ItemOf
) -> AsyncGenerator[JsonItem, None]:
    """An item for each part of an answer, and a last one with counts and durations."""
    started_at = time.perf_counter_ns()
    answer: ChatAnswer = await start()
    calls = CallCollector()
    try:
        async for event in answer:
            part = calls.add(event) if isinstance(event, CallDelta) else event
            if part is None:
                continue
            item = {**_item_head(body), **item_of(part), "done": False}
            if body.logprobs and not isinstance(part, ToolCall):
                item["logprobs"] = [
                    token_logprobs(token, body.top_logprobs or None) for token in part.tokens
                ]
            elif not isinstance(part, ToolCall) and not part.text:
                continue
            yield item
        last = {**_item_head(body), **item_of(None), "done": True, **_totals(answer, started_at)}
        if isinstance(body, GenerateRequest) and not body.raw and answer.context is not None:
            last["context"] = answer.context
        if answer.footage_caveat and CLIENT.get() == LOCAL:  # shown by `ask`
            last["remark"] = answer.footage_caveat
        yield last
    finally:
        # A disconnect cancels this task, and the sequence must be freed all the same.
        with anyio.CancelScope(shield=True):
            await answer.aclose()


def _totals(answer: ChatAnswer, started_at: int) -> JsonItem:
    """The counts and durations of an answer."""
    stats = answer.stats
    return {
        "done_reason": stats.stop_reason or "stop",
        "total_duration": time.perf_counter_ns() - started_at,
        "load_duration": _ns(stats.load_seconds),
        "prompt_eval_count": stats.prompt_tokens,
        # At least 1, since clients divide by it; decoding a single token takes 0 seconds.
        "prompt_eval_duration": max(1, _ns(stats.prompt_seconds)),
        "eval_count": stats.generated_tokens,
        "eval_duration": max(1, _ns(stats.generate_seconds)),
    }


def _item_head(body: OllamaGenerationRequest) -> JsonItem:
    return {"model": body.model, "created_at": datetime.now(timezone.utc).isoformat()}


async def _media(service: Service, media: Sequence[str | MediaReference]) -> tuple[MediaItem, ...]:
    items: list[MediaItem] = []
    for reference in media:
        if isinstance(reference, MediaReference):
            items += await read_media([reference], service.settings, service.files)
        else:
            items.append(MediaItem((await _content(service, reference),)))
    return tuple(items)


async def _content(service: Service, text: str) -> Content:
    """One picture or video: base64, the id of a file, or a path in an allowed folder."""
    no_base64 = "." in text and not text.startswith("data:")
    if no_base64 and len(text) <= MAX_PATH_CHARACTERS:
        return await asyncio.to_thread(local_file, text, readable_dirs(service.settings))
    return await read_text(text, service.settings, service.files)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
