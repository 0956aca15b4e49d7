"""The places that requests take, and how many of them one client may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.admission.answer_headers import POSITION_HEADER, add_header

RETRY_AFTER = 2  # seconds

# The address of the client whose request is answered, or LOCAL.
CLIENT: ContextVar[str] = ContextVar("client", default="")
LOCAL = "the server's own user"  # who came by the Unix socket: may name files, and needs no token


class NoPlaceError(ReellamaError):
    """A request that there is no place for. `status` and `headers` are HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": str(RETRY_AFTER)}


class Places:
    """`n_parallel` requests that are answered and `n_waiting` that wait, for all clients together.

    max_per_client: at most so many of them are of one client; None: no limit.
    on_refusal: told why a request was refused: "busy" or "client".
    Belongs to one event loop.
    """

    def __init__(
        self,
        n_parallel: int,
        n_waiting: int,
        max_per_client: int | None = None,
        on_refusal: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._n_parallel, self._n_places = n_parallel, n_parallel + n_waiting
        self._max_per_client = max_per_client
        self._on_refusal = on_refusal
        self._of_client: Counter[str] = Counter()
        self.taken = 0

    @property
    def n_waiting(self) -> int:
        """How many wait because others are answered."""
        return max(0, self.taken - self._n_parallel)

    def take(self) -> Callable[[], None]:
        """Take a place for a request of CLIENT; what is returned gives it back.

        How many were before it that wait, and those who are to end first, is told in a header of
        the answer. Raises NoPlaceError: 503 when all are taken, 429 when the client has too many.
        """
        client = CLIENT.get()
        if self._max_per_client and self._of_client[client] >= self._max_per_client:
            self._on_refusal("client")
            raise NoPlaceError(
                f"{self._max_per_client} requests of one client are answered at a time: wait until "
                "one of yours has ended",
                429,
            )
        if self.taken >= self._n_places:
            self._on_refusal("busy")
            raise NoPlaceError("the server is busy: try again later", 503)
        add_header(POSITION_HEADER, str(max(0, self.taken - self._n_parallel + 1)))
        self.taken += 1
        self._of_client[client] += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self.taken -= 1
                self._of_client[client] -= 1
                if not self._of_client[client]:
                    del self._of_client[client]

        return leave
