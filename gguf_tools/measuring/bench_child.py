"""The child process of `bench`, which measures one setup.

It reads a request, a JSON object, from stdin. It writes JSON lines to stdout: `{"ran": 1}` after
each run, then `{"measured": ...}`, or `{"error": "one line"}` with exit status 1.
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

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring.bench_runs import Run, make_fill, make_run
from reellama.gguf_tools.measuring.bench_tests import BenchTest
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.runtime.tensor_placement import experts_on_cpu, parse_placement
from reellama.gguf_tools.threads import default_threads

EVERY_SEQUENCE = -1  # to llama_memory_seq_rm


def measure(request: dict[str, Any], ran: Callable[[], None]) -> dict[str, Any]:
    """Run the tests of a request, each a `BenchTest` as a list; returns fields of `BenchResult`.

    ran: called after each run.
    """
    settings = ContextSettings(**request["settings"])
    # A fixed number: None would follow the load of the machine.
    settings = replace(settings, n_threads=settings.n_threads or default_threads())
    settings.check()
    backend.amx_decision()  # its probe, in a child, is not part of the loading time
    free_before = _free_vram()
    started = time.perf_counter_ns()
    tests = [BenchTest(*test) for test in request["tests"]]
    n_ctx = max(test.n_parallel * test.n_positions for test in tests)
    model = backend.load_model(
        request["model"],
        n_gpu_layers=request["n_gpu_layers"],
        n_ctx=n_ctx,
        placement=[
            *parse_placement(request["tensor_buft_overrides"]),
            *experts_on_cpu(request["n_cpu_moe"]),
        ],
    )
    load_ns = time.perf_counter_ns() - started
    with model:
        samples = []
        vram = 0
        for test in tests:
            with _context(model, test, settings) as context:
                run = make_run(context, test)
                if request["warmup"]:
                    run(_shortened(test), 0)
                    ran()
                samples.append(list(_repeat(context, run, test, request["repetitions"], ran)))
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


def _context(model: backend.Model, test: BenchTest, settings: ContextSettings) -> Context:
    """A context for the positions of a test.

    Raises ReellamaError for a test that an encoder cannot do, and for more sequences than fit a
    batch.
    """
    if test.n_parallel > settings.n_batch:
        raise ReellamaError(
            f"{test.n_parallel} sequences at once need -b {test.n_parallel} or more, and it is "
            f"{settings.n_batch}"
        )
    if model.continues_text:
        n_ctx = test.n_positions
        return Context(model, n_ctx, settings, n_seq=test.n_parallel, n_outputs=test.n_parallel)
    n = test.n
    if test.kind in ("tg", "pg") or test.depth or test.n_parallel > 1:
        raise ReellamaError(
            f"{model.path} is an encoder, which writes no text and keeps none: leave {test} out, "
            "with -n 0"
        )
    if n > settings.n_ubatch or n > model.file.n_ctx_train:
        raise ReellamaError(
            f"{model.path} is an encoder, which reads a text at once: {n} tokens need -ub {n}, and "
            f"it was trained with {model.file.n_ctx_train}"
        )
    return Context(model, n, settings, n_outputs=n, may_encode=True)


def _repeat(
    context: Context, run: Run, test: BenchTest, repetitions: int, ran: Callable[[], None]
) -> Iterator[int]:
    """Yield the time of each repetition, in ns."""
    fill = make_fill(context, test)
    gc.disable()
    context.clear()
    for repetition in range(repetitions):
        if not (repetition and _cut_back(context, test.depth)):
            context.clear()
            fill()
        started = time.perf_counter_ns()
        run(test, test.depth)
        yield time.perf_counter_ns() - started
        ran()
    gc.enable()


def _shortened(test: BenchTest) -> BenchTest:
    """A test with one generated token, which is enough to warm up."""
    return test._replace(n=1) if test.kind == "tg" else test._replace(n_gen=min(test.n_gen, 1))


def _cut_back(context: Context, depth: int) -> bool:
    """Remove all but the first `depth` positions; False if the model's memory cannot be cut."""
    memory = llama.llama_get_memory(context.ptr)
    return bool(depth and memory and llama.llama_memory_seq_rm(memory, EVERY_SEQUENCE, depth, -1))


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
    """Return the peak resident memory of this process, in bytes."""
    try:  # getrusage would include the memory of the parent at the fork
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


def _send(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure the request on stdin."""
    # Ctrl-C ends the process at once. Python's handler would only run after llama.cpp returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        _send(measured=measure(json.load(sys.stdin), lambda: _send(ran=1)))
    except ReellamaError as error:
        _send(error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
