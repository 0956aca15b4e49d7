"""Pick a quantization for this machine: measure what is needed, remember it, choose by a rule.

    from reellama.gguf_tools.picking.pick import pick
    from reellama.gguf_tools.picking.candidates import LocalModel

    source = LocalModel("model-F16.gguf", (), work)
    picked = pick(source, Limits(max_kld=0.02), work, memory=8 << 30)

The reference reads a text once, and its logits are compared with those of each other file. Files
that cannot keep the limits are not fetched: those larger than the memory, and those that this
machine's memory is too slow for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
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

# A file is skipped only if it needs memory this many times faster than measured: other programs may
# have disturbed the measurement, and caches help small models.
TOO_SLOW = 1.5
EXACT = Estimate(0.0, 0.0)

Progress = Callable[[int, int, str], None]  # files done, total files, current activity


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
    """The measurements of a model's files, and the file to use."""

    measured: dict[str, Measured]  # by type, the reference first
    skipped: dict[str, str]  # by type, the reason
    predicted: dict[str, float]  # by type, upper bound of tokens a second that memory allows
    choice: str | None  # a type; None if no file keeps the limits
    n_new: int = 0  # files measured by this call; the other results are of earlier calls


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

    Args:
        work: folder in which results are cached; it is made if missing.
        n_ctx: positions of the context that memory is planned for.
        memory: bytes available for layers and context.
        progress: called with the files done, their total, and the current activity.

    Raises ReellamaError if a file cannot be fetched or measured; earlier results stay cached.
    """
    work.mkdir(parents=True, exist_ok=True)
    bandwidth = _bandwidth(settings.n_threads or default_threads(), work / "bandwidth.json")
    results = ResultsFolder(work / "results")
    measurer = _Measurer(source, limits, bandwidth, settings, results, progress)
    with temporary_folder(work) as folder:
        _measure_all(source, measurer, folder)
    measured = {
        candidate.type: _measured(candidate.type, *measurer.results[candidate.type], n_ctx, memory)
        for candidate in (source.reference, *source.others)
        if candidate.type in measurer.results
    }
    chosen = choose(list(measured.values()), limits)
    choice = chosen.type if chosen else None
    return Picked(measured, measurer.skipped, measurer.predicted, choice, measurer.n_new)


def _measure_all(source: Source, measurer: _Measurer, folder: Path) -> None:
    """Measure the files that have no result yet; temporary files go into `folder`."""
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
    """Measures files; `results` also has the results of earlier runs, by type."""

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
        self._index = {candidate.type: i for i, candidate in enumerate(self._candidates)}
        self._keys = {
            candidate.type: _key(source, candidate, settings) for candidate in self._candidates
        }
        earlier = {type_: results_folder.get(key) for type_, key in self._keys.items()}
        self.results = {type_: result for type_, result in earlier.items() if result is not None}
        # As in Picked.
        self.n_new = 0
        self.skipped: dict[str, str] = {}
        self.predicted: dict[str, float] = {}

    def unmeasured(self) -> list[Candidate]:
        """The files without a result that may keep the limits. The reference must have a result."""
        _, file = self.results[self._candidates[0].type]
        share = bytes_of_a_token(file) / file.size  # of a file's bytes that are read for a token
        remaining = []
        for candidate in self._candidates:
            predicted = self._bandwidth / (share * candidate.n_bytes)
            self.predicted[candidate.type] = predicted
            if candidate.type not in self.results:
                if reason := _skip_reason(candidate, predicted, self._limits, self._settings):
                    self.skipped[candidate.type] = reason
                else:
                    remaining.append(candidate)
        return remaining

    def report(self, candidate: Candidate, activity: str) -> None:
        """Call `progress` with the candidate's type and the current activity."""
        if self._progress:
            index = self._index[candidate.type]
            self._progress(index, len(self._index), f"{candidate.type}: {activity}")

    def measure(self, candidate: Candidate, path: Path, logits: Path | None) -> None:
        """Measure a file and store the result.

        Args:
            path: the candidate's file.
            logits: file of the reference's logits; None for the reference itself.
        """
        settings = self._settings
        divergence = None
        if logits is not None:
            divergence = self._read_text(candidate, path, reference_logits=logits)
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
        """Let a model read the text, and save its logits to the file `logits`."""
        self._read_text(candidate, path, save_logits=logits)

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
    """The highest memory bandwidth ever measured here, as other programs only lower it.

    Bandwidths are kept in the JSON file `cache_path`.
    """
    name = f"{n_threads} threads, {system_info()}"
    try:
        cached = {
            str(key): float(value) for key, value in json.loads(cache_path.read_text()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        cached = {}
    best = max(read_bandwidth(n_threads), cached.get(name, 0.0))
    write_atomically(cache_path, json.dumps(cached | {name: best}))
    return best


def _skip_reason(
    candidate: Candidate, predicted: float, limits: Limits, settings: PickSettings
) -> str | None:
    """Why a file cannot keep the limits, known before it is fetched; None if it may."""
    if limits.vram is not None and candidate.n_bytes > limits.vram:
        return f"{show_size(candidate.n_bytes)} of weights alone"
    on_cpu = settings.n_gpu_layers == 0  # the bandwidth of a GPU's memory is not measured
    if on_cpu and limits.min_speed is not None and TOO_SLOW * predicted < limits.min_speed:
        return f"memory allows {predicted:.1f} tokens/s"
    return None


def _measured(name: str, result: Result, file: GGUFFile, n_ctx: int, memory: int) -> Measured:
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
    text_digest = hashlib.sha256(text_chunks.read_text(settings.text)).hexdigest()
    return {
        "content": candidate.content,
        "reference": source.reference.content,
        **asdict(settings),
        "text": text_digest,
        "llama-cpp-python": version("llama-cpp-python"),
        "system": system_info(),
        "default_threads": default_threads(),
    }
