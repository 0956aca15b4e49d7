"""Objects that hold memory of llama.cpp's, or a process, until they are closed."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Closeable")


class Closeable:
    """Something to close when it is done with: by `close`, or at the end of a `with` block."""

    def close(self) -> None:
        """Give back what it holds. To be defined by each class."""
        raise NotImplementedError

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
