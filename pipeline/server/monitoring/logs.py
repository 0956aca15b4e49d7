"""The log: JSON lines on stderr, an event each, without bodies, query strings or tokens."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime, timezone

LEVELS = ("debug", "info", "warning", "error")
log = logging.getLogger("reellama.server")


class JSONLines(logging.Formatter):
    """Formats a record as JSON, with the fields of `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Filter out requests that the shutdown cancels, which uvicorn logs as errors."""
    error_type = record.exc_info[0] if record.exc_info else None
    return error_type is None or not issubclass(error_type, asyncio.CancelledError)


def set_up(level: str) -> None:
    """Write our events, and uvicorn's warnings, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    handler.addFilter(_is_no_cancellation)
    # asyncio warns of child processes that were waited for twice, which does no harm.
    levels = {"reellama.server": level.upper(), "uvicorn": "WARNING", "asyncio": "ERROR"}
    for name, min_level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(min_level)
        logger.propagate = False
