"""Measure the speed and memory of models over a grid of settings.

    from reellama.gguf_tools import bench

    results = bench(["model.gguf"], n_threads=[2, 4])

The tests have llama-bench's names (https://github.com/ggml-org/llama.cpp/tree/master/tools/llama-bench):

- `pp512` (prompt processing) reads 512 tokens, `tg128` (text generation) generates 128;
- `sp64` reads 64 embeddings instead of token ids, like the soft tokens of a video;
- `pp512+tg128` reads, then generates;
- `tg128 @ d4096` begins with 4,096 positions in the KV cache, which are not timed;
- `tg128 x8` generates eight answers at once, as in llama-batched-bench.

Each setup of the grid is measured in a process of its own (`bench_child`), so that its peak memory
is not that of others.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring.bench_results import BenchResult, ResultsFile
from reellama.gguf_tools.measuring.bench_tests import TEST_KINDS, BenchTest
from reellama.gguf_tools.runtime import aborts
from reellama.gguf_tools.runtime.backend import GpuLayers
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.runtime.tensor_placement import parse_placement
from reellama.gguf_tools.user_paths import expand_user

CHILD = (sys.executable, "-m", "reellama.gguf_tools.measuring.bench_child")

Progress = Callable[[int, int, str], None]  # runs done, total runs, name of the setup
MAX_PARALLEL = 256  # sequences of a context: LLAMA_MAX_SEQ in llama.cpp
DEFAULT_TESTS = (BenchTest("pp", 512), BenchTest("tg", 128), BenchTest("sp", 64))


@dataclass(frozen=True)
class BenchSetup:
    """One point of a grid: a model and its settings."""

    model: Path
    n_gpu_layers: GpuLayers
    settings: ContextSettings
    n_cpu_moe: int = 0  # number of first layers whose experts stay on the CPU
    tensor_buft_overrides: str = ""  # PATTERN=MEMORY;..., see `tensor_placement`

    def __str__(self) -> str:
        s = self.settings
        return (
            f"{self.model.name} (n_threads {s.n_threads or 'default'}, n_gpu_layers "
            f"{self.n_gpu_layers}, n_batch {s.n_batch}, n_ubatch {s.n_ubatch}, type_k {s.type_k}, "
            f"type_v {s.type_v}, flash_attn {s.flash_attn})"
        )


def bench(
    models: Sequence[str | Path],
    tests: Sequence[str] = ("pp512", "tg128", "sp64"),
    repetitions: int = 5,
    **settings: Any,
) -> list[BenchResult]:
    """Measure all tests for all combinations of models and settings, see `grid` and `run`."""
    return run(grid(models, **settings), [BenchTest.parse(name) for name in tests], repetitions)


def grid(
    models: Sequence[str | Path],
    *,
    n_gpu_layers: Sequence[GpuLayers] = (0,),
    n_batch: Sequence[int] = (ContextSettings.n_batch,),
    n_ubatch: Sequence[int] = (ContextSettings.n_ubatch,),
    type_k: Sequence[str] = (ContextSettings.type_k,),
    type_v: Sequence[str] = (ContextSettings.type_v,),
    flash_attn: Sequence[str] = (ContextSettings.flash_attn,),
    n_threads: Sequence[int | None] = (None,),
    n_cpu_moe: Sequence[int] = (0,),
    tensor_buft_overrides: Sequence[str] = ("",),
) -> list[BenchSetup]:
    """Return the setups of all combinations of models and settings; `n_threads` varies fastest.

    Raises ReellamaError for a combination that llama.cpp does not support.
    """
    context_settings = [
        ContextSettings(
            n_batch=b, n_ubatch=u, type_k=k, type_v=v, flash_attn=attention, n_threads=threads
        )
        for b, u, k, v, attention, threads in itertools.product(
            n_batch, n_ubatch, type_k, type_v, flash_attn, n_threads
        )
    ]
    for settings in context_settings:
        settings.check()
    for text in tensor_buft_overrides:
        parse_placement(text)
    return [
        BenchSetup(expand_user(model).absolute(), layers, settings, n_experts, placement)
        for model, layers, n_experts, placement, settings in itertools.product(
            models, n_gpu_layers, n_cpu_moe, tensor_buft_overrides, context_settings
        )
    ]


def run(
    setups: Sequence[BenchSetup],
    tests: Sequence[BenchTest] = DEFAULT_TESTS,
    repetitions: int = 5,
    *,
    warmup: bool = True,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> list[BenchResult]:
    """Measure all tests of all setups.

    Args:
        setups: from `grid`.
        tests: what to measure.
        repetitions: timed runs of each test.
        warmup: whether to run each test once before, not timed.
        resume: file of results (JSON lines), to which new ones are appended. Its results are not
            measured again, unless the model's file, llama.cpp or a setting changed.
        progress: called before and after each run.

    Raises:
        ReellamaError: a setup cannot be measured. Earlier results are in the file.
    """
    check_tests(tests, repetitions)
    results_file = ResultsFile(expand_user(resume) if resume is not None else None)
    keys = {
        (setup, test): _key(setup, test, repetitions, warmup) for setup in setups for test in tests
    }
    left = {
        setup: [test for test in tests if keys[setup, test] not in results_file] for setup in setups
    }
    runs_each = repetitions + warmup
    done, total = 0, runs_each * sum(map(len, left.values()))
    for setup, missing in left.items():
        if not missing:
            continue
        if progress:
            progress(done, total, str(setup))
        # `_measure` yields once for each run, and then the measurements.
        with closing(_measure(setup, missing, repetitions, warmup)) as events:
            for _ in range(runs_each * len(missing)):
                next(events)
                done += 1
                if progress:
                    progress(done, total, str(setup))
            results = _results(setup, missing, next(events))
        results_file.add(
            {keys[setup, test]: result for test, result in zip(missing, results, strict=True)}
        )
    return [results_file[key] for key in keys.values()]


def check_tests(tests: Sequence[BenchTest], repetitions: int) -> None:
    """Raise ReellamaError for what cannot be measured."""
    if repetitions < 1:
        raise ReellamaError(f"repetitions is {repetitions}, but must be 1 or more")
    if not tests:
        raise ReellamaError("there is nothing to measure: all of -p, -n, -s and -pg are 0")
    for test in tests:
        if test.kind not in TEST_KINDS or test.n < 1 or (test.kind == "pg") != (test.n_gen > 0):
            raise ReellamaError(f"no such test: {test}; take pp, tg or sp and a number above 0")
        if not 1 <= test.n_parallel <= MAX_PARALLEL:
            raise ReellamaError(
                f"{test.n_parallel} sequences at once: llama.cpp takes 1 to {MAX_PARALLEL}"
            )


def _key(setup: BenchSetup, test: BenchTest, repetitions: int, warmup: bool) -> str:
    """The key of a result: everything that it depends on, as JSON."""
    try:
        stat = setup.model.stat()
    except OSError as error:
        raise ReellamaError(f"cannot read {setup.model}: {error.strerror}") from error
    parts = {
        "test": str(test),
        "model": str(setup.model),
        "bytes": stat.st_size,
        "changed": stat.st_mtime_ns,
        "n_gpu_layers": setup.n_gpu_layers,
        "n_cpu_moe": setup.n_cpu_moe,
        "tensor_buft_overrides": setup.tensor_buft_overrides,
        **asdict(setup.settings),
        "repetitions": repetitions,
        "warmup": warmup,
        "llama-cpp-python": version("llama-cpp-python"),
    }
    return json.dumps(parts)


def _measure(
    setup: BenchSetup, tests: Sequence[BenchTest], repetitions: int, warmup: bool
) -> Generator[dict[str, Any], None, None]:
    """Yield {} after each run in a child process, and the measurements at the end."""
    request = {
        "model": str(setup.model),
        "n_gpu_layers": setup.n_gpu_layers,
        "n_cpu_moe": setup.n_cpu_moe,
        "tensor_buft_overrides": setup.tensor_buft_overrides,
        "settings": asdict(setup.settings),
        "tests": tests,
        "repetitions": repetitions,
        "warmup": warmup,
    }
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=Path(__file__).parents[3],  # where the child finds this package
        ) as child,
    ):
        assert child.stdin and child.stdout
        try:
            with suppress(BrokenPipeError), child.stdin:
                json.dump(request, child.stdin)
            for line in child.stdout:
                event = json.loads(line)
                if "error" in event:
                    raise ReellamaError(event["error"])
                yield event.get("measured", {})
        finally:
            if child.poll() is None and sys.exc_info()[0] is not None:
                child.kill()
        if child.wait():
            complaints.seek(0)
            raise ReellamaError(_failure(setup, child.returncode, complaints.read()))


def _failure(setup: BenchSetup, status: int, complaints: str) -> str:
    """The message for a child that failed. complaints: its stderr."""
    end = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    if status in (-9, 137):
        end += ", probably for want of memory"
    last = next((line for line in reversed(complaints.splitlines()) if line.strip()), "")
    if last.startswith(aborts.BROKE_OFF):
        return last.removeprefix(aborts.PREFIX)
    return f"the process that measured {setup} {end}{f': {last.strip()}' if last else ''}"


def _results(
    setup: BenchSetup, tests: Sequence[BenchTest], measured: dict[str, Any]
) -> list[BenchResult]:
    """A result for each test, from the child's measurements."""
    samples = measured.pop("samples_ns")
    settings = asdict(setup.settings) | measured
    common = {
        field.name: settings[field.name] for field in fields(BenchResult) if field.name in settings
    }
    now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    return [
        BenchResult(
            **common,
            **_statistics(test.n_tokens, tuple(times)),
            test=str(test),
            model_filename=str(setup.model),
            n_prompt=test.n if test.kind in ("pp", "pg") else 0,
            n_gen=test.n if test.kind == "tg" else test.n_gen,
            n_soft=test.n if test.kind == "sp" else 0,
            n_depth=test.depth,
            n_parallel=test.n_parallel,
            n_cpu_moe=setup.n_cpu_moe,
            tensor_buft_overrides=setup.tensor_buft_overrides,
            test_time=now,
        )
        for test, times in zip(tests, samples, strict=True)
    ]


def _statistics(n: int, samples_ns: tuple[int, ...]) -> dict[str, Any]:
    speeds = [1e9 * n / time for time in samples_ns]
    several = len(samples_ns) > 1
    return {
        "avg_ns": round(statistics.mean(samples_ns)),
        "stddev_ns": round(statistics.stdev(samples_ns)) if several else 0,
        "avg_ts": statistics.mean(speeds),
        "stddev_ts": statistics.stdev(speeds) if several else 0.0,
        "samples_ns": samples_ns,
    }
