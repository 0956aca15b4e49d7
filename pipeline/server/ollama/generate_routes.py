"""Ollama's chat and generate, with pictures and videos; `router` has all of its routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.server.conversation_fit import ServiceMessage
from reellama.pipeline.server.disconnects import cancel_on_disconnect
from reellama.pipeline.server.guard import readable_dirs
from reellama.pipeline.server.media.fetch import read_path
from reellama.pipeline.server.media.media_items import Content, MediaItem
from reellama.pipeline.server.media.media_references import MediaReference, read_media, read_text
from reellama.pipeline.server.model_registry import RegisteredModel
from reellama.pipeline.server.ollama import model_routes
from reellama.pipeline.server.ollama.model_routes import find_model
from reellama.pipeline.server.ollama.ndjson import JsonItem, OllamaRoute, gather_items, stream
from reellama.pipeline.server.ollama.ollama_schemas import (
    GenerateRequest,
    OllamaChatRequest,
    OllamaGenerationRequest,
)
from reellama.pipeline.server.replies.json_bodies import json_body
from reellama.pipeline.server.replies.token_logprobs import token_logprobs
from reellama.pipeline.server.service import Generation, RequestOptions, Service

MAX_PATH = 4096  # characters
ROLES = ("system", "user", "assistant", "tool")

Start = Callable[[], Any]  # () -> Awaitable[Generation]
Shape = Callable[[str], JsonItem]  # text -> the part of an answer that holds it

router = APIRouter(route_class=OllamaRoute, tags=["ollama"])
router.include_router(model_routes.router)


@router.post("/api/chat")
async def chat(
    request: Request, asked: Annotated[OllamaChatRequest, json_body(OllamaChatRequest)]
) -> Response:
    """The next message of a conversation. Without messages the model is loaded, or unloaded."""
    service: Service = request.app.state.service
    known = await find_model(request, asked.model)
    if asked.tools:
        raise ReellamaError(f'"{asked.model}" does not support tools')
    options = _options(asked, known)
    if not asked.messages:
        return await _load(request, asked, known, _as_message)
    messages = [ServiceMessage(said["role"], said["content"]) for said in known.manifest.messages]
    for said in asked.messages:
        if said.role not in ROLES:
            raise ReellamaError(f"invalid role {said.role!r}; it is one of {', '.join(ROLES)}")
        media = await _media(service, said.media)
        messages.append(ServiceMessage(said.role, said.content or "", media))
    if known.manifest.system and all(message.role != "system" for message in messages):
        messages.insert(0, ServiceMessage("system", known.manifest.system))
    start = partial(service.chat, known.service_name, messages, options)
    return await _answer(request, asked, start, _as_message)


@router.post("/api/generate")
async def generate(
    request: Request, asked: Annotated[GenerateRequest, json_body(GenerateRequest)]
) -> Response:
    """The answer to a prompt. Without a prompt the model is loaded, or unloaded."""
    service: Service = request.app.state.service
    known = await find_model(request, asked.model)
    if asked.suffix:
        raise ReellamaError(f'"{asked.model}" does not support insert')
    if asked.raw and (asked.template or asked.system):
        raise ReellamaError("raw mode does not support template, system, or context")
    if asked.context:
        raise ReellamaError("context is not supported: send the conversation to /api/chat")
    options = _options(asked, known)
    if not asked.prompt:
        return await _load(request, asked, known, _as_response)
    start = partial(
        service.complete,
        known.service_name,
        asked.prompt,
        options,
        system=asked.system or (None if asked.raw else known.manifest.system or None),
        template=asked.template or None,
        raw=bool(asked.raw),
        media=await _media(service, asked.media),
    )
    return await _answer(request, asked, start, _as_response)


def _options(asked: OllamaGenerationRequest, known: RegisteredModel) -> RequestOptions:
    if asked.think:
        raise ReellamaError(f'"{asked.model}" does not support thinking')
    return asked.to_options(known.manifest.parameters)


async def _load(
    request: Request, asked: OllamaGenerationRequest, known: RegisteredModel, shape: Shape
) -> Response:
    """Load the model for `keep_alive`, or unload it where that is 0."""
    service: Service = request.app.state.service
    # One token of the shortest prompt: the model is loaded, and kept as long as was asked for.
    options = RequestOptions(
        GenerationOptions(max_tokens=1, n_probs=0), keep_alive=asked.keep_alive
    )

    async def load() -> None:
        generation = await service.complete(known.service_name, " ", options, raw=True)
        async for _ in generation:
            pass

    await cancel_on_disconnect(request, load())
    reason = "unload" if asked.keep_alive == 0 else "load"
    return JSONResponse({**_head(asked), **shape(""), "done": True, "done_reason": reason})


async def _answer(
    request: Request, asked: OllamaGenerationRequest, start: Start, shape: Shape
) -> Response:
    items = _items(asked, start, shape)
    if asked.streams:
        return await stream(request, items)
    found = await gather_items(request, items)
    key = "message" if "message" in found[0] else "response"
    texts = [item[key]["content"] if key == "message" else item[key] for item in found]
    logprobs = [each for item in found for each in item.get("logprobs", ())]
    whole = {**found[-1], **shape("".join(texts))}
    return JSONResponse({**whole, "logprobs": logprobs} if asked.logprobs else whole)


async def _items(
    asked: OllamaGenerationRequest, start: Start, shape: Shape
) -> AsyncGenerator[JsonItem, None]:
    """The lines of an answer: one a token, and the last one with what it took."""
    begin = time.perf_counter_ns()
    generation: Generation = await start()
    try:
        async for token in generation:
            if token.text or asked.logprobs:
                item = {**_head(asked), **shape(token.text), "done": False}
                if asked.logprobs:
                    item["logprobs"] = [token_logprobs(token, asked.top_logprobs or None)]
                yield item
        yield {**_head(asked), **shape(""), "done": True, **_last(generation, begin)}
    finally:
        # A client that goes away cancels this very task, and its sequence must still be freed.
        with anyio.CancelScope(shield=True):
            await generation.aclose()


def _last(generation: Generation, begin: int) -> JsonItem:
    stats = generation.stats
    return {
        "done_reason": stats.stop_reason or "stop",
        "total_duration": time.perf_counter_ns() - begin,
        "load_duration": _ns(stats.load_seconds),
        "prompt_eval_count": stats.prompt_tokens,
        "prompt_eval_duration": _ns(stats.prompt_seconds),
        "eval_count": stats.generated_tokens,
        "eval_duration": _ns(stats.generate_seconds),
    }


def _head(asked: OllamaGenerationRequest) -> JsonItem:
    return {"model": asked.model, "created_at": datetime.now(timezone.utc).isoformat()}


def _as_message(text: str) -> JsonItem:
    return {"message": {"role": "assistant", "content": text}}


def _as_response(text: str) -> JsonItem:
    return {"response": text}


async def _media(service: Service, given: Sequence[str | MediaReference]) -> tuple[MediaItem, ...]:
    items: list[MediaItem] = []
    for each in given:
        if isinstance(each, MediaReference):
            items += await read_media([each], service.settings, service.files)
        else:
            items.append(MediaItem((await _content(service, each),)))
    return tuple(items)


async def _content(service: Service, text: str) -> Content:
    """One picture or video: base64, the id of a file, or a path in an allowed folder."""
    if len(text) <= MAX_PATH and "." in text and not text.startswith("data:"):  # no base64
        return await asyncio.to_thread(read_path, text, readable_dirs(service.settings))
    return await read_text(text, service.settings, service.files)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
