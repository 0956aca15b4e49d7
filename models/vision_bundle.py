"""A vision GGUF as a bundle: an LLM and the `mmproj` that sees for it, as llama.cpp has them.

    bundle = VisionBundle(llm, mmproj)
    video = bundle.encode(frames, times)        # features [pictures, rows, columns, n_embd]
    parts = bundle.prompt_parts(video)          # for `Engine.generate`

No training is needed: the tokens of the pictures are pooled over time and space until they fit the
budget (`reellama.models.token_pooling`).
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

# Frames that are looked at when nobody says: the tower takes most of the time before an answer.
FRAMES = 16
# A frame is read with this many times the pixels that the tower takes on a side, so that the short
# side of a wide video is not read smaller than the tower sees it.
READ_SCALE = 2
MIN_READ_SIDE, MAX_READ_SIDE = 224, 1024
# Families that take pictures of any size: a frame is scaled down to about this many tokens. 128 is
# what Qwen2.5-VL takes at least for a frame of a video.
ANY_SIZE_TOKENS = 128
# What is written before the tokens of a group of frames, by family; all others get "<0:12>".
TIMESTAMPS = {
    "idefics3": "Frame from {minutes:02}:{rest:02}:",  # SmolVLM2
    "qwen3vl_merger": "<{seconds:.1f} seconds>",
}


class VisionBundle:
    """An LLM's GGUF and its `mmproj`. The tower is loaded when it is first needed.

    Has what `reellama.models.bundle.Bundle` has for those who ask about a video. With `tiles` each
    frame is shown in full and in tiles, as llama.cpp shows pictures, and nothing is pooled. Frames
    that are in `cache` are not encoded again.
    """

    system = ""
    describe = "Describe the video."
    frames = FRAMES
    lora: Sequence[tuple[Path, float]] = ()
    joins_pictures = False  # each picture is shown by itself; only frames of one video are merged

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
        """Whether one of its files was written since it was opened."""
        return self._version() != self.version

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
        """The encoder in libmtmd. Raises VisionTowerError for a file that would crash it."""
        check_tower(self.mmproj, self.llm)
        return MtmdTower(self.mmproj, self.llm)

    @cached_property
    def _header(self) -> MmprojHeader:
        return mmproj_header(read_gguf(self.mmproj))

    reads_text = True
    languages: tuple[str, ...] = ()

    def footage_caveat(self, features: np.ndarray) -> str:
        """Nothing: it was trained on videos and pictures of all kinds."""
        return ""

    @property
    def warning(self) -> str:
        """That its tokens are not pooled, where nobody knows whether they can be."""
        if self.tiles or self._header.family is not None:
            return ""
        return (
            f"{self.mmproj.name}: its family, {self._header.projector_type}, is not known to pool "
            "well, so frames are shown in full, unless --pooling names a method"
        )

    @property
    def max_side(self) -> int:
        """Pixels on the longest side of a frame: more are not needed."""
        return min(max(READ_SCALE * (self._header.image_size or 0), MIN_READ_SIDE), MAX_READ_SIDE)

    def prepare(self) -> None:
        """Nothing: llama.cpp, which has the tower, may be loading the LLM meanwhile."""

    def prepare_projection(self, frames: Sequence[np.ndarray]) -> None:
        """Nothing: the tower's tokens are projected already."""

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> float32 `[pictures, rows, columns, n_embd]`.

        A picture is a frame, or two where the family merges neighbours. See `MtmdTower.encode`.
        """
        if self.cache is None:
            return self._encode(frames)
        key = _content_key(self.version, frames)
        kept = self.cache.read(key)
        if kept is not None and "features" in kept:
            return kept["features"]
        features = self._encode(frames)
        if not self.changed:  # else its weights may be of both versions
            self.cache.write(key, features=features)
        return features

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The features: the projector of an `mmproj` is a part of its tower."""
        return features

    def encode(self, frames: Sequence[np.ndarray], times: np.ndarray) -> EncodedFrames:
        """Frames at `times` seconds -> what a cache keeps of them."""
        return EncodedFrames(self.features(frames), times, frame_size(frames))

    def check_pooling(self, options: PoolingOptions) -> None:
        """Any will do: its tokens are pooled when a prompt is made of them."""

    def n_tokens(self, options: PoolingOptions = DEFAULT_POOLING) -> int:
        """Cells of the KV cache that a long video gets where the context is no limit."""
        side = self.tower.image_size
        layout = self.tower.layout(*self._tower_size(side, side))
        around = len(layout.begin) + len(layout.end)
        return self._budget(options, self.frames, layout.rows, layout.n_tokens + around)

    def prompt_parts(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> Prompt:
        """What stands for a video in a prompt: for each group of frames its time, the family's
        tokens around a picture, and its pooled tokens between them. A still has no time.

        context_left: cells that the context has left; None where that is no limit. Tiles are not
        pooled, whatever is left. Raises PoolingError for a budget or a context that holds nothing.
        """
        if self.tiles:
            return self._tiled_parts(video)
        pictures, times = video.array, self._picture_times(video)
        plan = self.plan(video, options, context_left)
        layout = self._layout(video)
        begin, end = TokenIds(layout.begin), TokenIds(layout.end)
        pooled = pool(pictures, plan.method, plan.tokens, groups=plan.groups, grid=layout.rows > 1)
        parts: Prompt = []
        last = np.cumsum(pooled.group_sizes)
        for first, size, stop in zip(pooled.group_frames, pooled.group_sizes, last, strict=True):
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
        """How the pictures of a video are pooled. Raises PoolingError as `plan_pooling` does."""
        pictures, rows, columns, _ = video.array.shape
        around = self._tokens_around(video)
        return plan_pooling(
            self._budget(options, pictures, rows, rows * columns + around),
            FrameTokens(rows, columns, grid=rows > 1),
            available=pictures,
            frames=pictures,
            group_tokens=around,
            context_left=context_left,
            method=self._method(options, rows),
        )

    def _method(self, options: PoolingOptions, rows: int) -> str:
        """The pooling that is asked for; frames in full where nobody knows of a better one."""
        in_full = options.method == AUTO and not self._pools_well(rows)
        return "full" if in_full else options.method

    def _budget(
        self, options: PoolingOptions, pictures: int, rows: int, picture_tokens: int
    ) -> int:
        """Cells for `pictures`, each of `rows` and of `picture_tokens` with what is around it."""
        if options.tokens is not None:
            return options.tokens
        in_full = self._method(options, rows) == "full"
        return pictures * picture_tokens if in_full else DEFAULT_TOKENS

    def _pools_well(self, rows: int) -> bool:
        """Whether the tokens of its family are places in a picture, or answers of queries: not
        known of other families, nor of rows with tokens between them (Pixtral)."""
        family = self._header.family
        return family is not None and (rows > 1 or not family.is_grid)

    def pooling_summary(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> tuple[str, ...]:
        """What `plan` picked, for people, and what else they should know of it."""
        if self.tiles:
            return ("in full, with tiles",)
        plan = self.plan(video, options, context_left)
        return (f"{plan.method}, {plan.groups} groups, at most {plan.total} cells", *plan.notes)

    def _encode(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        features = self.tower.encode(self._scaled(frames), tiles=self.tiles)
        if not np.isfinite(features).all():
            check_weights(read_gguf(self.mmproj))  # it names the tensor that is damaged
            raise VisionTowerError(
                f"{self.mmproj} makes tokens that are not finite numbers: its type does not hold "
                "them; take one of type BF16 or F32"
            )
        return features

    def _tokens_around(self, video: EncodedFrames) -> int:
        """What stands around each group of tokens, at most: its time, and the family's own."""
        times = self._picture_times(video)
        texts = [self._timestamp(time) for time in times] if len(times) > 1 else []
        longest = max((len(self.tower.tokenizer.encode(text)) for text in texts), default=0)
        layout = self._layout(video)
        return longest + len(layout.begin) + len(layout.end)

    def _layout(self, video: EncodedFrames) -> PictureLayout:
        return self.tower.layout(*self._tower_size(*video.frame_size))

    def _picture_times(self, video: EncodedFrames) -> np.ndarray:
        """Seconds at which each picture begins."""
        merged = len(video.times) > len(video.array)
        return video.times[:: self.tower.n_merged_frames if merged else 1]

    def _soft_tokens(
        self, tokens: np.ndarray, positions: np.ndarray, grid: tuple[int, ...]
    ) -> SoftTokens:
        """The tokens of a group of frames `[n, n_embd]`, each at the centre of what was pooled into
        it: `positions` `[n, 3]` in frames of the group, rows and columns of the `grid`."""
        if not self.tower.has_mrope:
            return SoftTokens(tokens, causal=self.tower.causal)
        offsets = np.floor(positions + 0.5).astype(np.int32).T
        n_positions = max(*grid, int(offsets[0].max()) + 1)
        return SoftTokens(tokens, np.ascontiguousarray(offsets), n_positions, self.tower.causal)

    def _tiled_parts(self, video: EncodedFrames) -> Prompt:
        """Pictures in full with their tiles, as llama.cpp shows them."""
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
        """The time of a group in the words that the family was trained with, where it has some."""
        minutes, rest = divmod(int(seconds), 60)
        return TIMESTAMPS.get(self._header.projector_type, "<{minutes}:{rest:02}>").format(
            seconds=seconds, minutes=minutes, rest=rest
        )

    def _scaled(self, frames: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Frames as the tower takes them: of one size, and small where it takes any size."""
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
        """The width and height in pixels at which the tower gets frames of a size."""
        family, side = self._header.family, self._header.token_side
        if family is None or not family.any_size or side is None:
            return int(width), int(height)
        return _fit_pixels(int(width), int(height), ANY_SIZE_TOKENS, side)

    def _version(self) -> str:
        """SHA-256, in hexadecimal, of what the tokens of a picture depend on."""
        files = [[str(path.absolute()), *stamp(path)] for path in (self.llm, self.mmproj)]
        return hashlib.sha256(json.dumps([files, self.tiles]).encode()).hexdigest()


def _content_key(version: str, frames: Sequence[np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of a bundle's version and of the pixels of frames."""
    key = hashlib.sha256(json.dumps([version, [frame.shape for frame in frames]]).encode())
    for frame in frames:
        key.update(frame.tobytes())
    return key.hexdigest()


def _fit_pixels(width: int, height: int, tokens: int, side: int) -> tuple[int, int]:
    """A size of at most about `tokens` squares of `side` pixels, in nearly the same proportions.

    >>> _fit_pixels(1280, 720, 64, 28), _fit_pixels(56, 56, 64, 28)
    ((308, 168), (56, 56))
    """
    scale = min(1.0, (tokens * side * side / (width * height)) ** 0.5)
    columns, rows = (max(1, round(scale * pixels / side)) for pixels in (width, height))
    return columns * side, rows * side
