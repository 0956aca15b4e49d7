"""Pick a quantization for this machine: measure what is needed, remember it, choose by a rule.

    from reellama.gguf_tools.picking.pick import pick
    from reellama.gguf_tools.picking.candidates import LocalModel

    found = pick(LocalModel("model-F16.gguf", (), work), Limits(max_kld=0.02), work)

The reference reads a text once, and its logits are compared with those of each other file. What
cannot keep the limits is not fetched: neither a file that is larger than the memory, nor one that
this machine's memory is too slow for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.measuring import bench
from reellama.gguf_tools.measuring.bench_tests import BenchTest
from reellama.gguf_tools.measuring.divergence import Estimate
from reellama.gguf_tools.measuring.perplexity import ENGLISH_TEXT, Divergence, measure_perplexity
from reellama.gguf_tools.memory.offload import plan_offload
from reellama.gguf_tools.memory.roofline import bytes_of_a_token, read_bandwidth
from reellama.gguf_tools.picking.candidates import Candidate, Source
from reellama.gguf_tools.picking.results import Result, ResultsFolder
from reellama.gguf_tools.picking.selection import Limits, Measured, choose
from reellama.gguf_tools.runtime.backend import GpuLayers, system_info
from reellama.gguf_tools.sizes import show_size
from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.gguf_tools.text import text_chunks
from reellama.gguf_tools.threads import default_threads

# A file that memory would have to be this many times faster for is not tried: the measurement of
# the memory's speed may have been disturbed, and caches help small models.
TOO_SLOW = 1.5
EXACT = Estimate(0.0, 0.0)

Progress = Callable[[int, int, str], None]  # files done, total files, what is being done


@dataclass(frozen=True)
class PickSettings:
    """How files are measured."""

    text: Path = ENGLISH_TEXT
    n_chunks: int = 2  # of 512 tokens, of which 255 are scored
    n_gen: int = 32  # tokens
    repetitions: int = 2
    n_threads: int | None = None
    n_gpu_layers: GpuLayers = 0


@dataclass(frozen=True)
class Picked:
    """What was measured, what was not, and what to use."""

    measured: dict[str, Measured]  # by type, the reference first
    skipped: dict[str, str]  # by type, why
    predicted: dict[str, float]  # tokens a second that memory would allow at most, by type
    choice: str | None  # a type; None where nothing keeps the limits
    n_new: int = field(default=0)  # how many were measured now, and not remembered


def pick(
    source: Source,
    limits: Limits,
    work: Path,
    *,
    n_ctx: int = 4096,
    memory: int,
    settings: PickSettings = PickSettings(),
    progress: Progress | None = None,
) -> Picked:
    """Measure the files of `source` as far as needed, and choose one for the `limits`.

    Layers and context are planned for `memory` bytes and `n_ctx` positions. Results are kept in the
    folder `work`. Raises ReellamaError when a file cannot be had or measured; what was measured
    before is kept.
    """
    work.mkdir(parents=True, exist_ok=True)
    bandwidth = _bandwidth(settings.n_threads or default_threads(), work / "bandwidth.json")
    results = ResultsFolder(work / "results")
    measurer = _Measurer(source, limits, bandwidth, settings, results, progress)
    with temporary_folder(work) as folder:
        _measure_all(source, measurer, folder)
    measured = {
        candidate.type: _sum_up(candidate.type, *measurer.results[candidate.type], n_ctx, memory)
        for candidate in (source.reference, *source.others)
        if candidate.type in measurer.results
    }
    chosen = choose(list(measured.values()), limits)
    choice = chosen.type if chosen else None
    return Picked(measured, measurer.skipped, measurer.predicted, choice, measurer.n_new)


def _measure_all(source: Source, measurer: _Measurer, folder: Path) -> None:
    """Measure the files that have no result yet; files of a moment go into `folder`."""
    reference = source.reference
    logits = folder / "reference.logits"
    if reference.type not in measurer.results or measurer.unmeasured():
        measurer.report(reference, "fetching")
        with source.open(reference, folder) as path:
            if reference.type not in measurer.results:
                measurer.measure(reference, path, None)
            if measurer.unmeasured():
                measurer.save_logits(reference, path, logits)
    for candidate in measurer.unmeasured():
        measurer.report(candidate, "fetching")
        with source.open(candidate, folder) as path:
            measurer.measure(candidate, path, logits)


class _Measurer:
    """Measures files, and has the results of all: those of earlier runs, and its own."""

    def __init__(
        self,
        source: Source,
        limits: Limits,
        bandwidth: float,
        settings: PickSettings,
        results_folder: ResultsFolder,
        progress: Progress | None,
    ) -> None:
        self._candidates = [source.reference, *source.others]
        self._limits, self._bandwidth = limits, bandwidth
        self._settings, self._progress = settings, progress
        self._results_folder = results_folder
        self._numbers = {each.type: number for number, each in enumerate(self._candidates)}
        self._keys = {each.type: _key(source, each, settings) for each in self._candidates}
        earlier = {name: results_folder.get(key) for name, key in self._keys.items()}
        self.results = {name: result for name, result in earlier.items() if result is not None}
        self.n_new = 0
        self.skipped: dict[str, str] = {}  # by type, why
        self.predicted: dict[str, float] = {}  # tokens a second that memory would allow at most

    def unmeasured(self) -> list[Candidate]:
        """The files without a result that may keep the limits, once the reference has one."""
        file = self.results[self._candidates[0].type][1]
        share = bytes_of_a_token(file) / file.size  # of a file's bytes that are read for a token
        left = []
        for candidate in self._candidates:
            predicted = self._bandwidth / (share * candidate.n_bytes)
            self.predicted[candidate.type] = predicted
            if candidate.type not in self.results:
                if why := _cannot_keep(candidate, predicted, self._limits, self._settings):
                    self.skipped[candidate.type] = why
                else:
                    left.append(candidate)
        return left

    def report(self, candidate: Candidate, doing: str) -> None:
        """Report what is being done with a file."""
        if self._progress:
            number = self._numbers[candidate.type]
            self._progress(number, len(self._numbers), f"{candidate.type}: {doing}")

    def measure(self, candidate: Candidate, path: Path, logits: Path | None) -> None:
        """Measure a file and store the result.

        logits: the reference's, to compare with; None for the reference itself.
        """
        settings = self._settings
        divergence = None if logits is None else self.measure_divergence(candidate, path, logits)
        self.report(candidate, "measuring its speed")
        setups = bench.grid(
            [path], n_gpu_layers=[settings.n_gpu_layers], n_threads=[settings.n_threads]
        )
        [tg] = bench.run(setups, [BenchTest("tg", settings.n_gen)], settings.repetitions)
        result = Result(
            kl=divergence.kl if divergence else EXACT,
            same_top=divergence.same_top if divergence else Estimate(1.0, 0.0),
            speed=Estimate(tg.avg_ts, tg.stddev_ts),
            peak_rss=tg.peak_rss,
        )
        self._results_folder.put(self._keys[candidate.type], result, path)
        self.results[candidate.type] = result, read_model(path)
        self.n_new += 1

    def save_logits(self, candidate: Candidate, path: Path, logits: Path) -> None:
        """Let a file read the text, and save its logits."""
        self._read_text(candidate, path, save_logits=logits)

    def measure_divergence(self, candidate: Candidate, path: Path, logits: Path) -> Divergence:
        """Let a file read the text, and compare its logits with saved ones."""
        divergence = self._read_text(candidate, path, reference_logits=logits)
        assert divergence is not None
        return divergence

    def _read_text(
        self,
        candidate: Candidate,
        path: Path,
        *,
        save_logits: Path | None = None,
        reference_logits: Path | None = None,
    ) -> Divergence | None:
        def reading(done: float, total: int, _perplexity: float) -> None:
            self.report(candidate, f"reading the text, {done:.0f} of {total}")

        settings = self._settings
        return measure_perplexity(
            path,
            settings.text,
            reference_logits=reference_logits,
            save_logits=save_logits,
            n_chunks=settings.n_chunks,
            n_threads=settings.n_threads,
            n_gpu_layers=settings.n_gpu_layers,
            progress=reading,
        ).divergence


def _bandwidth(n_threads: int, cache_path: Path) -> float:
    """The greatest speed of memory that was ever measured here: other programs only lower it."""
    name = f"{n_threads} threads, {system_info()}"
    try:
        before = {
            str(key): float(value) for key, value in json.loads(cache_path.read_text()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        before = {}
    best = max(read_bandwidth(n_threads), before.get(name, 0.0))
    write_atomically(cache_path, json.dumps(before | {name: best}))
    return best


def _cannot_keep(
    candidate: Candidate, predicted: float, limits: Limits, settings: PickSettings
) -> str | None:
    """Why a file that is not there yet cannot keep the limits, None if it may."""
    if limits.vram is not None and candidate.n_bytes > limits.vram:
        return f"{show_size(candidate.n_bytes)} of weights alone"
    on_cpu = settings.n_gpu_layers == 0  # what a GPU's memory does is not known
    if on_cpu and limits.min_speed is not None and TOO_SLOW * predicted < limits.min_speed:
        return f"memory allows {predicted:.1f} tokens/s"
    return None


def _sum_up(name: str, result: Result, file: GGUFFile, n_ctx: int, memory: int) -> Measured:
    return Measured(
        type=name,
        n_bytes=file.size,
        kl=result.kl,
        same_top=result.same_top,
        speed=result.speed,
        peak_rss=result.peak_rss,
        plan=plan_offload(file, n_ctx, memory),
    )


def _key(source: Source, candidate: Candidate, settings: PickSettings) -> dict[str, Any]:
    """Everything that a result depends on, as plain values for JSON."""
    values = asdict(settings) | {"text": _digest(settings.text)}
    return {
        "content": candidate.content,
        "reference": source.reference.content,
        **values,
        "llama-cpp-python": version("llama-cpp-python"),
        "system": system_info(),
        "default_threads": default_threads(),
    }


def _digest(text: Path) -> str:
    return hashlib.sha256(text_chunks.read_text(text)).hexdigest()
