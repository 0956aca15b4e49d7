"""How the tokens of a vision GGUF stand in a prompt: positions, times and tiles; warnings."""

from __future__ import annotations

import numpy as np

from reellama.gguf_tools.format.mmproj_header import MmprojHeader
from reellama.gguf_tools.mtmd.mtmd_tower import MtmdTower
from reellama.gguf_tools.text.prompt_parts import Prompt, SoftTokens, TokenIds
from reellama.models.encoded_frames import EncodedFrames

# What is written before the tokens of a group of frames, by family; all others get "<0:12>".
TIMESTAMPS = {
    "idefics3": "Frame from {minutes:02}:{rest:02}:",  # SmolVLM2
    "qwen3vl_merger": "<{seconds:.1f} seconds>",
}


def timestamp(header: MmprojHeader, seconds: float) -> str:
    """The time of a group in the words that the family was trained with, where it has some."""
    minutes, rest = divmod(int(seconds), 60)
    return TIMESTAMPS.get(header.projector_type, "<{minutes}:{rest:02}>").format(
        seconds=seconds, minutes=minutes, rest=rest
    )


def mmproj_warning(header: MmprojHeader, *, tiles: bool) -> str:
    """What makes answers with an mmproj worse, or how its tokens are treated otherwise; else ""."""
    if header.loses_first_patch:
        return (
            f"{header.path.name}: this version of llama.cpp sees pictures of a CLIP tower one "
            "patch off (its issue 25814), so answers are worse than the model's own"
        )
    if tiles or header.family is not None:
        return ""
    return (
        f"{header.path.name}: its family, {header.projector_type}, is not known to pool well, so "
        "frames are shown in full, unless --pooling names a method"
    )


def soft_tokens(
    tower: MtmdTower, tokens: np.ndarray, positions: np.ndarray, grid: tuple[int, ...]
) -> SoftTokens:
    """The tokens of a group of frames `[n, n_embd]`, each at the centre of what was pooled into
    it: `positions` `[n, 3]` in frames of the group, rows and columns of the `grid`."""
    if not tower.has_mrope:
        return SoftTokens(tokens, causal=tower.causal)
    offsets = np.floor(positions + 0.5).astype(np.int32).T
    n_positions = max(*grid, int(offsets[0].max()) + 1)
    return SoftTokens(tokens, np.ascontiguousarray(offsets), n_positions, tower.causal)


def tiled_parts(tower: MtmdTower, video: EncodedFrames) -> Prompt:
    """Pictures in full with their tiles, as llama.cpp shows them."""
    layout = tower.layout(*video.size)
    parts: Prompt = []
    for picture in video.array.reshape(len(video.array), -1, video.array.shape[-1]):
        rows = picture.astype(np.float32)
        images = iter(np.split(rows, np.cumsum(layout.image_tokens)[:-1]))
        parts += [
            SoftTokens(next(images), causal=tower.causal) if ids is None else TokenIds(ids)
            for ids in layout.tiled
        ]
    return parts
