"""A vision GGUF as a bundle: an LLM and the `mmproj` that sees for it, as llama.cpp has them.

    bundle = VisionBundle(llm, mmproj)
    features = bundle.features(frames)                       # [pictures, rows, columns, n_embd]
    parts = bundle.prompt_parts(features, times)             # for `Engine.generate`

No training is needed: the tokens of the pictures are pooled over time and space until they fit the
budget (`reellama.models.token_pooling`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.text.prompt_parts import Prompt, SoftTokens, Text, TokenIds
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.models.vision.mtmd_tower import MtmdTower


@dataclass(frozen=True)
class PooledGroup:
    """TEMPORARY"""

    time: float
    rows: np.ndarray
    centres: np.ndarray


# Frames that are looked at when nobody says: the tower takes most of the time before an answer.
FRAMES = 16
# A frame is read with this many times the pixels that the tower takes on a side, so that the short
# side of a wide video is not read smaller than the tower sees it.
READ_SCALE = 2
MIN_READ_SIDE, MAX_READ_SIDE = 224, 1024
# Families that take pictures of any size: a frame is scaled to about this many tokens.
DYNAMIC_PICTURE_TOKENS = 64
DYNAMIC_SIZE = frozenset(
    {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "pixtral", "kimivl", "glm4v"}
)
# What is written before the tokens of a group of frames, by family; all others get "<0:12>".
TIMESTAMPS = {
    "idefics3": "Frame from {minutes:02}:{rest:02}:",  # SmolVLM2
    "qwen3vl_merger": "<{seconds:.1f} seconds>",
}


class VisionBundle:
    """An LLM's GGUF and its `mmproj`. The tower is loaded when it is first needed.

    Has what `reellama.models.bundle.Bundle` has for those who ask about a video.
    """

    system = ""
    describe = "Describe the video."
    frames = FRAMES
    lora: Sequence[tuple[Path, float]] = ()

    def __init__(self, llm: Path, mmproj: Path, name: str | None = None) -> None:
        self.llm, self.mmproj = llm, mmproj
        self.name = name or llm.stem
        self.version = _version([llm, mmproj])

    @property
    def changed(self) -> bool:
        """Whether one of its files was written since it was opened."""
        return _version([self.llm, self.mmproj]) != self.version

    @cached_property
    def n_embd(self) -> int:
        """Width of the soft tokens."""
        return read_gguf(self.llm).n_embd

    def llm_path(self) -> Path:
        """The GGUF that reads its soft tokens."""
        return self.llm

    def check_llm(self, file: GGUFFile) -> None:
        """Raise ReellamaError when the embeddings of another LLM have another width."""
        if file.n_embd != self.n_embd:
            raise ReellamaError(
                f"{file.path}: its embeddings have {file.n_embd} numbers, {self.mmproj} makes soft "
                f"tokens of {self.n_embd}; it was made for {self.llm.name}"
            )

    @cached_property
    def tower(self) -> MtmdTower:
        """The encoder in libmtmd."""
        return MtmdTower(self.mmproj, self.llm)

    @property
    def max_side(self) -> int:
        """Pixels on the longest side of a frame: more are not needed."""
        return min(max(READ_SCALE * self.tower.image_size, MIN_READ_SIDE), MAX_READ_SIDE)

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> float32 `[pictures, rows, columns, n_embd]`.

        A picture is a frame, or two where the family merges neighbours.
        """
        return self.tower.encode(self._scaled(frames))

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The features: the projector of an `mmproj` is a part of its tower."""
        return features

    def encode(self, frames: Sequence[np.ndarray], times: np.ndarray) -> np.ndarray:
        """What a cache keeps of a video: float32 `[pictures, rows, columns, n_embd]`."""
        return self.features(frames)

    def prompt_parts(
        self, encoded: np.ndarray, times: np.ndarray, options: PoolingOptions = DEFAULT_POOLING
    ) -> Prompt:
        """What stands for a video in a prompt: for each group of frames its time, the family's
        tokens around a picture, and its pooled tokens between them.

        encoded: what `encode` gave; times: of the frames, in seconds. A still has no time.
        """
        times = times[:: self.tower.n_merged_frames]
        pooled = self._pool(encoded, times, options)
        layout = self.tower.layout(self.tower.image_size, self.tower.image_size)
        parts: Prompt = []
        for group in pooled:
            if len(times) > 1:
                parts.append(Text(self._timestamp(group.time)))
            parts.append(TokenIds(layout.begin))
            parts.append(self._soft_tokens(group, encoded.shape[1:3]))
            parts.append(TokenIds(layout.end))
        return [part for part in parts if not (isinstance(part, TokenIds) and not part.ids)]

    def _pool(
        self, encoded: np.ndarray, times: np.ndarray, options: PoolingOptions
    ) -> list[PooledGroup]:
        n, rows, columns, width = encoded.shape
        y, x = np.divmod(np.arange(rows * columns), columns)
        centres = np.stack([np.zeros_like(y), y, x], axis=1)
        return [
            PooledGroup(time, picture.reshape(-1, width), centres)
            for time, picture in zip(times, encoded, strict=True)
        ]

    def _soft_tokens(self, group: PooledGroup, grid: tuple[int, int]) -> SoftTokens:
        """The tokens of a group, each at the centre of what was pooled into it."""
        if not self.tower.has_mrope:
            return SoftTokens(group.rows, causal=self.tower.causal)
        offsets = np.floor(group.centres).astype(np.int32).T
        n_positions = max(*grid, int(offsets[0].max()) + 1)
        return SoftTokens(group.rows, offsets, n_positions, self.tower.causal)

    def _timestamp(self, seconds: float) -> str:
        """The time of a group in the words that the family was trained with, where it has some."""
        minutes, rest = divmod(int(seconds), 60)
        return TIMESTAMPS.get(self.tower.family, "<{minutes}:{rest:02}>").format(
            seconds=seconds, minutes=minutes, rest=rest
        )

    def _scaled(self, frames: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Frames as the tower takes them: of one size, and small where it takes any size."""
        height, width = frames[0].shape[:2]
        if self.tower.family in DYNAMIC_SIZE:
            width, height = _fit_pixels(width, height, DYNAMIC_PICTURE_TOKENS, self._token_side)
        elif all(frame.shape == frames[0].shape for frame in frames):
            return frames
        return [
            frame
            if frame.shape[:2] == (height, width)
            else np.asarray(
                Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            )
            for frame in frames
        ]

    @cached_property
    def _token_side(self) -> int:
        """Pixels on the side of what becomes one token."""
        metadata = read_gguf(self.mmproj).metadata
        patch = metadata.get("clip.vision.patch_size", 14)
        merge = metadata.get("clip.vision.spatial_merge_size", 2)
        return int(patch) * int(merge)


def _fit_pixels(width: int, height: int, tokens: int, side: int) -> tuple[int, int]:
    """A size of about `tokens` squares of `side` pixels, and nearly the same proportions.

    >>> _fit_pixels(1280, 720, 64, 28), _fit_pixels(28, 28, 64, 28)
    ((308, 168), (224, 224))
    """
    columns = (tokens * width / height) ** 0.5
    columns, rows = max(1, round(columns)), max(1, round(tokens / columns))
    return columns * side, rows * side


def _version(files: Sequence[Path]) -> str:
    """SHA-256, in hexadecimal, of the places, sizes and dates of files."""
    entries = [[str(path.absolute()), *stamp(path)] for path in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
