"""Stores responses, which later requests may continue; the oldest are removed for new ones.

responses/ID.json    the response, and the items of its request
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
MAX_TURNS = 1000  # of one conversation


class ResponseStoreError(ReellamaError):
    """A response that does not exist; `status` is HTTP's."""

    status = 404


@dataclass(frozen=True)
class StoredResponse:
    """A response, the items of its request, and the id of the response that it continued."""

    response: dict[str, Any]
    items: list[dict[str, Any]]
    previous: str | None


class ResponseStore:
    """The responses in `folder`, of `limit` bytes in all. Thread-safe."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._write_lock = threading.Lock()

    @staticmethod
    def new_id() -> str:
        """A new id."""
        return f"resp_{uuid.uuid4().hex}"

    def put(self, id_: str, response: StoredResponse) -> None:
        """Store a response, unless it is larger than the limit."""
        text = json.dumps(asdict(response))
        with self._write_lock, suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            max_used = self.limit - len(text)
            if max_used < 0:
                return
            dated = [(path.stat(), path) for path in self.folder.glob("resp_*.json")]
            used = sum(stat.st_size for stat, _ in dated)
            for stat, path in sorted(dated, key=lambda pair: pair[0].st_mtime):
                if used <= max_used:
                    break
                path.unlink(missing_ok=True)
                used -= stat.st_size
            write_atomically(self._path(id_), text)

    def get(self, id_: str) -> StoredResponse:
        """The response of this id. Raises ResponseStoreError if there is none."""
        with suppress(OSError, ValueError, TypeError):
            if RESPONSE_ID.fullmatch(id_):
                return StoredResponse(**json.loads(self._path(id_).read_text(encoding="utf-8")))
        raise ResponseStoreError(
            f"there is no response {id_[:50]!r} here: it was not stored, was deleted, or was among "
            "the oldest; send the whole conversation"
        )

    def conversation(self, id_: str | None) -> list[dict[str, Any]]:
        """The items of a conversation, up to and with a response. Raises like `get`."""
        turns: list[list[dict[str, Any]]] = []
        while id_ is not None:
            if len(turns) >= MAX_TURNS:
                raise ResponseStoreError(f"the conversation has more than {MAX_TURNS} turns")
            stored = self.get(id_)
            turns.append([*stored.items, *stored.response["output"]])
            id_ = stored.previous
        return [item for turn in reversed(turns) for item in turn]

    def delete(self, id_: str) -> None:
        """Delete a response. Raises like `get`."""
        self.get(id_)
        self._path(id_).unlink(missing_ok=True)

    def _path(self, id_: str) -> Path:
        return self.folder / f"{id_}.json"
