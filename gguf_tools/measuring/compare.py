"""Compare quantizations of a model: size, quality, speed and memory of each type.

Every type is quantized from the base and measured against it. Its row is stored as a JSON file in
the work folder, so that a stopped comparison resumes with the next type.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.measuring import bench, perplexity
from reellama.gguf_tools.measuring.bench_tests import BenchTest
from reellama.gguf_tools.measuring.divergence import Estimate
from reellama.gguf_tools.quantization.output_files import default_name
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.runtime.backend import GpuLayers
from reellama.gguf_tools.text import text_chunks
from reellama.gguf_tools.user_paths import expand_user

# From large to small; none of them needs an importance matrix.
COMPARED_TYPES = (
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_0",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_S",
    "Q3_K_S",
    "Q2_K",
)

Score = Callable[[Path], float]  # GGUF -> accuracy, 0 to 1, on a benchmark of the caller
Progress = Callable[[int, int, str], None]  # models done, total models, activity


@dataclass(frozen=True)
class CompareSettings:
    """How each model is measured. With the defaults, SmolLM2-135M in 15 types takes about ten
    minutes."""

    text: Path = perplexity.ENGLISH_TEXT
    n_ctx: int = text_chunks.N_CTX
    n_chunks: int = 8
    n_prompt: int = 512
    n_gen: int = 64
    repetitions: int = 3
    n_threads: int | None = None
    n_gpu_layers: GpuLayers = 0
    imatrix: Path | None = None


@dataclass(frozen=True)
class CompareRow:
    """The measurements of one type. The base has no divergence from itself."""

    type: str
    n_bytes: int  # of the file
    bits_per_weight: float
    perplexity: Estimate
    kl: Estimate | None  # mean KL divergence from the base, nats
    kl_p99: float | None
    same_top: Estimate | None  # share of tokens with the same most likely token as the base
    pp: Estimate  # tokens a second; the error is the standard deviation over repetitions
    tg: Estimate
    peak_rss: int  # bytes
    vram: int | None  # bytes
    accuracy: float | None  # 0 to 1, where a score was asked for

    def to_json(self) -> dict[str, Any]:
        """This row as plain values; an estimate is an object with its value and error."""
        return {
            key: value._asdict() if isinstance(value, Estimate) else value
            for key, value in vars(self).items()
        }


def compare(
    base: str | Path,
    types: Sequence[str] = COMPARED_TYPES,
    *,
    work: str | Path,
    settings: CompareSettings = CompareSettings(),
    score: Score | None = None,
    score_name: str = "",
    keep: bool = False,
    progress: Progress | None = None,
) -> list[CompareRow]:
    """Quantize `base` into each of `types`, and measure all; the first row is that of the base.

    Args:
        base: the GGUF to quantize.
        types: quantization types.
        work: folder for the rows and files. A row there is not measured again, unless the base, the
            text or a setting changed.
        settings: how to measure.
        score: measures the accuracy of a GGUF.
        score_name: identifies `score` in the stored rows.
        keep: whether to keep the quantized files.
        progress: called when an activity begins.

    Raises:
        ReellamaError: a model cannot be quantized or measured. Earlier rows are stored.
    """
    file = read_gguf(expand_user(base).absolute())
    work = expand_user(work).absolute()
    targets = list(dict.fromkeys(type_.upper() for type_ in types))
    if targets:  # refuse wrong types before minutes of work
        quantize(file.path, targets, imatrix=settings.imatrix, dry_run=True)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReellamaError(f"cannot make the folder {work}: {error.strerror}") from error
    key = _key(file.path, settings, score_name if score else "")
    rows: list[CompareRow] = []
    for target in (None, *targets):

        def report(activity: str, name: str = target or "the base") -> None:
            if progress:
                progress(len(rows), len(targets) + 1, f"{name}: {activity}")

        path = work / default_name(file, target) if target else file.path
        row_path = path.with_suffix(".json") if target else work / f"{path.stem}-base.json"
        row = _read_row(row_path, key)
        if target and (row is None or (keep and not path.exists())):
            report("quantizing")
            _quantize(file.path, target, path, settings)
        if row is None:
            name = target or type_of(file)
            row = _measure(name, path, file.path if target else None, settings, score, report)
            text = json.dumps({"key": key, "row": row.to_json()}, indent=1) + "\n"
            write_atomically(row_path, text)
        if target and not keep:
            path.unlink(missing_ok=True)
        rows.append(row)
    return rows


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, loss) of the Pareto front, cheapest first.

    >>> pareto_front([(3, 1), (1, 3), (2, 4), (2, 2)])
    [1, 3, 0]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def type_of(file: GGUFFile) -> str:
    """The type of a model, or where its header does not say, that of most of its bytes."""
    name = quantization(file)
    if name == "unknown":
        bytes_of: Counter[str] = Counter()
        for tensor in file.tensors.values():
            bytes_of[tensor.type.name] += tensor.n_bytes
        name = bytes_of.most_common(1)[0][0]
    return name


def _quantize(base: Path, target: str, path: Path, settings: CompareSettings) -> None:
    n_threads = settings.n_threads or 0
    quantize(base, target, path, imatrix=settings.imatrix, n_threads=n_threads, force=True)


def _measure(
    name: str,
    path: Path,
    reference: Path | None,
    settings: CompareSettings,
    score: Score | None,
    report: Callable[[str], None],
) -> CompareRow:
    """Measure one file: quality, then speed, then the caller's score."""

    def reading(done: float, total: int, _perplexity: float) -> None:
        report(f"reading the text, {done:.0f} of {total}")

    quality = perplexity.measure_perplexity(
        path,
        settings.text,
        reference=reference,
        n_ctx=settings.n_ctx,
        n_chunks=settings.n_chunks,
        n_threads=settings.n_threads,
        n_gpu_layers=settings.n_gpu_layers,
        progress=reading,
    )
    report("measuring its speed")
    setups = bench.grid(
        [path], n_gpu_layers=[settings.n_gpu_layers], n_threads=[settings.n_threads]
    )
    tests = (BenchTest("pp", settings.n_prompt), BenchTest("tg", settings.n_gen))
    pp, tg = bench.run(setups, tests, settings.repetitions)
    accuracy = None
    if score:
        report("scoring")
        accuracy = score(path)
    divergence = quality.divergence
    return CompareRow(
        type=name,
        n_bytes=max(path.stat().st_size, pp.model_size),  # of a split file, all parts
        bits_per_weight=8 * pp.model_size / pp.model_n_params,
        perplexity=quality.perplexity,
        kl=divergence.kl if divergence else None,
        kl_p99=divergence.kl_p99 if divergence else None,
        same_top=divergence.same_top if divergence else None,
        pp=Estimate(pp.avg_ts, pp.stddev_ts),
        tg=Estimate(tg.avg_ts, tg.stddev_ts),
        peak_rss=tg.peak_rss,
        vram=tg.vram,
        accuracy=accuracy,
    )


def _key(base: Path, settings: CompareSettings, score_name: str) -> dict[str, Any]:
    """The key of a row: everything that it depends on, as plain values for JSON."""
    stat = base.stat()
    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(settings).items()
    }
    return {
        "base": str(base),
        "bytes": stat.st_size,
        "changed": stat.st_mtime_ns,
        **values,
        "text_sha256": hashlib.sha256(text_chunks.read_text(settings.text)).hexdigest(),
        "score": score_name,
        "llama-cpp-python": version("llama-cpp-python"),
    }


def _read_row(path: Path, key: dict[str, Any]) -> CompareRow | None:
    """Return the row in a file if it was measured with the same key, else None."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["key"] != key:
            return None
        values: dict[str, Any] = {
            name: Estimate(**value) if isinstance(value, dict) else value
            for name, value in entry["row"].items()
        }
        return CompareRow(**values)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
