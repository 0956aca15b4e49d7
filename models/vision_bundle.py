"""A vision GGUF as a bundle: an LLM and its `mmproj`, in llama.cpp's formats.

    bundle = VisionBundle(llm, mmproj)
    video = bundle.encode(frames, times)        # features [pictures, rows, columns, n_embd]
    parts = bundle.prompt_parts(video)          # for `Engine.generate`

No training is needed: the tokens of the pictures are pooled over time and space to fit the budget
(`reellama.models.token_pooling`). The budget also decides how large pictures are seen, so `encode`
takes it, too; frames that the plan drops are not encoded.
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
from reellama.gguf_tools.text.prompt_parts import Prompt, Text, TokenIds
from reellama.models.array_cache import ArrayCache
from reellama.models.encoded_frames import ChosenFrames, EncodedFrames, content_key, encoded_frames
from reellama.models.token_pooling.grid_pooling import spread_evenly
from reellama.models.token_pooling.options import (
    AUTO,
    DEFAULT_POOLING,
    STILL_TOKENS,
    PoolingOptions,
)
from reellama.models.token_pooling.picture_plan import (
    encoding_version,
    plan_pictures,
    pooling_method,
    token_budget,
)
from reellama.models.token_pooling.picture_size import (
    VIDEO_PICTURE_TOKENS,
    frame_size_of,
    scaled_to,
    size_of,
    takes_any_size,
    tokens_per_picture,
)
from reellama.models.token_pooling.plan import PoolingPlan
from reellama.models.token_pooling.pool import pool
from reellama.models.vision_prompt import mmproj_warning, soft_tokens, tiled_parts, timestamp

FRAMES = 16  # default number; encoding them takes most of the time before an answer
MAX_FRAMES = 256  # where a user asks for a rate: all of them are in memory at once
# The longest side of a decoded frame is this many times the side of the tower's input, so that the
# short side of a wide video is not smaller than the input.
READ_SCALE = 2
MIN_READ_SIDE, MAX_READ_SIDE = 224, 1024  # pixels
DETAIL_SIDE = 2048  # pixels of a picture that is seen in detail; few families make use of more
MAX_FLOAT16 = 60_000  # the largest number that float16 holds is 65,504


class VisionBundle:
    """A `VideoBundle` of a vision GGUF. The tower is loaded when it is first needed.

    Args:
        llm, mmproj: the GGUF files.
        name: for people; None for the name of the LLM's file.
        tiles: whether the LLM gets each frame in full and in tiles, as llama.cpp does with
            pictures, if the family has tiles. Their tokens are not pooled. Without it, the LLM gets
            the tiles of a still if the budget holds all of them.
        use_gpu: whether the tower runs on a GPU, where llama.cpp was built for one.
        cache: for the features of frames, so that they are not encoded again.
    """

    system = ""
    describe = "Describe the video."
    describe_briefly = "Describe in one sentence what the video shows."
    frames = FRAMES
    max_frames = MAX_FRAMES
    lora: Sequence[tuple[Path, float]] = ()
    joins_pictures = False  # only frames of one video are merged, not the pictures of a message

    def __init__(
        self,
        llm: Path,
        mmproj: Path,
        *,
        name: str | None = None,
        tiles: bool = False,
        use_gpu: bool = False,
        cache: ArrayCache | None = None,
    ) -> None:
        self.llm, self.mmproj, self.tiles, self.cache = llm, mmproj, tiles, cache
        self.use_gpu = use_gpu
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
        return MtmdTower(self.mmproj, self.llm, use_gpu=self.use_gpu)

    @property
    def unloaded_bytes(self) -> int:
        """Bytes of memory that the tower will take; 0 where it is loaded."""
        return 0 if "tower" in vars(self) else self.mmproj.stat().st_size

    def unload(self) -> None:
        """Free the tower, once no thread uses it, until it is needed again."""
        vars(self).pop("tower", None)

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
        """What makes answers worse with this mmproj, or how it is treated otherwise; else ""."""
        return mmproj_warning(self._header, tiles=self._all_tiles)

    @property
    def max_side(self) -> int:
        """Pixels on the longest side of a decoded frame."""
        if self._all_tiles:
            return DETAIL_SIDE
        return min(max(READ_SCALE * (self._header.image_size or 0), MIN_READ_SIDE), MAX_READ_SIDE)

    @property
    def still_side(self) -> int:
        """The same of a still, or of the one frame that is taken of a video."""
        header = self._header
        if takes_any_size(header) or header.has_tiles:
            return DETAIL_SIDE
        return self.max_side  # nothing scales the pictures of an unknown family to a budget

    @property
    def _all_tiles(self) -> bool:
        """Whether all pictures are shown in tiles."""
        return self.tiles and (self._header.family is None or self._header.has_tiles)

    def prepare(self) -> None:
        """Do nothing: llama.cpp, which also runs the tower, may be loading the LLM meanwhile."""

    def prepare_projection(self, frames: Sequence[np.ndarray]) -> None:
        """Do nothing: the projector is a part of the tower."""

    def choose_frames(
        self,
        frames: Sequence[np.ndarray],
        times: np.ndarray,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> ChosenFrames:
        """The frames that are shown of those at `times` seconds, scaled to what the budget holds.

        options, context_left: as `prompt_parts` will get them. Raises PoolingError as it does.
        """
        size, step, still = frame_size_of(frames[0]), self.tower.n_merged_frames, len(frames) == 1
        if self._all_tiles or (still and self._tiles_fit(size, options, context_left)):
            scaled = [scaled_to(frame, size) for frame in frames]
            return ChosenFrames(scaled, np.arange(len(frames)), tiles=True)
        n_pictures = -(-len(frames) // step)
        around = self._tokens_around(times[::step])
        in_full = pooling_method(self._header, options) == "full"
        share = tokens_per_picture(
            options, n_pictures, around, context_left, still=still, in_full=in_full
        )
        size = size_of(self._header, *size, share)
        layout = self.tower.layout(*size)
        grid = (layout.rows, layout.columns)
        plan = plan_pictures(
            self._header, n_pictures, grid, around, options, context_left, still=still
        )
        pictures = spread_evenly(n_pictures, plan.frames)
        chosen = (pictures[:, None] * step + np.arange(step)).ravel()
        chosen = chosen[chosen < len(frames)]
        return ChosenFrames([scaled_to(frames[i], size) for i in chosen.tolist()], chosen)

    def chosen_features(self, chosen: ChosenFrames) -> np.ndarray:
        """The features of what `choose_frames` gave."""
        return self.features(chosen.frames, tiles=chosen.tiles)

    def encoding_version(
        self, options: PoolingOptions, n_frames: int, context_left: int | None
    ) -> str:
        """What the features depend on beside the frames; see `encoding_version`."""
        if self._all_tiles:
            return ""
        # Whether a file has one frame is known once it was decoded, and may change the choice.
        versions = (
            encoding_version(self._header, options, n, context_left) for n in sorted({1, n_frames})
        )
        return ";".join(filter(None, versions))

    def features(self, frames: Sequence[np.ndarray], *, tiles: bool = False) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]`, as `choose_frames` gives them -> float16
        `[pictures, rows, columns, n_embd]`, or float32 where float16 does not hold them.

        A picture is a frame, or two frames if the family merges neighbours, see `MtmdTower.encode`.
        """
        if self.cache is None:
            return self._encode(frames, tiles)
        key = content_key(self.version, frames, tiles)
        cached = self.cache.read(key)
        if cached is not None and "features" in cached:
            return cached["features"]
        features = self._encode(frames, tiles)
        if not self.changed:  # else the weights may be a mix of both versions
            self.cache.write(key, features=features)
        return features

    def project(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The features unchanged: the projector is a part of the tower."""
        return features

    def encode(
        self,
        frames: Sequence[np.ndarray],
        times: np.ndarray,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> EncodedFrames:
        """uint8 RGB frames `[H, W, 3]` at `times [T]` seconds -> the encoding of those that
        `choose_frames` returns, for the cache."""
        chosen = self.choose_frames(frames, times, options, context_left)
        return encoded_frames(self.chosen_features(chosen), chosen, frames, times)

    def check_pooling(self, options: PoolingOptions) -> None:
        """Do nothing: all options work, because pooling needs no training."""

    def n_tokens(self, options: PoolingOptions = DEFAULT_POOLING) -> int:
        """Largest number of cells of the KV cache for a video if the context is no limit."""
        side = self.tower.image_size
        layout = self._layout(side, side)
        n_around = len(layout.begin) + len(layout.end)
        return token_budget(
            self._header, options, self.frames, layout.rows, layout.n_tokens + n_around
        )

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
        if self._has_tiles(video):
            return tiled_parts(self.tower, video)
        pictures, times = video.array.astype(np.float32), self._picture_times(video)
        plan = self.plan(video, options, context_left)
        layout = self._layout(*video.size)
        begin, end = TokenIds(layout.begin), TokenIds(layout.end)
        grid = pictures.shape[1] > 1
        pooled = pool(pictures, plan.method, plan.tokens, groups=plan.groups, grid=grid)
        parts: Prompt = []
        stops = np.cumsum(pooled.group_sizes)
        for first, size, stop in zip(pooled.group_frames, pooled.group_sizes, stops, strict=True):
            group = slice(stop - size, stop)
            if self._n_pictures(video) > 1:
                parts.append(Text(timestamp(self._header, times[first])))
            positions = pooled.positions[group] - (first, 0, 0)
            soft = soft_tokens(self.tower, pooled.tokens[group], positions, pictures.shape[1:3])
            parts += [begin, soft, end]
        return [part for part in parts if part != TokenIds(())]

    def plan(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> PoolingPlan:
        """How the pictures of a video are pooled. Arguments and errors as `prompt_parts`."""
        n_pictures = self._n_pictures(video)
        still = len(video.times) == 1 and int(video.n_read) <= 1
        n_around = self._tokens_around(self._picture_times(video), n_pictures)
        grid = video.array.shape[1:3]
        return plan_pictures(
            self._header, n_pictures, grid, n_around, options, context_left, still=still
        )

    def _n_pictures(self, video: EncodedFrames) -> int:
        """Number of pictures of the sampled frames, including those that were not encoded."""
        return max(len(video.array), -(-int(video.n_read) // self.tower.n_merged_frames))

    def pooling_summary(
        self,
        video: EncodedFrames,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> tuple[str, ...]:
        """The plan in one line, then its notes, for people."""
        if self._has_tiles(video):
            return ("in full, with tiles",)
        plan = self.plan(video, options, context_left)
        return (f"{plan.method}, {plan.groups} groups, at most {plan.total} cells", *plan.notes)

    def _encode(self, frames: Sequence[np.ndarray], tiles: bool) -> np.ndarray:
        """As `features`, without the cache. Raises VisionTowerError for values not finite."""
        features = self.tower.encode(frames, tiles=tiles)
        if not np.isfinite(features).all():
            check_weights(read_gguf(self.mmproj))  # raises an error if a weight is damaged
            raise VisionTowerError(
                f"{self.mmproj} makes tokens that are not finite numbers: its type does not hold "
                "them; take one of type BF16 or F32"
            )
        # Half the bytes in every cache, the same numbers with one and without.
        return features.astype(np.float16) if np.abs(features).max() < MAX_FLOAT16 else features

    def _tiles_fit(
        self, size: tuple[int, int], options: PoolingOptions, context_left: int | None
    ) -> bool:
        """Whether the budget holds all tiles of a still of this width and height."""
        if not self._header.has_tiles or options.method not in (AUTO, "full"):
            return False
        room = STILL_TOKENS if options.tokens is None else options.tokens
        if context_left is not None:
            room = min(room, context_left)
        layout = self.tower.layout(*size)
        return len(layout.image_tokens) > 1 and layout.n_tiled_cells <= room

    def _has_tiles(self, video: EncodedFrames) -> bool:
        """Whether the pictures were encoded with their tiles."""
        if self._all_tiles:
            return True
        counts = self.tower.layout(*video.size).image_tokens
        rows, columns = video.array.shape[1:3]
        return len(counts) > 1 and rows * columns == sum(counts)

    def _tokens_around(self, times: np.ndarray, n_pictures: int = 0) -> int:
        """Largest number of tokens around a group: its time, and the family's begin and end.

        Args:
            times: of the encoded pictures, in seconds.
            n_pictures: number of pictures of the sampled frames. One alone gets no time.
        """
        several = max(n_pictures, len(times)) > 1
        texts = [timestamp(self._header, time) for time in times] if several else []
        longest = max((len(self.tower.tokenizer.encode(text)) for text in texts), default=0)
        side = self.tower.image_size
        layout = self._layout(side, side)
        return longest + len(layout.begin) + len(layout.end)

    def _layout(self, width: int, height: int) -> PictureLayout:
        """Of a frame of this size in a video. What is around a picture depends on no size."""
        return self.tower.layout(*size_of(self._header, width, height, VIDEO_PICTURE_TOKENS))

    def _picture_times(self, video: EncodedFrames) -> np.ndarray:
        """Seconds of the first frame of each picture."""
        merged = len(video.times) > len(video.array)
        return video.times[:: self.tower.n_merged_frames if merged else 1]

    def _version(self) -> str:
        """SHA-256, in hexadecimal, of the files' paths, sizes and dates, and of `tiles`."""
        files = [[str(path.absolute()), *stamp(path)] for path in (self.llm, self.mmproj)]
        return hashlib.sha256(json.dumps([files, self.tiles]).encode()).hexdigest()
