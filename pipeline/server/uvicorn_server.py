"""uvicorn with two more time limits: for the head of a request, and for the shutdown."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from reellama.pipeline.server.monitoring.logs import log

HEADER_SECONDS = 15.0  # for the head of a request
GRACEFUL_SECONDS = 3  # that answers may still take once the server is told to end
CANCEL_SECONDS = 1.5  # that the answers which are then cancelled may take to end


class HeaderTimeoutProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closes a connection on which no whole head of a request has come for HEADER_SECONDS."""

    def connection_made(self, transport: Any) -> None:
        """Start the periodic check."""
        super().connection_made(transport)
        # The request that was answered at the last check, None before the first request; `self`
        # where the connection was not idle.
        self._idle_since: Any = self
        self._check = self.loop.call_later(HEADER_SECONDS / 2, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the periodic check."""
        self._check.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        """Close the connection if it was idle at the last check, and no request has come since."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._idle_since:
            self.transport.close()
            return
        self._idle_since = self.cycle if is_idle else self
        self._check = self.loop.call_later(HEADER_SECONDS / 2, self._close_if_idle)


class TimedShutdownServer(uvicorn.Server):
    """A server whose process ends soon after SIGTERM, whatever llama.cpp or torch compute.

    Neither can be interrupted: a batch of a prompt takes a large model half a minute.
    """

    exit_status = 0  # of a process that has to be ended in the middle of a computation

    def fail(self) -> None:
        """Shut down because nothing can be answered any more. From any thread."""
        self.exit_status, self.should_exit = 1, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down gracefully, or end the process where a computation holds that up."""
        timer = threading.Timer(GRACEFUL_SECONDS + CANCEL_SECONDS, self._end_process)
        timer.daemon = True
        timer.start()
        await super().shutdown(sockets)

    def _end_process(self) -> None:
        log.warning("the server ends in the middle of a computation")
        os._exit(self.exit_status)


def uvicorn_config(app: Any, **options: Any) -> uvicorn.Config:
    """uvicorn's settings for the app."""
    return uvicorn.Config(
        app, http=HeaderTimeoutProtocol, timeout_graceful_shutdown=GRACEFUL_SECONDS, **options
    )
