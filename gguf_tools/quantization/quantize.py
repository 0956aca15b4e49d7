"""Quantize a GGUF into other types, an LLM with llama.cpp's quantizer, an mmproj without it.

    from reellama.gguf_tools import quantize

    quantize("model-f16.gguf", ["Q4_K_M", "Q8_0"])

Files are written atomically: to a hidden file in the same folder, renamed at the end. Modules that
need numpy (for imatrix files, adapters and mmproj files) are imported only if used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_writer import raw_entries
from reellama.gguf_tools.format.mmproj_header import is_mmproj
from reellama.gguf_tools.format.reader import DEFAULT_ALIGNMENT, GGUFFile, read_gguf
from reellama.gguf_tools.format.split_files import check_named_as_split
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.quantization.output_files import (
    check_output_paths,
    check_space,
    output_paths,
    parts,
    replacing_parts,
)
from reellama.gguf_tools.quantization.quant_options import MetadataValue, parse_layers
from reellama.gguf_tools.quantization.quant_plan import QuantizerLog, QuantPlan, plan_quantization
from reellama.gguf_tools.quantization.quant_types import (
    COPY_TYPE,
    QuantType,
    quant_type,
    type_of_tensor,
)
from reellama.gguf_tools.quantization.quantize_child import QuantizeJob, QuantizerProcess
from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.gguf_tools.user_paths import expand_user

# Current activity, tensors done, total tensors.
QuantizeProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Quantized:
    """The result of quantizing a model, or of a dry run."""

    path: Path
    type: str
    n_bytes: int  # of the file
    bits_per_weight: float  # of the tensors' data alone
    notes: tuple[str, ...]  # warnings for the user
    seconds: float  # that the quantizer took


@dataclass(frozen=True)
class _Request:
    """The arguments of `quantize` that are no settings of llama.cpp's quantizer."""

    source: Path
    targets: dict[str, QuantType | None]  # by name; None: a copy
    output: str | Path | None
    loras: tuple[tuple[str | Path, float], ...]
    prune_layers: str
    dry_run: bool
    force: bool
    progress: QuantizeProgress | None


def quantize(
    source: str | Path,
    types: str | Sequence[str],
    output: str | Path | None = None,
    *,
    imatrix: str | Path | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    pure: bool = False,
    output_type: str | None = None,
    embedding_type: str | None = None,
    leave_output: bool = False,
    metadata: Sequence[tuple[str, MetadataValue]] = (),
    prune_layers: str = "",
    keep_split: bool = False,
    loras: Sequence[tuple[str | Path, float]] = (),
    n_threads: int = 0,
    dry_run: bool = False,
    force: bool = False,
    progress: QuantizeProgress | None = None,
    quantizer: QuantizerProcess | None = None,
) -> list[Quantized]:
    """Quantize `source` into each of `types`.

    An mmproj becomes F32, F16, BF16 or Q8_0, without further settings of tensors or metadata.

    Args:
        types: names in `quant_types.QUANT_TYPES`.
        output: a file, or a folder, which is made if missing. None means the current folder, with
            files named after the source and the type.
        tensor_types: pairs of a regular expression and a type, for tensors with a matching name.
        pure: give all tensors the same type.
        output_type, embedding_type: types of the output matrix and of the token embeddings.
        leave_output: keep the type of the output matrix.
        metadata: keys with values to set in the result.
        prune_layers: indices of layers to leave out, such as "3,5-7".
        keep_split: write as many files as the source has.
        loras: paths of adapters with scales, which are merged in first.
        n_threads: 0 means all processors.
        dry_run: plan only, and write nothing.
        force: replace existing files.
        quantizer: a process started before, which is ended.

    Raises ReellamaError, before anything is written, for a source, type, imatrix or adapter that
    cannot be used, for a file that exists, and for a disk without enough space.
    """
    path = find.resolve(source)
    if n_threads < 0:
        raise ReellamaError(f"n_threads is {n_threads}, but must be 0 or more")
    targets = _targets([types] if isinstance(types, str) else types)
    request = _Request(path, targets, output, tuple(loras), prune_layers, dry_run, force, progress)
    job = QuantizeJob(
        source=str(path.absolute()),
        output="",
        ftype=0,
        pure=pure,
        output_type=None if output_type is None else type_of_tensor(output_type),
        embedding_type=None if embedding_type is None else type_of_tensor(embedding_type),
        overrides=tuple((_lower(pattern), type_of_tensor(name)) for pattern, name in tensor_types),
        imatrix=None if imatrix is None else str(expand_user(imatrix).absolute()),
        quantize_output=not leave_output,
        metadata=tuple(metadata),
        keep_split=keep_split,
        n_threads=n_threads,
    )
    if keep_split:
        _check_can_stay_split(path, loras)
    with quantizer or QuantizerProcess() as quantizer:  # starts while the header is read
        return _quantize(quantizer, job, request)


