"""What is left of a video's features after pooling, by method and budget; no LLM takes part.

python -m benchmarks.pooling_quality [FOLDER] [--frames 32] [--videos 24] [--groups N]

The features are those of the tower of `mini`. FOLDER holds video files; those with fewer frames
than asked for are joined with the files after them, which makes a video with cuts. Without a
folder, clips are drawn. All cosines are between vectors less the mean of all features.

groups     spans of time that a time such as <0:12> is written before; `--text` tokens each, which
           the budget pays. The planner chooses how many; `--groups` gives all poolings the same
encoded    frames that the tower must see
nearest    cosine of each feature with the pooled token most like it: is it still anywhere?
in group   the same among the tokens of its group alone: is it there at its time?
in place   cosine with the token whose position is nearest: is it there where M-RoPE says?
time off   of the video's length: how far a frame is from the middle of the group whose tokens are
           most like its features; large for any pooling where the video stands still
seconds    of one core for one video

What it says is how much an LLM could still find. It cannot say whether an LLM does: none was
trained on means of features of several places, and the cosine knows nothing of what a question is
about. Merging minimises nearly what `nearest` measures, while pruning keeps on purpose what is
unlike the rest. The tower is small and convolutional, with few cells; others may come out
differently.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from reellama.models.bundle import Bundle
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene_generation import random_scene
from reellama.models.token_pooling.grid_pooling import PoolingError, group_of
from reellama.models.token_pooling.plan import FrameTokens, PoolingPlan, plan_pooling
from reellama.models.token_pooling.pool import POOLINGS, PooledTokens, pool
from reellama.models.token_pooling.token_pruning import unit
from reellama.pipeline.video.clip import read_frames

SIDE = 224  # pixels of a frame; the tower takes fewer

Video = list[np.ndarray]  # uint8 RGB frames [height, width, 3]
Row = tuple[float, float, float, float]


def filmed(folder: Path, frames: int) -> Iterator[Video]:
    """Videos of so many frames from the files of a folder, short files joined."""
    video: Video = []
    for path in sorted(folder.rglob("*.mp4")):
        video += read_frames(path, frames=frames, max_side=SIDE).frames
        if len(video) >= frames:
            yield video[:frames]
            video = []


def drawn(frames: int) -> Iterator[Video]:
    """Clips of one or two shapes in motion, as `reellama demo-video` draws them."""
    pictures = load_pictures(("shapes",))
    for seed in itertools.count():
        scene = random_scene(np.random.default_rng(seed), pictures, size=(SIDE, SIDE))
        yield list(render(scene, frame_times(scene.duration, frames)))


def cosines(features: np.ndarray, tokens: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Cosine similarities of features and tokens, both less a centre: `[features, tokens]`."""
    return unit(features - centre) @ unit(tokens - centre).T


def quality(features: np.ndarray, pooled: PooledTokens, groups: int, centre: np.ndarray) -> Row:
    """`nearest`, `in group`, `in place` and `time off` of one video, as the module says."""
    frames, rows, columns, n_embd = features.shape
    alike = cosines(features.reshape(-1, n_embd), pooled.tokens, centre)
    places = np.argwhere(np.ones((frames, rows, columns), bool)) / (frames, rows, columns)
    steps = places[:, None] - pooled.positions / np.array((frames, rows, columns))
    in_place = np.take_along_axis(alike, (steps**2).sum(-1).argmin(1)[:, None], 1)
    starts = np.cumsum(pooled.group_sizes) - pooled.group_sizes
    by_group = np.maximum.reduceat(alike, starts, axis=1).reshape(frames, rows * columns, -1)
    by_group = by_group.mean(1)  # [frames, groups that have tokens]
    middles = (np.unique(group_of(pooled.positions[:, 0], groups, frames)) + 0.5) / groups
    off = np.abs((np.arange(frames)[:, None] + 0.5) / frames - middles)
    in_group = np.take_along_axis(by_group, off.argmin(1)[:, None], 1)
    time_off = np.take_along_axis(off, by_group.argmax(1)[:, None], 1)
    return alike.max(1).mean(), in_group.mean(), in_place.mean(), time_off.mean()


def measure(videos: list[np.ndarray], plan: PoolingPlan, text: int) -> list[str]:
    """A row of the table: means over videos of features `[frames, rows, columns, n_embd]`."""
    centre = np.mean([features.mean((0, 1, 2)) for features in videos], axis=0)
    began = time.process_time()
    pooled = [pool(video, plan.method, plan.tokens, groups=plan.groups) for video in videos]
    seconds = (time.process_time() - began) / len(videos)
    scores = [
        quality(video, each, plan.groups, centre)
        for video, each in zip(videos, pooled, strict=True)
    ]
    tokens = np.mean([len(each.tokens) + text * len(each.group_sizes) for each in pooled])
    *alike, off = np.mean(scores, axis=0)
    counts = [f"{tokens:.0f}", str(plan.groups), str(plan.frames)]
    return [*counts, *(f"{mean:.3f}" for mean in alike), f"{100 * off:.0f}%", f"{seconds:.3f}"]


def plan_for(
    method: str, budget: int, frames: int, side: int, text: int, groups: int | None
) -> PoolingPlan:
    """The planner's, or one with so many groups, which spend what remains of the budget."""
    frame = FrameTokens(side, side)
    plan = plan_pooling(budget, frame, frames=frames, group_tokens=text, method=method)
    if groups is None or method == "full":
        return plan
    encoded = groups if method == "subsample" else frames
    return replace(plan, groups=groups, frames=encoded, tokens=budget - groups * text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--text", type=int, default=6)
    parser.add_argument("--groups", type=int)
    options = parser.parse_args()
    source = filmed(options.folder, options.frames) if options.folder else drawn(options.frames)
    bundle = Bundle.load("mini")
    videos = [bundle.features(video) for video in itertools.islice(source, options.videos)]
    side = math.isqrt(videos[0].shape[1])
    videos = [features.reshape(-1, side, side, features.shape[-1]) for features in videos]
    counts, figures = ("tokens", "groups", "encoded"), ("nearest", "in group", "in place")
    table = Table("budget", "pooling", *counts, *figures, "time off", "seconds", box=None)
    for budget in options.budgets:
        for method in POOLINGS:
            try:
                plan = plan_for(method, budget, options.frames, side, options.text, options.groups)
            except PoolingError:
                table.add_row(str(budget), method, "-")  # not one frame fits
                continue
            table.add_row(str(budget), method, *measure(videos, plan, options.text))
    Console().print(f"{len(videos)} videos of {options.frames} frames, {side} x {side} cells each")
    Console().print(table)


if __name__ == "__main__":
    main()
