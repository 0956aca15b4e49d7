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
import tempfile
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
    measuring = _Measuring(source, limits, bandwidth, settings, results, progress)
    reference, known = source.reference, measuring.known
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        logits = folder / "reference.logits"
        if reference.type not in known or measuring.unmeasured():
            measuring.say(reference, "fetching")
            with source.open(reference, folder) as path:
                if reference.type not in known:
                    measuring.measure(reference, path, None)
                if measuring.unmeasured():
                    measuring.read(reference, path, save=logits)
        for candidate in measuring.unmeasured():
            measuring.say(candidate, "fetching")
            with source.open(candidate, folder) as path:
                measuring.measure(candidate, path, logits)
    measured = {
        each.type: _sum_up(each.type, *known[each.type], n_ctx, memory)
        for each in (reference, *source.others)
        if each.type in known
    }
    chosen = choose(list(measured.values()), limits)
    choice = chosen.type if chosen else None
    return Picked(measured, measuring.skipped, measuring.predicted, choice, measuring.n_new)


class _Measuring:
    """Measures files, and knows the results of all: those that are kept, and those that come."""

    def __init__(
        self,
        source: Source,
        limits: Limits,
        bandwidth: float,
        settings: PickSettings,
        results: ResultsFolder,
        progress: Progress | None,
    ) -> None:
        self._everything = [source.reference, *source.others]
        self._limits, self._bandwidth = limits, bandwidth
        self._settings, self._results, self._progress = settings, results, progress
        self._numbers = {each.type: number for number, each in enumerate(self._everything)}
        self._keys = {each.type: _key(source, each, settings) for each in self._everything}
        found = {name: results.get(key) for name, key in self._keys.items()}
        self.known = {name: result for name, result in found.items() if result is not None}
        self.n_new = 0
        self.skipped: dict[str, str] = {}  # by type, why
        self.predicted: dict[str, float] = {}  # tokens a second that memory would allow at most

    def unmeasured(self) -> list[Candidate]:
        """The files without a result that may keep the limits, once the reference has one."""
        file = self.known[self._everything[0].type][1]
        share = bytes_of_a_token(file) / file.size  # of a file's bytes that are read for a token
        left = []
        for each in self._everything:
            predicted = self.predicted[each.type] = self._bandwidth / (share * each.n_bytes)
            if each.type not in self.known:
                if why := _cannot_keep(each, predicted, self._limits, self._settings):
                    self.skipped[each.type] = why
                else:
                    left.append(each)
        return left

    def say(self, candidate: Candidate, doing: str) -> None:
        """Tell what is being done."""
        if self._progress:
            number = self._numbers[candidate.type]
            self._progress(number, len(self._numbers), f"{candidate.type}: {doing}")

    def measure(self, candidate: Candidate, path: Path, reference: Path | None) -> None:
        """Measure a file, against the reference's logits unless it is that, and keep the result."""
        settings = self._settings
        divergence = None if reference is None else self.read(candidate, path, compare=reference)
        self.say(candidate, "measuring its speed")
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
        self._results.put(self._keys[candidate.type], result, path)
        self.known[candidate.type] = result, read_model(path)
        self.n_new += 1

    def read(
        self,
        candidate: Candidate,
        path: Path,
        *,
        save: Path | None = None,
        compare: Path | None = None,
    ) -> Divergence | None:
        """Let a file read the text: to save its logits, or to compare with saved ones."""

        def reading(done: float, total: int, _perplexity: float) -> None:
            self.say(candidate, f"reading the text, {done:.0f} of {total}")

        settings = self._settings
        return measure_perplexity(
            path,
            settings.text,
            reference_logits=compare,
            save_logits=save,
            n_chunks=settings.n_chunks,
            n_threads=settings.n_threads,
            n_gpu_layers=settings.n_gpu_layers,
            progress=reading,
        ).divergence


def _bandwidth(n_threads: int, kept: Path) -> float:
    """The greatest speed of memory that was ever measured here: other programs only lower it."""
    name = f"{n_threads} threads, {system_info()}"
    try:
        before = {str(key): float(value) for key, value in json.loads(kept.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        before = {}
    best = max(read_bandwidth(n_threads), before.get(name, 0.0))
    write_atomically(kept, json.dumps(before | {name: best}))
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
