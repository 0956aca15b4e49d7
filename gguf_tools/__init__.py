"""GGUF files: find, download, inspect, convert, quantize, measure, fit, and load with llama.cpp.

    from reellama.gguf_tools import bench, quantize

    quantize("model-F16.gguf", ["Q4_K_M", "Q8_0"])

The names in FUNCTIONS can be imported like that; each is loaded on first use.
"""

from importlib import import_module
from typing import Any

# Name here -> its module, and its name there.
FUNCTIONS = {
    "bench": ("measuring.bench", "bench"),
    "compare": ("measuring.compare", "compare"),
    "convert": ("conversion.convert", "convert"),
    "perplexity": ("measuring.perplexity", "measure_perplexity"),
    "quantize": ("quantization.quantize", "quantize"),
}


def __getattr__(name: str) -> Any:
    if name not in FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = FUNCTIONS[name]
    return getattr(import_module(f"{__name__}.{module}"), function)
