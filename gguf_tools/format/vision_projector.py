"""Families of vision projectors: how each lays out the tokens of a picture.

An mmproj names its family in `clip.projector_type`. The facts here come from `tools/mtmd/clip.cpp`
and `mtmd.cpp` of llama.cpp (as in llama-cpp-python 0.3.36). A family that llama.cpp has but
FAMILIES lacks can be used, too, with frames in full.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

SCALE_FACTOR = "clip.vision.projector.scale_factor"
SPATIAL_MERGE = "clip.vision.spatial_merge_size"


@dataclass(frozen=True)
class ProjectorFamily:
    """A family of vision projectors.

    Attributes:
        name: the value of `clip.projector_type`.
        models: models with such a projector.
        width_at: a tensor, and the axis of its shape in ggml's order whose length is the width of a
            token. The key `clip.vision.projection_dim` is wrong in files of early converters.
        is_grid: whether tokens are cells of the picture, row by row; else they are the outputs of a
            resampler's queries.
        merge: patches on a side of the square that becomes one token, if the header lacks
            `merge_key`.
        merge_key: metadata key with that number.
        grid_side: rows and columns of tokens, if they do not depend on the picture.
        row_end: name of a tensor; if the file has it, a token follows each row but the last.
        n_around: number of learned tokens before and after the grid together.
        any_size: whether a picture keeps its aspect ratio; else it becomes a square of
            `clip.vision.image_size`.
        token_range: fewest and most tokens of a picture that keeps its aspect ratio.
        pixel_limits: whether `clip.vision.image_{min,max}_pixels` in the header override
            `token_range`.
        tiles: whether llama.cpp cuts large pictures into tiles, each with tokens of its own.
        mrope: whether the LLMs use M-RoPE, with positions in time, row and column.
        non_causal: whether the tokens of a picture attend to each other in the LLM.
        causal_widths: widths of LLMs that are causal nevertheless.
        merged_frames: number of neighbouring frames of a video that become one picture.
    """

    name: str
    models: str
    width_at: tuple[str, int]
    is_grid: bool = True
    merge: int = 1
    merge_key: str = ""
    grid_side: int = 0
    row_end: str = ""
    n_around: int = 0
    any_size: bool = False
    token_range: tuple[int, int] | None = None
    pixel_limits: bool = False
    tiles: bool = False
    mrope: bool = False
    non_causal: bool = False
    causal_widths: Collection[int] = ()
    merged_frames: int = 1


def _qwen(name: str, models: str) -> ProjectorFamily:
    """A family of Qwen's: M-RoPE, 2 x 2 patches a token, two frames a picture."""
    return ProjectorFamily(
        name,
        models,
        ("mm.2.bias", 0),
        merge=2,
        merge_key=SPATIAL_MERGE,
        any_size=True,
        token_range=(8, 4096),
        mrope=True,
        merged_frames=2,
    )


