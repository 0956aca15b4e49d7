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

# Batches of at least this many positions can be interrupted midway. llama.cpp then calls back
# before every node of the graph, which takes a millisecond a batch: too much for single tokens.
MIN_INTERRUPTIBLE_BATCH = 32


class DecodeInterrupt:
    """Lets Ctrl-C end a decoding midway; Python alone would handle it afterwards.

    Keep it for as long as the context lives, whose callback it owns.
    """

    def __init__(self) -> None:
        self._flag = flag = ctypes.c_bool(False)
        self._abort = llama.ggml_abort_callback(lambda _: flag.value)
        self._never = llama.ggml_abort_callback()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came during the present decoding."""
        return self._flag.value

    @contextmanager
    def watch_decode(self, ctx: Any) -> Iterator[None]:
        """Let Ctrl-C end the decoding in the block, then call the program's own handler or raise
        KeyboardInterrupt."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            yield
            return
        self._flag.value = False
        signal.signal(signal.SIGINT, self._note)
        try:
            # llama.cpp logs this, through Python: a KeyboardInterrupt in a callback would be lost,
            # so the program's own handler is away for as long as llama.cpp is called.
            llama.llama_set_abort_callback(ctx, self._abort, None)
            yield
        finally:
            llama.llama_set_abort_callback(ctx, self._never, None)
            signal.signal(signal.SIGINT, handler)
            came, self._flag.value = self._flag.value, False
        if came:
            handler(signal.SIGINT, None)
            raise KeyboardInterrupt

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self._flag.value = True
