"""Detect an mmproj that cannot be used, by itself or with an LLM, from the headers.

libmtmd crashes on some of these files, and does not say why others fail to load. To detect weights
that are not finite, see `reellama.gguf_tools.inspection.nonfinite_weights`.
"""

from __future__ import annotations

import re

from gguf.constants import GGMLQuantizationType, GGUFValueType

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.header_writer import raw_entries, value_type
from reellama.gguf_tools.format.mmproj_header import MmprojHeader, is_mmproj, mmproj_header
from reellama.gguf_tools.format.reader import GGUFFile
from reellama.gguf_tools.format.vision_projector import is_known

ANOTHER = "give its own with --mmproj, or pull the model again"
# The types that libmtmd expects of keys; another type aborts the process.
KEY_TYPES = {
    GGUFValueType.BOOL: re.compile(r"clip\.(has_\w+_encoder|use_gelu|use_silu)"),
    GGUFValueType.INT32: re.compile(r"clip\.minicpmv_version"),
    GGUFValueType.FLOAT32: re.compile(
        r"clip\.vision\.(attention\.layer_norm_epsilon|swiglu_clamp)"
    ),
    GGUFValueType.STRING: re.compile(
        r"general\.(name|description)|clip\.(vision\.)?(projector_type|mm_patch_merge_type)"
    ),
    GGUFValueType.UINT32: re.compile(
        r"clip\.minicpmv_query_num|clip\.vision\.((embedding|feed_forward)_length|block_count"
        r"|projection_dim|attention\.head\w+|image_(size|min_pixels|max_pixels)|patch_size"
        r"|preproc_\w+|projector\.(scale_factor|query_side|window_side)|spatial_merge_size"
        r"|n_wa_pattern|window_size|sam\.\w+|expert_used_count)"
    ),
}


def check_mmproj(llm: GGUFFile, mmproj: GGUFFile) -> None:
    """Raise GGUFError if an mmproj cannot be used with an LLM."""
    for problem in mmproj_problems(mmproj):
        raise GGUFError(problem)
    header = mmproj_header(mmproj)
    if not is_same_width(llm, header):
        raise GGUFError(
            f"{llm.path} cannot see through another model's mmproj: its embeddings have "
            f"{soft_token_width(llm):,} numbers, {mmproj.path} makes tokens of {_total(header):,}; "
            f"{ANOTHER}"
        )


def mmproj_problems(file: GGUFFile) -> list[str]:
    """Why a file cannot be used as an mmproj, whatever the LLM; empty if it can."""
    header = mmproj_header(file)
    # An LLM's file may include its projector, under the same keys.
    if not is_mmproj(file.metadata) and not header.has_vision:
        return [f"{file.path} is not an mmproj: it holds no vision encoder; {ANOTHER}"]
    if not header.has_vision:
        kind = "for sound only" if header.has_audio else "without a vision encoder"
        return [f"{file.path} is an mmproj {kind}: it cannot see; {ANOTHER}"]
    problems = []
    if not is_known(header.projector_type):
        name = header.projector_type or "unnamed"
        problems.append(
            f"{file.path} has a projector of the family {name}, which is not known here; update: "
            "pip install -U reellama llama-cpp-python"
        )
    problems += [
        f"{file.path} has tensors of type F64, such as {name!r}, which crash llama.cpp; convert it "
        "again as F16"
        for name in _f64(file)[:1]
    ]
    problems += [
        f"{file.path} is damaged: {key} is of another type than llama.cpp reads; convert it again"
        for key in _mistyped(file)[:1]
    ]
    if header.width is None:
        problems.append(f"{file.path} does not say how wide its tokens are; {ANOTHER}")
    return problems


def is_same_width(llm: GGUFFile, header: MmprojHeader) -> bool:
    """Whether the tokens of a picture are as wide as the LLM's soft tokens."""
    return header.width is not None and soft_token_width(llm) == _total(header)


def soft_token_width(llm: GGUFFile) -> int:
    """The width of an LLM's soft tokens.

    It is `n_embd`, except for models that add further embeddings in their first layers (Qwen3-VL's
    deepstack, https://arxiv.org/abs/2406.04334). Raises GGUFError for a file that is not an LLM.
    """
    n_deepstack = llm.metadata.get(f"{llm.architecture}.n_deepstack_layers")
    if type(n_deepstack) is int and n_deepstack > 0:
        return llm.n_embd * (1 + n_deepstack)
    return llm.n_embd


def _total(header: MmprojHeader) -> int:
    return (header.width or 0) * (1 + header.n_deepstack)


def _mistyped(file: GGUFFile) -> list[str]:
    """Keys that have another type than libmtmd reads."""
    return [
        key
        for key, entry in raw_entries(file.path).items()
        for type_, names in KEY_TYPES.items()
        if names.fullmatch(key) and value_type(key, entry) != type_
    ]


def _f64(file: GGUFFile) -> list[str]:
    return [name for name, t in file.tensors.items() if t.type == GGMLQuantizationType.F64]
