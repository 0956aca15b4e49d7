"""The bytes of the pictures and videos that OpenAI's messages name by URL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from reellama.pipeline.server.conversation_fit import ServiceMessage
from reellama.pipeline.server.media.fetch import fetch, read_path
from reellama.pipeline.server.media.media_encoder import MediaError, decode_base64
from reellama.pipeline.server.openai.openai_schemas import ChatMessage
from reellama.pipeline.server.settings import Settings

SHOWN = 60  # characters of an address in an error: a data URL may have millions


async def read_messages(
    messages: Sequence[ChatMessage], settings: Settings
) -> list[ServiceMessage]:
    """The service's messages. Raises MediaError for an address that cannot or may not be read."""
    return [
        ServiceMessage(
            "system" if message.role == "developer" else message.role,
            message.text,
            tuple([await read_url(url, settings) for url in message.urls]),
        )
        for message in messages
    ]


async def read_url(url: str, settings: Settings) -> bytes:
    """What a data URL holds, a file in an allowed folder, or what an allowed host sends."""
    try:
        parts = urlsplit(url if url[:5].lower() != "data:" else "data:")
    except ValueError as error:
        raise MediaError("not a URL: send the bytes as data:video/mp4;base64,...") from error
    # In a thread: a video takes long enough to hold up everyone else's tokens.
    if parts.scheme == "data":
        return await asyncio.to_thread(decode_base64, unquote(url) if "%" in url[:99] else url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = unquote(parts.path)
        return await asyncio.to_thread(read_path, path, settings.allow_dirs, settings.max_body)
    if parts.scheme in ("http", "https"):
        return await fetch(url, settings.allow_urls, settings.max_body, settings.fetch_seconds)
    shown = url if len(url) <= SHOWN else url[:SHOWN] + "..."
    raise MediaError(f"cannot read {shown}: send the bytes as data:video/mp4;base64,...")
