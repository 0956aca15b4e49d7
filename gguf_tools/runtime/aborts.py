"""Exit with one line on stderr and status 1 in place of an abort by llama.cpp.

llama.cpp calls `abort` if one of its assertions fails, which cannot be caught. Files that are known
to fail are refused before they are loaded (`reellama.gguf_tools.format.load_checks`).
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
BROKE_OFF = f"{PREFIX}llama.cpp broke off"  # the beginning of the line
SOURCE = re.compile(r"^\S*?([^/\\\s]+:\d+): ")  # source file and line of a failed assertion
# The mangled name of std::set_terminate with all C++ compilers but Microsoft's.
SET_TERMINATE = "_ZSt13set_terminatePFvvE"

_model_path = ""  # of the model that was loaded last


def set_model_name(path: Path) -> None:
    """Set the path of the model that is about to be loaded, which the line names."""
    global _model_path
    _model_path = str(path)


def _end(reason: str) -> None:
    """Write the line and exit at once: Python's own exit may need a lock that this thread holds."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    model = f" with {_model_path}" if _model_path else ""
    line = (
        f"{BROKE_OFF}{model}: {reason}; the file is damaged, or made for "
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
    """Exit with one line after a failed assertion or an uncaught C++ exception."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else ggml starts gdb, if installed
    libggml.ggml_set_abort_callback.argtypes = [ctypes.c_void_p]
    libggml.ggml_set_abort_callback(_aborting)
    with contextlib.suppress(AttributeError, OSError):
        set_terminate = getattr(libggml, SET_TERMINATE)  # from the C++ library linked to libggml
        set_terminate.argtypes = [ctypes.c_void_p]
        set_terminate(_terminating)
