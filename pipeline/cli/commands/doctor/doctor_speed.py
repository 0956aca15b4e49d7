"""`reellama doctor --speed`: what this machine does, beside what it could, and what to change.

What it could do is what its memory allows (`gguf_tools/memory/roofline.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from statistics import median

import numpy as np

from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.memory.roofline import bytes_of_a_token, read_bandwidth
from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS, find_merged
from reellama.gguf_tools.runtime import backend, free_cores
from reellama.gguf_tools.threads import default_threads
from reellama.models.bundle import Bundle
from reellama.pipeline.cli.commands.doctor.doctor_checks import Finding
from reellama.pipeline.llm.engine import Engine, Text

N_READ = 128  # positions of the prompt
N_GENERATED = 32  # tokens
SECONDS = 2.5  # of one measurement of generation, at most
REPEATS = 3
# Other programs may take this many cores before it is worth saying.
MAX_TAKEN_CORES = 0.5
# A number of threads is worth naming when it is this many times as fast as the default.
MIN_SPEEDUP = 1.2


def speed() -> Iterator[Finding]:
    """Cores, memory, the visual tower, reading a prompt and writing an answer, with `mini`."""
    n_threads = default_threads()
    free = _free_cores()
    busy = free < n_threads - MAX_TAKEN_CORES
    yield Finding(
        "cores",
        "note" if busy else "ok",
        f"{free:.1f} of {n_threads} are free",
        "close what runs beside: threads that share a core wait for each other" if busy else "",
    )
    threads = free_cores.threads_for(free, n_threads)
    bandwidth = read_bandwidth(threads)
    yield Finding("memory", "ok", f"{_counted(threads)} can read {bandwidth / 1e9:.1f} GB/s")
    bundle = Bundle.load()
    yield _tower(bundle)
    yield from _language_model(bundle, bandwidth, threads)


def _free_cores() -> float:
    before = free_cores.CoreUse.read()
    time.sleep(2 * free_cores.PERIOD)
    return free_cores.cores_left(before, free_cores.CoreUse.read())


def _tower(bundle: Bundle) -> Finding:
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 255, (bundle.frames, 224, 224, 3), np.uint8))
    bundle.features(frames)  # it is loaded
    seconds = median(_clock(lambda: bundle.features(frames)) for _ in range(REPEATS))
    return Finding(
        "visual tower", "ok", f"{seconds:.2f} s for {bundle.frames} frames, those of one video"
    )


def _language_model(bundle: Bundle, bandwidth: float, threads: int) -> Iterator[Finding]:
    path, lora = bundle.llm_path(), bundle.lora
    if merged := find_merged(path, lora, MERGED_LLMS):
        path, lora = merged, []
    elif lora:
        mend = "reellama chat merges it, once"
        yield Finding("adapter", "note", "beside the LLM, which costs speed", mend)
    n_bytes = bytes_of_a_token(read_gguf(path))
    speeds = {}
    for n in sorted({None, 1, default_threads()}, key=lambda n: n or 0):
        with Engine(path, n_ctx=512, n_threads=n, lora=lora) as engine:
            if n is None:
                prefill = median(_prefill(engine) for _ in range(REPEATS))
                yield Finding("reading a prompt", "ok", f"{prefill:.0f} tokens/s")
            speeds[n] = median(_generate(engine) for _ in range(REPEATS))
    ours = speeds.pop(None)
    # A speed that was measured is possible, also above the memory's bandwidth: other programs take
    # more of it in one second than in the next, and caches hold part of a small model.
    possible = max(ours, bandwidth / n_bytes)
    best = max(speeds, key=lambda n: speeds[n])
    faster = speeds[best] > MIN_SPEEDUP * ours
    yield Finding(
        "writing an answer",
        "note" if faster else "ok",
        f"{ours:.0f} tokens/s with {_counted(threads)}; memory would allow {possible:.0f}, at "
        f"{n_bytes / 1e6:.0f} MB of weights a token",
        f"--threads {best}: {speeds[best]:.0f} tokens/s" if faster else "",
    )
    if backend.devices():
        yield Finding("GPU", "note", "not used so far", "try --gpu-layers auto")


def _prefill(engine: Engine) -> float:
    engine.clear()
    ids = engine.tokenizer.encode(" A dog runs over the green grass." * N_READ)[:N_READ]
    text = engine.tokenizer.decode(ids)
    return N_READ / _clock(lambda: engine.prefill([Text(text)]))


def _generate(engine: Engine) -> float:
    engine.clear()
    tokens = engine.generate([Text("Once upon a time")], max_tokens=N_GENERATED, n_probs=0)
    with closing(tokens):  # type: ignore[type-var]  # a generator
        for _ in tokens:
            if engine.last.generate_seconds > SECONDS / REPEATS:
                break
        return engine.last.n_generated / max(engine.last.generate_seconds, 1e-9)


def _counted(n_threads: int) -> str:
    return f"{n_threads} thread{'s' * (n_threads > 1)}"


def _clock(action: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    action()
    return time.perf_counter() - started_at
