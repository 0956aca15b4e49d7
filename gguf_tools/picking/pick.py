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
from reellama.gguf_tools.measuring.perplexity import ENGLISH_TEXT, Divergence, measure_quality
from reellama.gguf_tools.memory.offload import plan_offload
from reellama.gguf_tools.memory.roofline import bytes_of_a_token, read_bandwidth
from reellama.gguf_tools.picking.candidates import Candidate, Source
from reellama.gguf_tools.picking.limits import Limits, Measured, choose
from reellama.gguf_tools.picking.results import Result, ResultsFolder
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
    how: PickSettings = PickSettings(),
    progress: Progress | None = None,
) -> Picked:
    """Measure the files of `source` as far as needed, and choose one for the `limits`.

    Layers and context are planned for `memory` bytes and `n_ctx` positions. Results are kept in the
    folder `work`. Raises ReellamaError when a file cannot be had or measured; what was measured
    before is kept.
    """
    results = ResultsFolder(work / "results")
    everything = [source.reference, *source.others]
    keys = {each.type: _key(source, each, how) for each in everything}
    known = {each.type: results.get(keys[each.type]) for each in everything}
    measured: dict[str, Measured] = {}
    skipped: dict[str, str] = {}
    predicted: dict[str, float] = {}
    n_new = 0
    work.mkdir(parents=True, exist_ok=True)
    bandwidth = _bandwidth(how.n_threads or default_threads(), work / "bandwidth.json")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        logits = Path(folder, "reference.logits")
        share = 1.0  # of a file's bytes that are read for a token
        for number, candidate in enumerate(everything):
            name = candidate.type

            def say(doing: str, number: int = number, name: str = name) -> None:
                if progress:
                    progress(number, len(everything), f"{name}: {doing}")

            predicted[name] = bandwidth / (share * candidate.n_bytes)
            is_reference = candidate == source.reference
            needs_logits = is_reference and None in known.values() and not logits.exists()
            if known[name] is None and not is_reference:
                why = _cannot_keep(candidate, predicted[name], limits, how)
                if why:
                    skipped[name] = why
                    continue
            if known[name] is None or needs_logits:
                say("fetching")
                with source.open(candidate, Path(folder)) as path:
                    if needs_logits:
                        _read(path, how, say, save=logits)
                    if known[name] is None:
                        result = _measure(path, None if is_reference else logits, how, say)
                        results.put(keys[name], result, path)
                        n_new += 1
                        known[name] = result, read_model(path)
            result, file = known[name]  # type: ignore[misc]  # it was None and is no more
            if is_reference:
                share = bytes_of_a_token(file) / file.size
                predicted[name] = bandwidth / bytes_of_a_token(file)
            measured[name] = _sum_up(name, result, file, n_ctx, memory)
    chosen = choose(list(measured.values()), limits)
    return Picked(measured, skipped, predicted, chosen.type if chosen else None, n_new)


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
    candidate: Candidate, predicted: float, limits: Limits, how: PickSettings
) -> str | None:
    """Why a file that is not there yet cannot keep the limits, None if it may."""
    if limits.vram is not None and candidate.n_bytes > limits.vram:
        return f"{show_size(candidate.n_bytes)} of weights alone"
    on_cpu = how.n_gpu_layers == 0  # what a GPU's memory does is not known
    if on_cpu and limits.min_speed is not None and TOO_SLOW * predicted < limits.min_speed:
        return f"memory allows {predicted:.1f} tokens/s"
    return None


def _read(
    path: Path,
    how: PickSettings,
    say: Callable[[str], None],
    *,
    save: Path | None = None,
    compare: Path | None = None,
) -> Divergence | None:
    """Let a file read the text: to save its logits, or to compare with saved ones."""

    def reading(done: float, total: int, _perplexity: float) -> None:
        say(f"reading the text, {done:.0f} of {total}")

    return measure_quality(
        path,
        how.text,
        reference_logits=compare,
        save_logits=save,
        n_chunks=how.n_chunks,
        n_threads=how.n_threads,
        n_gpu_layers=how.n_gpu_layers,
        progress=reading,
    ).divergence


def _measure(
    path: Path, reference: Path | None, how: PickSettings, say: Callable[[str], None]
) -> Result:
    """Measure a file, against the reference's logits unless it is the reference."""
    far = None if reference is None else _read(path, how, say, compare=reference)
    say("measuring its speed")
    setups = bench.grid([path], n_gpu_layers=[how.n_gpu_layers], n_threads=[how.n_threads])
    [tg] = bench.run(setups, [BenchTest("tg", how.n_gen)], how.repetitions)
    return Result(
        kl=far.kl if far else EXACT,
        same_top=far.same_top if far else Estimate(1.0, 0.0),
        speed=Estimate(tg.avg_ts, tg.stddev_ts),
        peak_rss=tg.peak_rss,
    )


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


def _key(source: Source, candidate: Candidate, how: PickSettings) -> dict[str, Any]:
    """Everything that a result depends on, as plain values for JSON."""
    settings = asdict(how) | {"text": _digest(how.text)}
    return {
        "content": candidate.content,
        "reference": source.reference.content,
        **settings,
        "llama-cpp-python": version("llama-cpp-python"),
        "system": system_info(),
        "default_threads": default_threads(),
    }


def _digest(text: Path) -> str:
    return hashlib.sha256(text_chunks.read_text(text)).hexdigest()
