"""Logs as JSON, a line an event, on stderr. No bodies, no query strings, no tokens."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from datetime import datetime, timezone

LEVELS = ("debug", "info", "warning", "error")
log = logging.getLogger("reellama.server")


class JSONLines(logging.Formatter):
    """A record as JSON; what `extra={"fields": {...}}` holds is added."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether it is no request that ended because the server did: uvicorn logs these as errors."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def set_up(level: str) -> None:
    """Write our events, and uvicorn's warnings, to stderr."""
    # A copy of the descriptor: grammars are parsed while the original one leads elsewhere.
    stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONLines())
    handler.addFilter(_is_news)
    # asyncio warns of children that were waited for twice, which is no harm.
    levels = {"reellama.server": level.upper(), "uvicorn": "WARNING", "asyncio": "ERROR"}
    for name, min_level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(min_level)
        logger.propagate = False
