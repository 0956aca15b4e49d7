"""End in one line on stderr and exit status 1 where llama.cpp would abort the process.

It asserts what it does not check, and an assertion that fails calls `abort`, which nothing can
stop. What is known to do so is refused before (`reellama.gguf_tools.format.load_checks`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from pathlib import Path

from llama_cpp._ggml import libggml

STATUS = 1
PREFIX = "reellama: "
BROKE_OFF = f"{PREFIX}llama.cpp broke off"  # how the line begins
SOURCE = re.compile(r"^\S*?([^/\\\s]+:\d+): ")  # the file and the line that an assertion stands in
# std::set_terminate, as C++ compilers but Microsoft's name it.
SET_TERMINATE = "_ZSt13set_terminatePFvvE"

_loading = ""  # the model that was loaded last


def set_model_name(path: Path) -> None:
    """Set the model that the line names: the one that is loaded next."""
    global _loading
    _loading = str(path)


def _end(reason: str) -> None:
    """Write the line and exit at once: Python's own exit may need a lock that this thread holds."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    where = f" with {_loading}" if _loading else ""
    line = (
        f"{BROKE_OFF}{where}: {reason}; the file is damaged, or made for "
        "another version: pip install -U llama-cpp-python\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, line.encode("utf-8", "replace"))
    os._exit(STATUS)


# Globals, because callbacks must stay referenced for as long as they may be called.
@ctypes.CFUNCTYPE(None, ctypes.c_char_p)
def _aborting(message: bytes) -> None:
    text = " ".join(message.decode("utf-8", "replace").split())
    source = SOURCE.match(text)
    _end(f"{text[source.end() :]} ({source[1]})" if source else text)


@ctypes.CFUNCTYPE(None)
def _terminating() -> None:
    _end("it did not catch an error of its own")


def install_abort_handlers() -> None:
    """Let a failed assertion, or a C++ exception that nobody catches, end in one line."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else it starts a debugger where there is one
    libggml.ggml_set_abort_callback.argtypes = [ctypes.c_void_p]
    libggml.ggml_set_abort_callback(_aborting)
    with contextlib.suppress(AttributeError, OSError):
        set_terminate = getattr(libggml, SET_TERMINATE)  # of the C++ library that it is linked to
        set_terminate.argtypes = [ctypes.c_void_p]
        set_terminate(_terminating)
