"""Quantize a GGUF into other types, with llama.cpp's own quantizer; an mmproj without it.

    from reellama.gguf_tools import quantize

    quantize("model-f16.gguf", ["Q4_K_M", "Q8_0"])

Files are written atomically: to a hidden file in the same folder, renamed at the end. What only
some jobs need (numpy, for imatrix files, adapters and mmproj files) is imported for those.
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
    check_places,
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

# What is being done, tensors done, total tensors.
QuantizeProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Quantized:
    """The result of quantizing a model, or of a dry run.

    `n_bytes` is the size of the file; `bits_per_weight` counts the tensors' data alone. `notes` are
    lines for people about deviations from the request. `seconds` is the time that llama.cpp took.
    """

    path: Path
    type: str
    n_bytes: int
    bits_per_weight: float
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Request:
    """What is asked for beside the settings of llama.cpp's quantizer, as `quantize` takes it."""

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
    """Quantize `source` into each of `types`; `quant_types` has their names.

    Files go into the current folder, named after the source with the type in place of its own, or
    to `output`: a file, or a folder that need not be there yet. `tensor_types` are pairs of a
    regular expression and a type for the tensors whose names it is found in; `pure` gives all
    tensors the same type; `output_type` and `embedding_type` are those of the output matrix and the
    token embeddings, and `leave_output` keeps the former as it is. `metadata` are keys with their
    values, set in the result, and `prune_layers` numbers of layers that are left out, such as
    "3,5-7". `keep_split` writes a split model as as many files. `loras` are adapters with their
    scales, merged in first. `n_threads` 0 means all processors. A dry run writes nothing. `force`
    lets existing files be replaced. Of an mmproj, which becomes F32, F16, BF16 or Q8_0, none of the
    settings of tensors can be chosen. `quantizer` is a process started before; it is ended.

    Raises ReellamaError, in one line and before anything is written, for a source, type, imatrix
    or adapter that cannot be used, a file that exists, and a disk too full.
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
        imatrix=None if imatrix is None else str(Path(imatrix).expanduser().absolute()),
        quantize_output=not leave_output,
        metadata=tuple(metadata),
        keep_split=keep_split,
        n_threads=n_threads,
    )
    if keep_split:
        _check_can_stay_split(path, loras)
    with quantizer or QuantizerProcess() as quantizer:  # it starts while the header is read
        return _quantize(quantizer, job, request)


def _check_can_stay_split(path: Path, loras: Sequence[object]) -> None:
    if loras:
        raise ReellamaError("merging an adapter makes one file: leave --keep-split out")
    if len(part_names(path.name)) == 1:
        raise ReellamaError(f"{path} is one file: leave --keep-split out")


def _targets(types: Sequence[str]) -> dict[str, QuantType | None]:
    """Types by their names. Raises ReellamaError for an unknown one, and for one given twice."""
    wanted = [quant_type(name) for name in types]
    targets = [type_.name if type_ else COPY_TYPE for type_ in wanted]
    if not targets or len(set(targets)) < len(targets):
        raise ReellamaError(f"give each type once, and at least one: {' '.join(targets) or 'none'}")
    return dict(zip(targets, wanted, strict=True))


def _quantize(quantizer: QuantizerProcess, job: QuantizeJob, request: _Request) -> list[Quantized]:
    """Check the source and where the files go, and quantize it."""
    file = _read_source(request.source)
    source_is_mmproj = is_mmproj(file.metadata)
    if source_is_mmproj:
        _check_mmproj_job(file.path, job, request.loras)
    if request.prune_layers:
        job = replace(job, prune_layers=parse_layers(request.prune_layers, file.n_layer))
    n_merged = _check_adapters(file, request.loras)
    adapters = [Path(adapter).stem for adapter, _ in request.loras]
    places = output_paths(file, [*request.targets], request.output, adapters)
    if not request.dry_run:
        n_files = len(part_names(file.path.name)) if job.keep_split else 1
        new_files = [part for place in places for part in parts(place, n_files)]
        check_places(file.path, new_files, request.force)
    if source_is_mmproj:
        return _quantize_mmproj(file, places, request)
    return _quantize_llm(quantizer, file, job, places, n_merged, request)


def _read_source(path: Path) -> GGUFFile:
    """The header of a file that can be quantized."""
    file = read_gguf(path)
    check_named_as_split(file)
    if file.metadata.get("general.alignment", DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
        raise ReellamaError(f"{path} has a general.alignment that llama.cpp cannot quantize")
    return file


def _check_adapters(file: GGUFFile, loras: Sequence[tuple[str | Path, float]]) -> int:
    """Check that adapters can be merged, and return the bytes of the source with them, else 0.

    Also before a dry run: merging itself comes after all other checks.
    """
    if not loras:
        return 0
    from reellama.gguf_tools.quantization.lora_merge import merged_size, open_adapters

    open_adapters(file, loras)
    return merged_size(file)


def _quantize_llm(
    quantizer: QuantizerProcess,
    file: GGUFFile,
    job: QuantizeJob,
    places: Sequence[Path],
    n_merged: int,
    request: _Request,
) -> list[Quantized]:
    matrix = None
    if job.imatrix is not None:
        from reellama.gguf_tools.quantization.imatrix import read_imatrix

        matrix = read_imatrix(job.imatrix)
    jobs = [_job_of_type(job, type_) for type_ in request.targets.values()]
    entries = raw_entries(file.path)
    plans = [
        plan_quantization(quantizer, each, name, entries, matrix)
        for each, name in zip(jobs, request.targets, strict=True)
    ]
    if request.dry_run:
        return [_result(*each, 0.0) for each in zip(places, request.targets, plans, strict=True)]
    check_space(places[0].parent, plans, n_merged)
    with _merged(file, request.loras, places[0].parent, request.progress) as merged:
        jobs = [replace(each, source=str(merged.absolute())) for each in jobs]
        return [
            _write(quantizer, *each, request.progress)
            for each in zip(jobs, places, request.targets, plans, strict=True)
        ]


def _lower(pattern: str) -> str:
    """A pattern in lower case, as all names of tensors are, but for classes such as `\\D`."""
    return re.sub(r"\\.|[A-Z]+", lambda m: m[0] if m[0][0] == "\\" else m[0].lower(), pattern)


def _check_mmproj_job(path: Path, job: QuantizeJob, loras: Sequence[object]) -> None:
    types = (job.output_type, job.embedding_type)
    chosen = (job.imatrix, job.overrides, job.pure, job.metadata, not job.quantize_output, loras)
    if any(chosen) or types != (None, None):
        raise ReellamaError(
            f"{path} is an mmproj: an imatrix, LoRA adapters and types of single tensors are for "
            "language models"
        )


def _quantize_mmproj(file: GGUFFile, places: Sequence[Path], request: _Request) -> list[Quantized]:
    from reellama.gguf_tools.quantization.mmproj_quantize import plan_mmproj, write_mmproj

    plans = [plan_mmproj(file, name) for name in request.targets]
    if not request.dry_run:
        check_space(places[0].parent, plans, 0)
    results = []
    for place, name, plan in zip(places, request.targets, plans, strict=True):
        started = time.perf_counter()
        if not request.dry_run:
            tell = partial(request.progress or _silent, f"quantizing {name}")
            with replacing(place) as temporary:
                write_mmproj(file, plan, name, temporary, tell)
        seconds = 0.0 if request.dry_run else time.perf_counter() - started
        results.append(_result(place, name, plan, seconds))
    return results


def _silent(_doing: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""


def _job_of_type(job: QuantizeJob, type_: QuantType | None) -> QuantizeJob:
    return replace(job, only_copy=True) if type_ is None else replace(job, ftype=type_.ftype)


@contextmanager
def _merged(
    file: GGUFFile,
    loras: Sequence[tuple[str | Path, float]],
    folder: Path,
    progress: QuantizeProgress | None,
) -> Iterator[Path]:
    """The file to quantize: the source, or a temporary one with the adapters in it."""
    if not loras:
        yield file.path
        return
    from reellama.gguf_tools.quantization.lora_merge import merge_lora

    tell = None if progress is None else partial(progress, "merging LoRA")
    with temporary_folder(folder, ".merged-") as temporary:
        yield merge_lora(file.path, loras, temporary / "merged.gguf", progress=tell)


def _write(
    quantizer: QuantizerProcess,
    job: QuantizeJob,
    place: Path,
    type_name: str,
    planned: QuantPlan,
    progress: QuantizeProgress | None,
) -> Quantized:
    listener = QuantizerLog()
    doing = f"quantizing {type_name}"

    def listen(level: int, text: str) -> None:
        before = listener.done
        listener.feed(level, text)
        if progress is not None and listener.done > before:
            progress(doing, listener.done - 1, listener.total)

    n_files = len(part_names(Path(job.source).name)) if job.keep_split else 1
    with replacing_parts(place, n_files) if n_files > 1 else replacing(place) as temporary:
        started = time.perf_counter()
        if not quantizer.run(replace(job, output=str(temporary.absolute())), listen):
            raise listener.failure(job, type_name)
        seconds = time.perf_counter() - started
        if progress is not None:
            progress(doing, listener.total, listener.total)
        for made in parts(temporary, n_files):
            read_gguf(made)  # raises if it is damaged
    written = parts(place, n_files)
    result = _result(written[0], type_name, planned, seconds)
    return replace(result, n_bytes=sum(path.stat().st_size for path in written))


def _result(place: Path, type_name: str, planned: QuantPlan, seconds: float) -> Quantized:
    bits = 8 * planned.tensor_bytes / planned.n_elements
    return Quantized(place, type_name, planned.n_bytes, bits, planned.notes, seconds)
