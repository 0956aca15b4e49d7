"""Responses that clients go on from: in a folder, within a limit; the oldest make room.

responses/ID.json    the response, and the items that it answered
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError

RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")
MAX_TURNS = 1000  # of a conversation


class ResponseStoreError(ReellamaError):
    """A response that is not there; `status` is HTTP's."""

    status = 404


@dataclass(frozen=True)
class StoredResponse:
    """A response, what it answered, and the response that this went on from."""

    response: dict[str, Any]
    items: list[dict[str, Any]]
    previous: str | None


class ResponseStore:
    """The responses in `folder`, of `limit` bytes in all. Thread-safe."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._writing = threading.Lock()

    @staticmethod
    def new_id() -> str:
        """An id that no response has."""
        return f"resp_{uuid.uuid4().hex}"

    def put(self, id_: str, response: StoredResponse) -> None:
        """Keep a response; one that is larger than the limit is not kept."""
        text = json.dumps(asdict(response))
        with self._writing, suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            left = self.limit - len(text)
            if left < 0:
                return
            dated = [(path.stat(), path) for path in self.folder.glob("resp_*.json")]
            used = sum(stat.st_size for stat, _ in dated)
            for stat, path in sorted(dated, key=lambda pair: pair[0].st_mtime):
                if used <= left:
                    break
                path.unlink(missing_ok=True)
                used -= stat.st_size
            write_atomically(self._path(id_), text)

    def get(self, id_: str) -> StoredResponse:
        """The response of this id. Raises ResponseStoreError where there is none any more."""
        with suppress(OSError, ValueError, TypeError):
            if RESPONSE_ID.fullmatch(id_):
                return StoredResponse(**json.loads(self._path(id_).read_text(encoding="utf-8")))
        raise ResponseStoreError(
            f"there is no response {id_[:50]!r} here: it was not stored, was deleted, or was among "
            "the oldest; send the whole conversation"
        )

    def conversation(self, id_: str | None) -> list[dict[str, Any]]:
        """The items of a conversation up to a response and with it. Raises like `get`."""
        turns: list[list[dict[str, Any]]] = []
        while id_ is not None:
            if len(turns) >= MAX_TURNS:
                raise ResponseStoreError(f"the conversation has more than {MAX_TURNS} turns")
            stored = self.get(id_)
            turns.append([*stored.items, *stored.response["output"]])
            id_ = stored.previous
        return [item for turn in reversed(turns) for item in turn]

    def delete(self, id_: str) -> None:
        """Forget a response. Raises like `get`."""
        self.get(id_)
        self._path(id_).unlink(missing_ok=True)

    def _path(self, id_: str) -> Path:
        return self.folder / f"{id_}.json"
