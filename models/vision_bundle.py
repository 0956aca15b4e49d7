"""A vision GGUF as a bundle: an LLM and its `mmproj`, in llama.cpp's formats.

    bundle = VisionBundle(llm, mmproj)
    video = bundle.encode(frames, times)        # features [pictures, rows, columns, n_embd]
    parts = bundle.prompt_parts(video)          # for `Engine.generate`

No training is needed: the tokens of the pictures are pooled over time and space to fit the budget
(`reellama.models.token_pooling`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.mmproj_header import MmprojHeader, mmproj_header
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.inspection.nonfinite_weights import check_weights
from reellama.gguf_tools.mtmd.mtmd_tower import MtmdTower, PictureLayout, VisionTowerError
from reellama.gguf_tools.mtmd.tower_probe import check_tower
from reellama.gguf_tools.text.prompt_parts import Prompt, SoftTokens, Text, TokenIds
from reellama.models.array_cache import ArrayCache
from reellama.models.encoded_frames import EncodedFrames, frame_size
from reellama.models.token_pooling.options import (
    AUTO,
    DEFAULT_POOLING,
    DEFAULT_TOKENS,
    PoolingOptions,
)
from reellama.models.token_pooling.plan import FrameTokens, PoolingPlan, plan_pooling
from reellama.models.token_pooling.pool import pool

FRAMES = 16  # default number; encoding them takes most of the time before an answer
# The longest side of a decoded frame is this many times the side of the tower's input, so that the
# short side of a wide video is not smaller than the input.
READ_SCALE = 2
MIN_READ_SIDE, MAX_READ_SIDE = 224, 1024  # pixels
# Towers that take pictures of any size get frames of about this many tokens. Qwen2.5-VL uses 128 as
# its minimum for a frame of a video.
ANY_SIZE_TOKENS = 128
# The text before the tokens of a group of frames, by family. Other families get "<0:12>".
TIMESTAMPS = {
    "idefics3": "Frame from {minutes:02}:{rest:02}:",  # SmolVLM2
    "qwen3vl_merger": "<{seconds:.1f} seconds>",
}


class VisionBundle:
    """A `VideoBundle` of a vision GGUF. The tower is loaded when it is first needed.

    Args:
        llm, mmproj: the GGUF files.
        name: for people; None for the name of the LLM's file.
        tiles: whether the LLM gets each frame in full and in tiles, as llama.cpp does with
            pictures. Their tokens are not pooled.
        cache: for the features of frames, so that they are not encoded again.
    """

    system = ""
    describe = "Describe the video."
    describe_briefly = "Describe in one sentence what the video shows."
    frames = FRAMES
    lora: Sequence[tuple[Path, float]] = ()
    joins_pictures = False  # only frames of one video are merged, not the pictures of a message

    def __init__(
        self,
        llm: Path,
        mmproj: Path,
        *,
        name: str | None = None,
        tiles: bool = False,
        cache: ArrayCache | None = None,
    ) -> None:
        self.llm, self.mmproj, self.tiles, self.cache = llm, mmproj, tiles, cache
        self.name = name or llm.stem
        self.version = self._version()

    @property
    def changed(self) -> bool:
        """Whether one of the files was written since the bundle was opened."""
        return self._version() != self.version

    @cached_property
    def n_embd(self) -> int:
        """Width of the soft tokens."""
        return read_gguf(self.llm).n_embd

    def llm_path(self) -> Path:
        """The LLM's GGUF."""
        return self.llm

    def check_llm(self, file: GGUFFile) -> None:
        """Raise ReellamaError unless the soft tokens are as wide as the embeddings of an LLM."""
        if file.n_embd != self.n_embd:
            raise ReellamaError(
                f"{file.path}: its embeddings have {file.n_embd} numbers, {self.mmproj} makes soft "
                f"tokens of {self.n_embd}; it was made for {self.llm.name}"
            )

    @cached_property
    def tower(self) -> MtmdTower:
        """The encoder in libmtmd. Raises VisionTowerError for a file that would crash it."""
        check_tower(self.mmproj, self.llm)
        return MtmdTower(self.mmproj, self.llm)

    @cached_property
    def _header(self) -> MmprojHeader:
        return mmproj_header(read_gguf(self.mmproj))

    reads_text = True
    languages: tuple[str, ...] = ()

    def footage_caveat(self, features: np.ndarray) -> str:
        """ "": the model was trained on real videos and pictures."""
        return ""

    @property
    def warning(self) -> str:
        """That tokens are not pooled, for a family that is not known to pool well; else ""."""
        if self.tiles or self._header.family is not None:
            return ""
        return (
            f"{self.mmproj.name}: its family, {self._header.projector_type}, is not known to pool "
            "well, so frames are shown in full, unless --pooling names a method"
        )

    @property
    def max_side(self) -> int:
        """Pixels on the longest side of a decoded frame."""
        return min(max(READ_SCALE * (self._header.image_size or 0), MIN_READ_SIDE), MAX_READ_SIDE)

    def prepare(self) -> None:
        """Do nothing: llama.cpp, which also runs the tower, may be loading the LLM meanwhile."""

    def prepare_projection(self, frames: Sequence[np.ndarray]) -> None:
        """Do nothing: the projector is a part of the tower."""

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> float32 `[pictures, rows, columns, n_embd]`.

        A picture is a frame, or two frames if the family merges neighbours, see `MtmdTower.encode`.
        """
        if self.cache is None:
            return self._encode(frames)
        key = _content_key(self.version, frames)
        cached = self.cache.read(key)
        if cached is not None and "features" in cached:
            return cached["features"]
        features = self._encode(frames)
        if not self.changed:  # else the weights may be a mix of both versions
            self.cache.write(key, features=features)
        return features

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The features unchanged: the projector is a part of the tower."""
        return features

    def encode(self, frames: Sequence[np.ndarray], times: np.ndarray) -> EncodedFrames:
        """uint8 RGB frames `[H, W, 3]` at `times [T]` seconds -> their encoding for the cache."""
        return EncodedFrames(self.features(frames), times, frame_size(frames))

    def check_pooling(self, options: PoolingOptions) -> None:
        """Do nothing: all options work, because pooling needs no training."""

    def n_tokens(self, options: PoolingOptions = DEFAULT_POOLING) -> int:
        """Largest number of cells of the KV cache for a video if the context is no limit."""
        side = self.tower.image_size
        layout = self.tower.layout(*self._tower_size(side, side))
        n_around = len(layout.begin) + len(layout.end)
        return self._budget(options, self.frames, layout.rows, layout.n_tokens + n_around)

    def prompt_parts(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> Prompt:
        """The prompt parts of a video: for each group of frames its time as text, then its pooled
        tokens between the family's begin and end tokens of a picture. A still has no time.

        Args:
            video: from `encode`.
            options: budget and method of the pooling; ignored with `tiles`.
            context_left: cells that the context has left; None for no limit.

        Raises:
            PoolingError: the budget or the context is too small, see `plan_pooling`.
        """
        if self.tiles:
            return self._tiled_parts(video)
        pictures, times = video.array, self._picture_times(video)
        plan = self.plan(video, options, context_left)
        layout = self._layout(video)
        begin, end = TokenIds(layout.begin), TokenIds(layout.end)
        pooled = pool(pictures, plan.method, plan.tokens, groups=plan.groups, grid=layout.rows > 1)
        parts: Prompt = []
        stops = np.cumsum(pooled.group_sizes)
        for first, size, stop in zip(pooled.group_frames, pooled.group_sizes, stops, strict=True):
            group = slice(stop - size, stop)
            if len(times) > 1:
                parts.append(Text(self._timestamp(times[first])))
            positions = pooled.positions[group] - (first, 0, 0)
            soft = self._soft_tokens(pooled.tokens[group], positions, pictures.shape[1:3])
            parts += [begin, soft, end]
        return [part for part in parts if part != TokenIds(())]

    def plan(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> PoolingPlan:
        """How the pictures of a video are pooled. Arguments and errors as `prompt_parts`."""
        pictures, rows, columns, _ = video.array.shape
        n_around = self._tokens_around(video)
        return plan_pooling(
            self._budget(options, pictures, rows, rows * columns + n_around),
            FrameTokens(rows, columns, grid=rows > 1),
            available=pictures,
            frames=pictures,
            group_tokens=n_around,
            context_left=context_left,
            method=self._method(options, rows),
        )

    def _method(self, options: PoolingOptions, rows: int) -> str:
        """The requested pooling; for "auto", "full" if the family is not known to pool well."""
        in_full = options.method == AUTO and not self._pools_well(rows)
        return "full" if in_full else options.method

    def _budget(
        self, options: PoolingOptions, pictures: int, rows: int, picture_tokens: int
    ) -> int:
        """The number of cells for a video.

        pictures: number of them. rows: of a picture's grid. picture_tokens: cells of a picture with
        the tokens around it.
        """
        if options.tokens is not None:
            return options.tokens
        in_full = self._method(options, rows) == "full"
        return pictures * picture_tokens if in_full else DEFAULT_TOKENS

    def _pools_well(self, rows: int) -> bool:
        """Whether the family is known to pool well.

        Its tokens must be the cells of a grid, or the outputs of a resampler's queries. A grid with
        tokens between its rows (Pixtral), of which libmtmd reports one row, does not pool well.
        """
        family = self._header.family
        return family is not None and (rows > 1 or not family.is_grid)

    def pooling_summary(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> tuple[str, ...]:
        """The plan in one line, then its notes, for people."""
        if self.tiles:
            return ("in full, with tiles",)
        plan = self.plan(video, options, context_left)
        return (f"{plan.method}, {plan.groups} groups, at most {plan.total} cells", *plan.notes)

    def _encode(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """As `features`, without the cache. Raises VisionTowerError for values not finite."""
        features = self.tower.encode(self._scaled(frames), tiles=self.tiles)
        if not np.isfinite(features).all():
            check_weights(read_gguf(self.mmproj))  # raises an error if a weight is damaged
            raise VisionTowerError(
                f"{self.mmproj} makes tokens that are not finite numbers: its type does not hold "
                "them; take one of type BF16 or F32"
            )
        return features

    def _tokens_around(self, video: EncodedFrames) -> int:
        """Largest number of tokens around a group: its time, and the family's begin and end."""
        times = self._picture_times(video)
        texts = [self._timestamp(time) for time in times] if len(times) > 1 else []
        longest = max((len(self.tower.tokenizer.encode(text)) for text in texts), default=0)
        layout = self._layout(video)
        return longest + len(layout.begin) + len(layout.end)

    def _layout(self, video: EncodedFrames) -> PictureLayout:
        return self.tower.layout(*self._tower_size(*video.frame_size))

    def _picture_times(self, video: EncodedFrames) -> np.ndarray:
        """Seconds of the first frame of each picture."""
        merged = len(video.times) > len(video.array)
        return video.times[:: self.tower.n_merged_frames if merged else 1]

    def _soft_tokens(
        self, tokens: np.ndarray, positions: np.ndarray, grid: tuple[int, ...]
    ) -> SoftTokens:
        """The soft tokens of a group, with M-RoPE positions if the LLM uses them.

        Args:
            tokens: pooled tokens `[n, n_embd]`.
            positions: centres of the tokens `[n, 3]`: frame in the group, row and column.
            grid: rows and columns of a picture.
        """
        if not self.tower.has_mrope:
            return SoftTokens(tokens, causal=self.tower.causal)
        offsets = np.floor(positions + 0.5).astype(np.int32).T
        n_positions = max(*grid, int(offsets[0].max()) + 1)
        return SoftTokens(tokens, np.ascontiguousarray(offsets), n_positions, self.tower.causal)

    def _tiled_parts(self, video: EncodedFrames) -> Prompt:
        """The prompt parts of pictures in full with their tiles, as in llama.cpp."""
        layout = self._layout(video)
        shape = (len(video.array), layout.n_images, layout.n_tokens, -1)
        parts: Prompt = []
        for picture in video.array.reshape(shape):
            images = iter(picture)
            parts += [
                SoftTokens(next(images), causal=self.tower.causal) if ids is None else TokenIds(ids)
                for ids in layout.tiled
            ]
        return parts

    def _timestamp(self, seconds: float) -> str:
        """The time of a group as text, in the family's own format if it has one."""
        minutes, rest = divmod(int(seconds), 60)
        return TIMESTAMPS.get(self._header.projector_type, "<{minutes}:{rest:02}>").format(
            seconds=seconds, minutes=minutes, rest=rest
        )

    def _scaled(self, frames: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Frames resized to the size of the first one in `_tower_size`."""
        from PIL import Image

        width, height = self._tower_size(*frames[0].shape[1::-1])
        return [
            frame
            if frame.shape[:2] == (height, width)
            else np.asarray(
                Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            )
            for frame in frames
        ]

    def _tower_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height in pixels to which frames of a size are resized for the tower."""
        family, side = self._header.family, self._header.token_side
        if family is None or not family.any_size or side is None:
            return int(width), int(height)
        return _fit_pixels(int(width), int(height), ANY_SIZE_TOKENS, side)

    def _version(self) -> str:
        """SHA-256, in hexadecimal, of the files' paths, sizes and dates, and of `tiles`."""
        files = [[str(path.absolute()), *stamp(path)] for path in (self.llm, self.mmproj)]
        return hashlib.sha256(json.dumps([files, self.tiles]).encode()).hexdigest()


def _content_key(version: str, frames: Sequence[np.ndarray]) -> str:
    """Cache key of frames: SHA-256, in hexadecimal, of the bundle's version and the pixels."""
    key = hashlib.sha256(json.dumps([version, [frame.shape for frame in frames]]).encode())
    for frame in frames:
        key.update(frame.tobytes())
    return key.hexdigest()


def _fit_pixels(width: int, height: int, tokens: int, side: int) -> tuple[int, int]:
    """The width and height of at most about `tokens` squares of `side` pixels, nearly in the
    proportions of the original, and no larger than it.

    >>> _fit_pixels(1280, 720, 64, 28), _fit_pixels(56, 56, 64, 28)
    ((308, 168), (56, 56))
    """
    scale = min(1.0, (tokens * side * side / (width * height)) ** 0.5)
    columns, rows = (max(1, round(scale * pixels / side)) for pixels in (width, height))
    return columns * side, rows * side
