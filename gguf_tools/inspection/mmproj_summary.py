"""Summarize the header of an mmproj: `summarize_mmproj(read_gguf(path))`."""

from __future__ import annotations

from dataclasses import dataclass

from reellama.gguf_tools.format.mmproj_checks import mmproj_problems
from reellama.gguf_tools.format.mmproj_header import mmproj_header
from reellama.gguf_tools.format.reader import GGUFFile


@dataclass(frozen=True)
class MmprojSummary:
    """An mmproj. Fields that are missing in the header or unknown for the family are None.

    Most fields are those of `MmprojHeader` and `ProjectorFamily`.

    Attributes:
        grid: rows and columns of tokens, for families that scale pictures to one size.
        tokens: number of tokens of a picture, for such families; of a tile if `has_tiles`.
        problems: why the file cannot be used, one line each.
    """

    projector_type: str
    models: str | None
    has_vision: bool
    has_audio: bool
    image_size: int | None
    any_size: bool | None
    patch_size: int | None
    token_side: int | None
    is_grid: bool | None
    grid: tuple[int, int] | None
    tokens: int | None
    token_range: tuple[int, int] | None
    has_tiles: bool
    tower_layers: int | None
    tower_width: int | None
    width: int | None
    n_deepstack: int
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None
    mrope: bool | None
    non_causal: bool | None
    merged_frames: int | None
    problems: tuple[str, ...]


def summarize_mmproj(file: GGUFFile) -> MmprojSummary:
    """Sum up the header of an mmproj, usable or not."""
    header = mmproj_header(file)
    family = header.family
    return MmprojSummary(
        projector_type=header.projector_type,
        models=family.models if family else None,
        has_vision=header.has_vision,
        has_audio=header.has_audio,
        image_size=header.image_size,
        any_size=family.any_size if family else None,
        patch_size=header.patch_size,
        token_side=header.token_side,
        is_grid=family.is_grid if family else None,
        grid=header.grid(),
        tokens=header.n_tokens(),
        token_range=header.token_range,
        has_tiles=header.has_tiles,
        tower_layers=header.tower_layers,
        tower_width=header.tower_width,
        width=header.width,
        n_deepstack=header.n_deepstack,
        image_mean=header.image_mean,
        image_std=header.image_std,
        mrope=family.mrope if family else None,
        non_causal=family.non_causal if family else None,
        merged_frames=family.merged_frames if family else None,
        problems=tuple(mmproj_problems(file)),
    )
