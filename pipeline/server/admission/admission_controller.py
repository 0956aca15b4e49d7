"""Limits of the requests that are answered or wait at a time, in all and of one client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.request_context import CLIENT, POSITION_HEADER, add_header

RETRY_AFTER = 2  # seconds


class AdmissionError(ReellamaError):
    """A request that is not admitted now. `status` and `headers` are HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": str(RETRY_AFTER)}


class AdmissionController:
    """Admits `n_parallel` requests to be answered and `n_waiting` to wait, of all clients.

    max_per_client: how many of them one client may have; None: no limit.
    on_refusal: called with the reason of a refusal: "busy" or "client".
    Belongs to one event loop.
    """

    def __init__(
        self,
        n_parallel: int,
        n_waiting: int,
        max_per_client: int | None = None,
        on_refusal: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._n_parallel, self._limit = n_parallel, n_parallel + n_waiting
        self._max_per_client = max_per_client
        self._on_refusal = on_refusal
        self._of_client: Counter[str] = Counter()
        self.n_admitted = 0

    @property
    def n_waiting(self) -> int:
        """How many requests wait for one that is answered."""
        return max(0, self.n_admitted - self._n_parallel)

    def admit(self) -> Callable[[], None]:
        """Admit a request of CLIENT; returns a function to call when the request has ended.

        POSITION_HEADER of the answer is 0, or the request's place among those that wait.
        Raises AdmissionError: 503 when the server is full, 429 when the client has too many.
        """
        client = CLIENT.get()
        if self._max_per_client and self._of_client[client] >= self._max_per_client:
            self._on_refusal("client")
            raise AdmissionError(
                f"{self._max_per_client} requests of one client are answered at a time: wait until "
                "one of yours has ended",
                429,
            )
        if self.n_admitted >= self._limit:
            self._on_refusal("busy")
            raise AdmissionError("the server is busy: try again later", 503)
        add_header(POSITION_HEADER, str(max(0, self.n_admitted - self._n_parallel + 1)))
        self.n_admitted += 1
        self._of_client[client] += 1
        has_left = False

        def leave() -> None:
            nonlocal has_left
            if not has_left:
                has_left = True
                self.n_admitted -= 1
                self._of_client[client] -= 1
                if not self._of_client[client]:
                    del self._of_client[client]

        return leave
