"""Errors as clients see them: HTTP status, message, and a body in the protocol's shape."""

from __future__ import annotations

import re
import uuid
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.batching.generation_job import Failed
from reellama.pipeline.server.anthropic.anthropic_errors import anthropic_error
from reellama.pipeline.server.monitoring.logs import log
from reellama.pipeline.server.openai import openai_replies

# The folders of an absolute path, but not our own routes, nor URLs, fractions and "$ref".
_FOLDERS = re.compile(r"(?<![\w/.:#~)\]])(?!/(?:api|v1)/)(?:/[^\s/'\":]+)+/(?=[^\s/])")


def status_and_message(error: Exception) -> tuple[int, str]:
    """The HTTP status and message of an error.

    An internal error is logged, and its client gets a reference to that entry of the log.
    """
    if isinstance(error, ReellamaError) and not isinstance(error, Failed):
        return getattr(error, "status", 400), without_folders(str(error))
    reference = uuid.uuid4().hex[:12]
    log.error("internal error", exc_info=error, extra={"fields": {"reference": reference}})
    return 500, f"internal error; the server's log has more about it under {reference}"


def without_folders(text: str) -> str:
    """A text in which paths of this machine are replaced by the files' names.

    >>> without_folders("/home/ann/models/a.gguf: not a GGUF file; see https://example.org/a/b")
    'a.gguf: not a GGUF file; see https://example.org/a/b'
    >>> without_folders("send it to /api/chat, as video/mp4")
    'send it to /api/chat, as video/mp4'
    """
    return _FOLDERS.sub("", text)


def error_body(path: str, status: int, message: str) -> dict[str, Any]:
    """An error in the shape of the protocol that a request's path belongs to."""
    if path.startswith("/v1/messages"):
        return anthropic_error(status, message)
    return openai_replies.error(status, message) if path.startswith("/v1/") else {"error": message}
