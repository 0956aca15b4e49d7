"""Converts OpenAI's messages to the service's, with their media read."""

from __future__ import annotations

from collections.abc import Sequence

from reellama.pipeline.server.chat.chat_request import ServiceMessage
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.media.media_references import read_media
from reellama.pipeline.server.openai.openai_schemas import ChatMessage
from reellama.pipeline.server.service import Service


async def read_messages(messages: Sequence[ChatMessage], service: Service) -> list[ServiceMessage]:
    """The service's messages. Raises MediaError for media that cannot or may not be read."""
    return [
        ServiceMessage(
            "system" if message.role == "developer" else message.role,
            message.text,
            await read_media(message.media, service.settings, service.files),
            message.calls,
            message.tool_call_id or "",
            message.name or "" if message.role == "tool" else "",
            message.reasoning_content or "",
        )
        async for message in yielding_to_event_loop(messages)
    ]