def _check_can_stay_split(path: Path, loras: Sequence[object]) -> None:
    if loras:
        raise ReellamaError("merging an adapter makes one file: leave --keep-split out")
    if len(part_names(path.name)) == 1:
        raise ReellamaError(f"{path} is one file: leave --keep-split out")


def _targets(types: Sequence[str]) -> dict[str, QuantType | None]:
    """Types by name. Raises ReellamaError for an unknown name, a repeated type, and no type."""
    targets = [quant_type(name) for name in types]
    names = [type_.name if type_ else COPY_TYPE for type_ in targets]
    if not names or len(set(names)) < len(names):
        raise ReellamaError(f"give each type once, and at least one: {' '.join(names) or 'none'}")
    return dict(zip(names, targets, strict=True))


def _quantize(quantizer: QuantizerProcess, job: QuantizeJob, request: _Request) -> list[Quantized]:
    """Check the source and the output files, and quantize."""
    file = _read_source(request.source)
    source_is_mmproj = is_mmproj(file.metadata)
    if source_is_mmproj:
        _check_mmproj_job(file.path, job, request.loras)
    if request.prune_layers:
        job = replace(job, prune_layers=parse_layers(request.prune_layers, file.n_layer))
    merged_bytes = _check_adapters(file, request.loras)
    adapters = [Path(adapter).stem for adapter, _ in request.loras]
    outputs = output_paths(file, [*request.targets], request.output, adapters)
    if not request.dry_run:
        n_files = len(part_names(file.path.name)) if job.keep_split else 1
        new_files = [part for output in outputs for part in parts(output, n_files)]
        check_output_paths(file.path, new_files, request.force)
    if source_is_mmproj:
        return _quantize_mmproj(file, outputs, request)
    return _quantize_llm(quantizer, file, job, outputs, merged_bytes, request)


