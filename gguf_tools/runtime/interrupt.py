"""Interrupt llama.cpp with Ctrl-C while it decodes."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import llama_cpp.llama_cpp as llama

# Batches of at least this many positions can be interrupted. With a callback llama.cpp calls Python
# before every node of the graph, which takes a millisecond a batch: too much for single tokens.
MIN_INTERRUPTIBLE_BATCH = 32


class DecodeInterrupt:
    """Lets Ctrl-C end `llama_decode` early; Python alone would handle the signal afterwards.

    The object owns a callback of the context, and must live as long as the context.
    """

    def __init__(self) -> None:
        self._flag = flag = ctypes.c_bool(False)
        self._abort = llama.ggml_abort_callback(lambda _: flag.value)
        self._never = llama.ggml_abort_callback()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed during the current decoding."""
        return self._flag.value

    @contextmanager
    def watch_decode(self, ctx: Any) -> Iterator[None]:
        """Let Ctrl-C end the decoding in the block.

        After Ctrl-C the program's own handler is called, and KeyboardInterrupt is raised.
        """
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            yield
            return
        self._flag.value = False
        signal.signal(signal.SIGINT, self._set_flag)
        try:
            # llama.cpp logs this call through Python. A KeyboardInterrupt in a callback would be
            # lost, so the program's own handler is replaced before llama.cpp is called.
            llama.llama_set_abort_callback(ctx, self._abort, None)
            yield
        finally:
            llama.llama_set_abort_callback(ctx, self._never, None)
            signal.signal(signal.SIGINT, handler)
            interrupted, self._flag.value = self._flag.value, False
        if interrupted:
            handler(signal.SIGINT, None)
            raise KeyboardInterrupt

    def _set_flag(self, _signal: int, _frame: FrameType | None) -> None:
        self._flag.value = True
