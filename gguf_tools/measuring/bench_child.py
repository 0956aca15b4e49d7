"""Measure one setup in a process of its own, which `bench` starts.

The request is a JSON object on stdin. The answers are JSON lines on stdout: `{"ran": 1}` after each
run, then `{"measured": ...}`, or `{"error": "one line"}` with exit status 1.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context import Context, ContextSettings
from reellama.gguf_tools.threads import default_threads

SOFT_TOKEN_SCALE = 0.02  # standard deviation of random embeddings, about that of real ones


def measure(request: dict[str, Any], ran: Callable[[], None]) -> dict[str, Any]:
    """Run the tests `[[kind, n], ...]` of a request; returns the fields of `BenchResult`."""
    settings = ContextSettings(**request["settings"])
    # A number that stays: what is measured does not follow the load.
    settings = replace(settings, n_threads=settings.n_threads or default_threads())
    settings.check()
    backend.amx_decision()  # its probe, in a child, is not part of the loading time
    free_before = _free_vram()
    started = time.perf_counter_ns()
    n_ctx = max(n for _, n in request["tests"])
    model = backend.load_model(request["model"], n_gpu_layers=request["n_gpu_layers"], n_ctx=n_ctx)
    load_ns = time.perf_counter_ns() - started
    with model:
        samples = []
        vram = 0
        for kind, n in request["tests"]:
            with _context(model, kind, n, settings) as context:
                run = TEST_FUNCTIONS[kind](context, n)
                if request["warmup"]:
                    run(1 if kind == "tg" else n)
                    ran()
                samples.append(list(_repeat(context, run, n, request["repetitions"], ran)))
                vram = max(vram, free_before - _free_vram())
        return {
            **_facts(model),
            "n_threads": settings.n_threads,
            "n_gpu_layers": model.n_gpu_layers,
            "load_ns": load_ns,
            "peak_rss": peak_rss(),
            "vram": vram if backend.devices() else None,
            "samples_ns": samples,
        }


def _context(model: backend.Model, kind: str, n: int, settings: ContextSettings) -> Context:
    """A context for n positions. Raises ReellamaError for what an encoder cannot do."""
    if model.continues_text:
        return Context(model, n, settings)
    if kind == "tg":
        raise ReellamaError(f"{model.path} is an encoder, which writes no text: leave it out, -n 0")
    if n > settings.n_ubatch or n > model.file.n_ctx_train:
        raise ReellamaError(
            f"{model.path} is an encoder, which reads a text at once: {n} tokens need -ub {n}, and "
            f"it was trained with {model.file.n_ctx_train}"
        )
    return Context(model, n, settings, n_outputs=n, may_encode=True)


def _repeat(
    context: Context, run: Callable[[int], None], n: int, repetitions: int, ran: Callable[[], None]
) -> Iterator[int]:
    """Yield the time of each repetition, in ns."""
    gc.disable()
    for _ in range(repetitions):
        context.clear()
        started = time.perf_counter_ns()
        run(n)
        yield time.perf_counter_ns() - started
        ran()
    gc.enable()


def _prompt(context: Context, n: int) -> Callable[[int], None]:
    """Read n random tokens, the first BOS where the model is used with one, in batches."""
    return _in_batches(context, _tokens(context, n))


def _soft(context: Context, n: int) -> Callable[[int], None]:
    """Read n random embeddings."""
    rows = np.random.default_rng(0).standard_normal((n, context.n_embd), np.float32)
    return _in_batches(context, rows * np.float32(SOFT_TOKEN_SCALE))


def _generation(context: Context, n: int) -> Callable[[int], None]:
    """Decode n random tokens one by one, each after the one before is computed."""
    tokens = _tokens(context, n).tolist()

    def run(n: int) -> None:
        for position in range(n):
            context.decode_token(tokens[position], position)
            context.synchronize()

    return run


TEST_FUNCTIONS = {"pp": _prompt, "tg": _generation, "sp": _soft}


def _in_batches(context: Context, rows: np.ndarray) -> Callable[[int], None]:
    def run(n: int) -> None:
        for start in range(0, n, context.n_batch):
            context.decode(rows[start : start + context.n_batch], start)
        context.synchronize()

    return run


def _tokens(context: Context, n: int) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(0, context.n_vocab, n, np.int32)
    vocab = context.model.vocab
    if llama.llama_vocab_get_add_bos(vocab):
        tokens[0] = llama.llama_vocab_bos(vocab)
    return tokens


def _facts(model: backend.Model) -> dict[str, Any]:
    gpus = backend.devices()
    description = ctypes.create_string_buffer(128)
    llama.llama_model_desc(model.ptr, description, len(description))
    return {
        "build": f"llama-cpp-python {version('llama-cpp-python')}",
        "cpu_info": cpu_info(),
        "gpu_info": ", ".join(gpu.description for gpu in gpus),
        "backends": ",".join(sorted({gpu.name.rstrip("0123456789") for gpu in gpus})) or "CPU",
        "model_type": description.value.decode("utf-8", "replace"),
        "model_size": int(llama.llama_model_size(model.ptr)),
        "model_n_params": int(llama.llama_model_n_params(model.ptr)),
    }


def cpu_info() -> str:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        return re.findall(r"^model name\s*: (.*)$", text, re.M)[0].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def peak_rss() -> int:
    """Return the most memory that this process has held (resident set), in bytes."""
    try:  # getrusage would count what the parent held before it started this process
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(re.findall(r"^VmHWM:\s*(\d+) kB$", text, re.M)[0]) * 1024
    except (OSError, IndexError):
        pass
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes


def _free_vram() -> int:
    return sum(gpu.free_bytes for gpu in backend.devices())


def _say(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure the request on stdin."""
    # Ctrl-C ends the process at once; a handler would have to be asked for at every node.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        _say(measured=measure(json.load(sys.stdin), lambda: _say(ran=1)))
    except ReellamaError as error:
        _say(error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
