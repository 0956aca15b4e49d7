"""Why an mmproj cannot be used, by itself or with an LLM: one line each, from the headers alone.

libmtmd crashes on some of these files, and says of others no more than that they failed to load.
Weights that are not numbers are looked for in `reellama.gguf_tools.inspection.nonfinite_weights`.
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
# The types in which libmtmd reads keys; another one ends the process.
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
    """Raise GGUFError, in one line, when an mmproj cannot see for an LLM.

    `read_gguf`, which both have passed, refuses files that are cut off or damaged.
    """
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
    """What makes a file useless as an mmproj, whatever the LLM; nothing for most."""
    header = mmproj_header(file)
    # An LLM's file may hold its projector too, under the same keys.
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
    """Whether tokens of a picture have as many numbers as the LLM takes for one."""
    return header.width is not None and soft_token_width(llm) == _total(header)


def soft_token_width(llm: GGUFFile) -> int:
    """How many numbers an LLM takes for a token that comes as an embedding.

    It is `n_embd`, but for models that add further embeddings in their first layers (Qwen3-VL's
    deepstack, https://arxiv.org/abs/2406.04334). Raises GGUFError for what is no language model.
    """
    more = llm.metadata.get(f"{llm.architecture}.n_deepstack_layers")
    return llm.n_embd * (1 + (more if type(more) is int and more > 0 else 0))


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
