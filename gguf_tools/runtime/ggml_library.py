"""Functions of libggml that llama-cpp-python does not declare."""

from __future__ import annotations

from functools import cache
from typing import Any

from llama_cpp._ggml import libggml


@cache
def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """The function of this name, given the ctypes of its result and arguments."""
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, list(arguments)
    return function
