"""The base class of objects that hold native memory or a process until they are closed."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Closeable")


class Closeable:
    """An object that is closed by `close`, or at the end of a `with` block."""

    def close(self) -> None:
        """Release the object's resources. Subclasses define it."""
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
