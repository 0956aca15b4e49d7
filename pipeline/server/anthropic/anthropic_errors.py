"""Errors in the shape of Anthropic's API."""

from __future__ import annotations

from typing import Any

ANTHROPIC_HEADER = (
    "anthropic-version"  # identifies Anthropic's clients at paths shared with OpenAI's
)
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """An error in Anthropic's shape."""
    fallback = "api_error" if status >= 500 else "invalid_request_error"
    error = {"type": ERROR_TYPES.get(status, fallback), "message": message}
    return {"type": "error", "error": error, "request_id": None}