_ALL = (
    ProjectorFamily("mlp", "LLaVA 1.5 and 1.6, BakLLaVA", ("mm.2.weight", 1)),
    # Its files say "mlp", but have a third layer with a norm.
    ProjectorFamily("mlp_norm", "Yi-VL", ("mm.3.bias", 0)),
    ProjectorFamily("ldp", "MobileVLM", ("mm.model.mb_block.1.block.2.1.bias", 0), merge=2),
    ProjectorFamily("ldpv2", "MobileVLM V2", ("mm.model.peg.0.bias", 0), merge=2),
    ProjectorFamily(
        "adapter", "GLM-Edge-V", ("adapter.linear.dense_4h_to_h.weight", 1), merge=2, n_around=2
    ),
    ProjectorFamily(
        "resampler",
        "MiniCPM-V up to 4.5, MiniCPM-o",
        ("resampler.proj.weight", 0),
        is_grid=False,
        tiles=True,
    ),
    ProjectorFamily(
        "minicpmv4_6",
        "MiniCPM-V 4.6",
        ("mm.down.weight", 1),
        merge=4,
        merge_key=SCALE_FACTOR,
        any_size=True,
        tiles=True,
    ),
    ProjectorFamily(
        "idefics3",
        "Idefics3, SmolVLM, SmolVLM2",
        ("mm.model.fc.weight", 1),
        merge_key=SCALE_FACTOR,
        tiles=True,
    ),
    ProjectorFamily(
        "internvl",
        "InternVL 2.5 to 3.5",
        ("mm.model.mlp.3.weight", 1),
        merge_key=SCALE_FACTOR,
        tiles=True,
    ),
    ProjectorFamily(
        "nemotron_v2_vl",
        "Nemotron Nano V2 VL",
        ("mm.model.mlp.3.weight", 1),
        merge_key=SCALE_FACTOR,
    ),
    ProjectorFamily(
        "llama4",
        "Llama 4",
        ("mm.model.fc.weight", 1),
        merge_key=SCALE_FACTOR,
        tiles=True,
    ),
    ProjectorFamily("janus_pro", "Janus-Pro", ("mm.1.bias", 0)),
    ProjectorFamily("cogvlm", "CogVLM", ("mm.down.weight", 1), n_around=2),
    ProjectorFamily(
        "gemma3",
        "Gemma 3",
        ("mm.input_projection.weight", 0),
        merge=4,
        merge_key=SCALE_FACTOR,
        non_causal=True,
    ),
    # MobileNetV5 has a grid of 16 x 16 cells whatever the picture's size.
    ProjectorFamily("gemma3nv", "Gemma 3n", ("mm.input_projection.weight", 0), grid_side=16),
    ProjectorFamily(
        "gemma4v",
        "Gemma 4",
        ("mm.input_projection.weight", 1),
        merge=3,
        merge_key=SCALE_FACTOR,
        any_size=True,
        token_range=(70, 1120),
        non_causal=True,
        causal_widths=(1536, 2560),  # E2B and E4B
    ),
    ProjectorFamily(
        "lfm2",
        "LFM2-VL",
        ("mm.2.weight", 1),
        merge_key=SCALE_FACTOR,
        any_size=True,
        token_range=(64, 256),
        tiles=True,
    ),
    ProjectorFamily(
        "kimivl",
        "Kimi-VL",
        ("mm.2.weight", 1),
        merge_key=SCALE_FACTOR,
        any_size=True,
        token_range=(8, 1024),
    ),
    ProjectorFamily(
        "pixtral",
        "Pixtral, Mistral Small 3.1 and later",
        ("mm.2.weight", 1),
        merge_key=SPATIAL_MERGE,
        row_end="v.token_embd.img_break",
        any_size=True,
        token_range=(8, 1024),
    ),
    ProjectorFamily("phi4", "Phi-4 vision", ("mm.2.weight", 1), any_size=True, pixel_limits=True),
    _qwen("qwen2vl_merger", "Qwen2-VL"),
    _qwen("qwen2.5vl_merger", "Qwen2.5-VL"),
    _qwen("qwen3vl_merger", "Qwen3-VL"),
    ProjectorFamily(
        "glm4v",
        "GLM-4.1V, GLM-4.5V",
        ("mm.down.weight", 1),
        merge=2,
        merge_key=SPATIAL_MERGE,
        any_size=True,
        token_range=(8, 4096),
        mrope=True,
    ),
)
FAMILIES = {family.name: family for family in _ALL}
# Further families that llama.cpp supports.
OTHER_FAMILIES = frozenset(
    {
        "deepseek4v",
        "deepseekocr",
        "deepseekocr2",
        "dots3note_v",
        "dots_ocr",
        "exaone4_5",
        "gemma4uv",
        "glm5v",
        "granite4_vision",
        "hunyuanvl",
        "kimik25",
        "lightonocr",
        "ling3vl",
        "mimovl",
        "minimax_m3",
        "muse-glimmer",
        "paddleocr",
        "step3vl",
        "yasa2",
        "youtuvl",
    }
)


def is_known(projector_type: str) -> bool:
    """Whether llama.cpp, in the version above, supports a vision projector of this name."""
    return projector_type in FAMILIES or projector_type in OTHER_FAMILIES
