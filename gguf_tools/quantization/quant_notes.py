"""Warnings about a planned quantization that may not do what the user expects."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gguf.constants import GGML_QUANT_SIZES

from reellama.gguf_tools.format.header_writer import TensorInfo
from reellama.gguf_tools.quantization.quantize_child import QuantizeJob

if TYPE_CHECKING:  # imports numpy, which is only needed with an imatrix
    from reellama.gguf_tools.quantization.imatrix import Imatrix


def quantization_notes(
    job: QuantizeJob,
    type_name: str,
    before: tuple[TensorInfo, ...],
    after: tuple[TensorInfo, ...],
    imatrix: Imatrix | None,
) -> tuple[str, ...]:
    """Warnings for the user, each of one line.

    Args:
        before: the tensors of the source.
        after: the tensors of the quantized model, in the same order.
        imatrix: the importance matrix of the job, if any.
    """
    notes = [
        *_requantized(before, after, type_name),
        *_without_match(job, after),
        *_imatrix_gaps(job, before, after, imatrix),
    ]
    if job.overrides and type_name in ("F32", "F16", "BF16", "COPY"):
        notes.append(f"types of single tensors count beside a quantized type only, not {type_name}")
    if type_name == "MXFP4_MOE" and not any(t.type.name == "MXFP4" for t in after):
        notes.append(
            "MXFP4_MOE is for mixtures of experts, and this model is none: its matrices are Q8_0"
        )
    return tuple(notes)


def _requantized(
    before: tuple[TensorInfo, ...], after: tuple[TensorInfo, ...], type_name: str
) -> list[str]:
    changed = [
        (old, new)
        for old, new in zip(before, after, strict=True)
        if old.type != new.type and _is_quantized(old)
    ]
    types = ", ".join(sorted({old.type.name for old, _ in changed}))
    if not changed:
        return []
    if not any(_is_quantized(new) for _, new in changed):
        return [f"{type_name} made of {types} is larger and no better: what that lost stays lost"]
    return [
        (
            f"the source is quantized already ({types}): what that lost stays lost, so quantize "
            "from F16 or F32 if you can"
        )
    ]


def _without_match(job: QuantizeJob, after: tuple[TensorInfo, ...]) -> list[str]:
    notes = []
    for pattern, _ in job.overrides:
        try:
            matches = any(re.search(pattern, tensor.name) for tensor in after)
        except re.error:  # llama.cpp uses std::regex, whose syntax differs in places
            continue
        if not matches:
            notes.append(f"no tensor has a name in which {pattern!r} is found: it changes nothing")
    return notes


def _imatrix_gaps(
    job: QuantizeJob,
    before: tuple[TensorInfo, ...],
    after: tuple[TensorInfo, ...],
    imatrix: Imatrix | None,
) -> list[str]:
    if imatrix is None:
        return []
    if not {tensor.name for tensor in after} & set(imatrix.sums):
        return [f"{job.imatrix} has nothing about the tensors of this model: not used"]
    weighted = [
        new.name
        for old, new in zip(before, after, strict=True)
        if old.type != new.type and _is_quantized(new) and new.name.startswith("blk.")
    ]
    lacking = [name for name in weighted if name not in imatrix.sums]
    if not lacking:
        return []
    return [
        (
            f"{job.imatrix} has nothing about {len(lacking)} of {len(weighted)} tensors, such as "
            f"{lacking[0]}: these are quantized without it"
        )
    ]


def _is_quantized(tensor: TensorInfo) -> bool:
    return GGML_QUANT_SIZES[tensor.type][0] > 1