def _read_source(path: Path) -> GGUFFile:
    """The header of a file that can be quantized."""
    file = read_gguf(path)
    check_named_as_split(file)
    if file.metadata.get("general.alignment", DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
        raise ReellamaError(f"{path} has a general.alignment that llama.cpp cannot quantize")
    return file


def _check_adapters(file: GGUFFile, loras: Sequence[tuple[str | Path, float]]) -> int:
    """Check that adapters can be merged; returns the bytes of the merged file, 0 without any."""
    if not loras:
        return 0
    from reellama.gguf_tools.quantization.lora_merge import merged_size, open_adapters

    open_adapters(file, loras)
    return merged_size(file)


def _quantize_llm(
    quantizer: QuantizerProcess,
    file: GGUFFile,
    job: QuantizeJob,
    outputs: Sequence[Path],
    merged_bytes: int,
    request: _Request,
) -> list[Quantized]:
    matrix = None
    if job.imatrix is not None:
        from reellama.gguf_tools.quantization.imatrix import read_imatrix

        matrix = read_imatrix(job.imatrix)
    jobs = [_job_of_type(job, type_) for type_ in request.targets.values()]
    entries = raw_entries(file.path)
    plans = [
        plan_quantization(quantizer, job, name, entries, matrix)
        for job, name in zip(jobs, request.targets, strict=True)
    ]
    if request.dry_run:
        return [
            _result(output, name, plan, 0.0)
            for output, name, plan in zip(outputs, request.targets, plans, strict=True)
        ]
    check_space(outputs[0].parent, plans, merged_bytes)
    with _merged(file, request.loras, outputs[0].parent, request.progress) as merged:
        source = str(merged.absolute())
        return [
            _write(quantizer, replace(job, source=source), output, name, plan, request.progress)
            for job, output, name, plan in zip(jobs, outputs, request.targets, plans, strict=True)
        ]


def _lower(pattern: str) -> str:
    """A pattern in lower case, as names of tensors are, except for classes such as `\\D`."""
    return re.sub(r"\\.|[A-Z]+", lambda m: m[0] if m[0][0] == "\\" else m[0].lower(), pattern)


def _check_mmproj_job(path: Path, job: QuantizeJob, loras: Sequence[object]) -> None:
    types = (job.output_type, job.embedding_type)
    chosen = (job.imatrix, job.overrides, job.pure, job.metadata, not job.quantize_output, loras)
    if any(chosen) or types != (None, None):
        raise ReellamaError(
            f"{path} is an mmproj: an imatrix, LoRA adapters and types of single tensors are for "
            "language models"
        )


def _quantize_mmproj(file: GGUFFile, outputs: Sequence[Path], request: _Request) -> list[Quantized]:
    from reellama.gguf_tools.quantization.mmproj_quantize import plan_mmproj, write_mmproj

    plans = [plan_mmproj(file, name) for name in request.targets]
    if not request.dry_run:
        check_space(outputs[0].parent, plans, 0)
    results = []
    for output, name, plan in zip(outputs, request.targets, plans, strict=True):
        started = time.perf_counter()
        if not request.dry_run:
            progress = partial(request.progress or _no_progress, f"quantizing {name}")
            with replacing(output) as temporary:
                write_mmproj(file, plan, name, temporary, progress)
        seconds = 0.0 if request.dry_run else time.perf_counter() - started
        results.append(_result(output, name, plan, seconds))
    return results


def _no_progress(_activity: str, _done: int, _total: int) -> None:
    """A QuantizeProgress that reports nothing."""


def _job_of_type(job: QuantizeJob, type_: QuantType | None) -> QuantizeJob:
    return replace(job, only_copy=True) if type_ is None else replace(job, ftype=type_.ftype)


@contextmanager
def _merged(
    file: GGUFFile,
    loras: Sequence[tuple[str | Path, float]],
    folder: Path,
    progress: QuantizeProgress | None,
) -> Iterator[Path]:
    """A context with the file to quantize: the source, or a temporary one with merged adapters."""
    if not loras:
        yield file.path
        return
    from reellama.gguf_tools.quantization.lora_merge import merge_lora

    merging = None if progress is None else partial(progress, "merging LoRA")
    with temporary_folder(folder, ".merged-") as temporary:
        yield merge_lora(file.path, loras, temporary / "merged.gguf", progress=merging)


def _write(
    quantizer: QuantizerProcess,
    job: QuantizeJob,
    output: Path,
    type_name: str,
    plan: QuantPlan,
    progress: QuantizeProgress | None,
) -> Quantized:
    """Quantize into one type."""
    log = QuantizerLog()
    activity = f"quantizing {type_name}"

    def on_log(level: int, text: str) -> None:
        before = log.started
        log.feed(level, text)
        if progress is not None and log.started > before:
            progress(activity, log.started - 1, log.total)

    n_files = len(part_names(Path(job.source).name)) if job.keep_split else 1
    with replacing_parts(output, n_files) if n_files > 1 else replacing(output) as temporary:
        started = time.perf_counter()
        if not quantizer.run(replace(job, output=str(temporary.absolute())), on_log):
            raise log.failure(job, type_name)
        seconds = time.perf_counter() - started
        if progress is not None:
            progress(activity, log.total, log.total)
        for part in parts(temporary, n_files):
            read_gguf(part)  # raises if damaged
    written = parts(output, n_files)
    result = _result(written[0], type_name, plan, seconds)
    return replace(result, n_bytes=sum(path.stat().st_size for path in written))


def _result(path: Path, type_name: str, plan: QuantPlan, seconds: float) -> Quantized:
    bits = 8 * plan.tensor_bytes / plan.n_elements
    return Quantized(path, type_name, plan.n_bytes, bits, plan.notes, seconds)
