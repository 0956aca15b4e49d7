"""The plan of llama.cpp's quantizer: the type that each tensor gets, and the size of the file.

llama.cpp chooses types by architecture, layer and shape (src/llama-quant.cpp). The types are parsed
from the log of a dry run, which computes nothing and takes next to no time.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gguf.constants import GGMLQuantizationType

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_writer import TensorInfo, file_size, metadata_entries
from reellama.gguf_tools.quantization.quant_notes import quantization_notes
from reellama.gguf_tools.quantization.quant_types import TENSOR_TYPES
from reellama.gguf_tools.quantization.quantize_child import (
    QuantizeJob,
    QuantizerProcess,
    imatrix_metadata,
)
from reellama.gguf_tools.sizes import show_size

if TYPE_CHECKING:  # imports numpy, which is only needed with an imatrix
    from reellama.gguf_tools.quantization.imatrix import Imatrix

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION

# [  12/ 272] blk.0.attn_q.weight         - [  576,   576,     1,     1], type =    f16, size = ...
TENSOR_LINE = re.compile(r"\[ *(\d+)/ *(\d+)\] (\S.*?) +- \[([\d, ]+)\], type = +(\w+), ")
NEW_TYPE = re.compile(r"-> +[\d.]+ MiB \((\w+)\)")
FALLBACK = re.compile(r"WARNING: (\d+) of \d+ tensor\(s\) required fallback")
FAILED = re.compile(r"failed to quantize: (.*)")
NEEDS_IMATRIX = re.compile(r"(will require an|requires an) imatrix", re.I)
# Messages of C++ exceptions for a stream that could not be written.
WRITE_FAILED = re.compile(r"iostream|ios_base|basic_ios", re.I)
LOW_BITS = re.compile(r"IQ3_XXS|IQ2_\w+|IQ1_\w+")
# llama.cpp's message for a tensor that the imatrix lacks.
MISSING = re.compile(r"Missing importance matrix for tensor (\S+)")


@dataclass(frozen=True)
class QuantPlan:
    """The tensors of the planned file, the size of the file in bytes, and warnings for the user."""

    tensors: tuple[TensorInfo, ...]
    n_bytes: int
    notes: tuple[str, ...]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the tensors' data."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def n_elements(self) -> int:
        """How many numbers the tensors hold."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


class QuantizerLog:
    """Parses the quantizer's log as it arrives."""

    def __init__(self) -> None:
        self.started, self.total = 0, 0  # tensors whose quantization has started, their total
        self.lines: list[str] = []
        self._pending = ""

    def feed(self, _level: int, text: str) -> None:
        """Parse the next piece of the log, which may be part of a line or several lines."""
        self._pending += text
        if match := TENSOR_LINE.search(self._pending):
            self.started, self.total = int(match[1]), int(match[2])
        *lines, self._pending = self._pending.split("\n")
        self.lines += [line for line in lines if line.strip()]

    def failure(self, job: QuantizeJob, type_name: str) -> ReellamaError:
        """The error that states why llama.cpp failed."""
        text = "\n".join(self.lines)
        if NEEDS_IMATRIX.search(text):
            return imatrix_missing_error(job, type_name)
        if match := MISSING.search(text):
            return ReellamaError(
                f"{job.imatrix} has nothing about {match[1]}, which {type_name} needs: "
                "it was made from another model, or from too short a text"
            )
        match = FAILED.search(text)
        if match and WRITE_FAILED.search(match[1]):
            folder = Path(job.output).parent
            return ReellamaError(
                f"{folder} took no more while {type_name} was written: its disk is full (free: "
                f"{show_size(shutil.disk_usage(folder).free)}), or it cannot be written any more"
            )
        reason = match[1] if match else "llama.cpp gave no reason"
        return ReellamaError(f"cannot quantize {job.source} into {type_name}: {reason}")


def plan_quantization(
    quantizer: QuantizerProcess,
    job: QuantizeJob,
    type_name: str,
    metadata: Mapping[str, bytes],
    imatrix: Imatrix | None = None,
) -> QuantPlan:
    """Plan a job with a dry run of llama.cpp's quantizer.

    Args:
        metadata: the entries of the source, as `raw_entries` returns them.
        imatrix: the importance matrix of the job, if any.

    Raises ReellamaError if the job would fail.
    """
    log = QuantizerLog()
    if not quantizer.run(replace(job, dry_run=True), log.feed):
        raise log.failure(job, type_name)
    before, after = _tensors(log.lines)
    if any(map(NEEDS_IMATRIX.search, log.lines)):
        # Without overrides all tensors have types of `type_name`.
        tensor = _needing_imatrix(after) if job.overrides else None
        raise imatrix_missing_error(job, tensor or type_name)
    # The total of the log includes tensors of pruned layers.
    is_complete = len(after) == log.total or job.prune_layers
    if not (is_complete and after):
        raise ReellamaError("cannot understand what this version of llama.cpp says of its plans")
    notes = quantization_notes(job, type_name, before, after, imatrix)
    if (match := FALLBACK.search("\n".join(log.lines))) and int(match[1]):
        notes += (
            (
                f"{match[1]} of {len(after)} tensors get another type than usual, for their rows "
                "are no multiple of its block"
            ),
        )
    return QuantPlan(after, file_size(_output_metadata(metadata, job, imatrix), after), notes)


def imatrix_missing_error(job: QuantizeJob, type_name: str) -> ReellamaError:
    """The error for a type that needs an importance matrix."""
    return ReellamaError(
        f"{type_name} needs an importance matrix: make one with `reellama gguf imatrix "
        f"{Path(job.source).name} TEXT`, and give it as --imatrix"
    )


def _needing_imatrix(after: tuple[TensorInfo, ...]) -> str | None:
    """The first planned tensor, with its type, that llama.cpp needs an importance matrix for."""
    exempt = ("token_embd", "output.")
    return next(
        (
            f"{tensor.name} as {tensor.type.name}"
            for tensor in after
            if LOW_BITS.fullmatch(tensor.type.name) and not tensor.name.startswith(exempt)
        ),
        None,
    )


def _tensors(lines: list[str]) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Source and target tensors, from the lines of a dry run."""
    by_name = {name.lower(): type_ for name, type_ in GGMLQuantizationType.__members__.items()}
    by_name |= {name.lower(): type_ for name, type_ in TENSOR_TYPES.items()}
    before, after = [], []
    for line in lines:
        if match := TENSOR_LINE.search(line):
            shape = tuple(map(int, match[4].split(",")))
            old = by_name[match[5].lower()]
            changed = NEW_TYPE.search(line)
            new = by_name[changed[1].lower()] if changed else old
            before.append(TensorInfo(match[3], shape, old))
            after.append(TensorInfo(match[3], shape, new))
    return tuple(before), tuple(after)


def _output_metadata(
    metadata: Mapping[str, bytes], job: QuantizeJob, imatrix: Imatrix | None
) -> dict[str, bytes]:
    """The metadata that llama.cpp will write."""
    entries = {
        key: entry
        for key, entry in metadata.items()
        if key not in ("split.no", "split.count", "split.tensors.count")
    }
    added: dict[str, int | float | bool | str] = {
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": job.ftype,
        **dict(job.metadata),
    }
    if imatrix is not None:
        added |= imatrix_metadata(imatrix, job.imatrix or "")
    return entries | metadata_entries(added)
