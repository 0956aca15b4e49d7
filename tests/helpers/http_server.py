"""HTTP servers for tests, on this machine only."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up: that is no error, and stderr is under test."""

    daemon_threads = True

    def serve_forever(self, poll_interval: float = 0.02) -> None:
        """Serve until `shutdown`, which waits for so long: half a second a test adds up."""
        super().serve_forever(poll_interval)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
