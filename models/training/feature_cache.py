"""The tower's features of a data set, computed once and stored on disk.

A cache is a folder of files with a block of clips each. Blocks are written atomically, so that a
run continues where an earlier one was killed. Features are float16: 23 KB a frame for 36 cells of
320 channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.vision.encoder import Tower

BLOCK_CLIPS = 250  # clips in a file

# Number of a clip -> its uint8 RGB frames [H, W, 3] and their seconds.
ReadClip = Callable[[int], tuple[Sequence[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Batch:
    """Features of a batch of clips; clips with fewer frames are padded at the end."""

    features: Tensor  # float32 [B, T, cells, channels]
    times: Tensor  # float32 [B, T] seconds
    mask: Tensor  # bool [B, T], true where a frame is

    def to(self, device: torch.device) -> Batch:
        """This batch on a device."""
        return Batch(self.features.to(device), self.times.to(device), self.mask.to(device))


class FeatureCache:
    """Features of `count` clips in `folder`.

    both_ways: whether clip number `count + i` is clip i backwards.

    Attributes:
        usable: numbers of the clips that could be read.
    """

    def __init__(self, folder: Path, count: int, *, both_ways: bool = False) -> None:
        self.folder = folder
        self.count = count
        self.both_ways = both_ways
        self.usable: list[int] = []
        self._features: list[Tensor] = []
        self._times: list[Tensor] = []
        self._start: list[Tensor] = []

    def _block(self, number: int) -> Path:
        return self.folder / f"block-{number:05}.safetensors"

    def build(
        self,
        tower: Tower,
        read: ReadClip,
        progress: Callable[[int, int], None] = lambda done, total: None,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Compute the missing blocks.

        Args:
            tower: encodes the frames.
            read: reads a clip. A clip for which it raises ReellamaError is left out.
            progress: called with the numbers of finished and of all clips after each block.
            warn: called with a line about each clip that is left out.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(range(0, self.count, BLOCK_CLIPS)):
            if not self._block(number).exists():
                clips = range(start, min(start + BLOCK_CLIPS, self.count))
                self._compute(number, clips, tower, read, warn)
                progress(clips.stop, self.count)

    def _compute(
        self,
        number: int,
        clips: range,
        tower: Tower,
        read: ReadClip,
        warn: Callable[[str], None],
    ) -> None:
        features, times, counts = [torch.zeros(0, 0, 0)], [torch.zeros(0)], []
        for clip in clips:
            try:
                frames, seconds = read(clip)
            except ReellamaError as error:
                warn(f"left out: {error}")
                counts.append(0)
                continue
            features.append(torch.from_numpy(tower.grid(frames)).half())
            times.append(torch.from_numpy(np.asarray(seconds, np.float32)))
            counts.append(len(frames))
        part = self._block(number).with_suffix(".part")
        block = {
            "features": torch.cat(features[1:] or features),  # [frames, cells, channels]
            "times": torch.cat(times),
            "counts": torch.tensor(counts),
        }
        save_file(block, part)
        os.replace(part, self._block(number))

    def open(self) -> None:
        """Load the blocks. Raises ReellamaError if none of the clips could be read."""
        for number in range(-(-self.count // BLOCK_CLIPS)):
            with safe_open(self._block(number), "pt") as block:
                counts = block.get_tensor("counts")
                self._features.append(block.get_tensor("features"))
                self._times.append(block.get_tensor("times"))
            ends = counts.cumsum(0)
            self._start.append(torch.cat([torch.zeros(1, dtype=ends.dtype), ends]))
            first = number * BLOCK_CLIPS
            self.usable += [first + row for row, frames in enumerate(counts.tolist()) if frames]
        if not self.usable:
            raise ReellamaError("none of the videos of the data set could be read")
        if self.both_ways:
            self.usable += [self.count + number for number in self.usable]

    def clip(self, number: int) -> tuple[Tensor, Tensor]:
        """Features float16 `[T, cells, channels]` and seconds `[T]` of one clip."""
        backwards, number = divmod(number, self.count)
        block, row = divmod(number, BLOCK_CLIPS)
        start, end = self._start[block][row], self._start[block][row + 1]
        grid, times = self._features[block][start:end], self._times[block][start:end]
        return (grid.flip(0), times[-1] - times.flip(0)) if backwards else (grid, times)

    def batch(
        self,
        clips: Sequence[int],
        rng: np.random.Generator | None = None,
        min_frames: int = 1,
        max_frames: int | None = None,
    ) -> Batch:
        """A batch of clips.

        Args:
            clips: numbers of the clips.
            rng: if set, every second clip loses random frames.
            min_frames: fewest frames that a clip keeps.
            max_frames: if set, keep this many random frames of every clip instead.
        """
        loaded = [self.clip(number) for number in clips]
        if rng is not None and max_frames is not None:
            loaded = [_draw_frames(*clip, rng, max_frames) for clip in loaded]
        elif rng is not None:
            loaded = [_drop_frames(*clip, rng, min_frames) for clip in loaded]
        longest = max(len(times) for _, times in loaded)
        features = torch.zeros(len(loaded), longest, *loaded[0][0].shape[1:])
        seconds = torch.zeros(len(loaded), longest)
        mask = torch.zeros(len(loaded), longest, dtype=torch.bool)
        for row, (grid, times) in enumerate(loaded):
            features[row, : len(times)] = grid
            seconds[row, : len(times)] = times
            mask[row, : len(times)] = True
        return Batch(features, seconds, mask)


def _drop_frames(
    grid: Tensor, times: Tensor, rng: np.random.Generator, min_frames: int
) -> tuple[Tensor, Tensor]:
    """Half of the time all frames, else a random part of at least `min_frames`."""
    if len(times) <= min_frames or rng.random() < 0.5:
        return grid, times
    return _draw_frames(grid, times, rng, int(rng.integers(min_frames, len(times))))


def _draw_frames(
    grid: Tensor, times: Tensor, rng: np.random.Generator, keep: int
) -> tuple[Tensor, Tensor]:
    """At most `keep` random frames, in order."""
    if len(times) <= keep:
        return grid, times
    rows = torch.from_numpy(np.sort(rng.choice(len(times), keep, replace=False)))
    return grid[rows], times[rows]
