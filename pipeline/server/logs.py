"""Logs as JSON, a line an event, on stderr. No bodies, no query strings, no tokens."""

from __future__ import annotations

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


def set_up(level: str) -> None:
    """Write our events, and uvicorn's warnings, to stderr."""
    # A copy of the descriptor: grammars are parsed while the original one leads elsewhere.
    stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONLines())
    for name, least in (("reellama.server", level.upper()), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
