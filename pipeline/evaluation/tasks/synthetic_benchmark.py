"""The drawn benchmark: questions after MVBench's tasks (Li et al., 2023), with exact truth.

Its clips are ones that training never draws, as video files that differ in length, frame
rate, size and codec. `new-clips` shows known kinds in known styles, `new-style` known kinds in a
style that training leaves out, `new-pictures` kinds that training never draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.dataset import SyntheticClips, SyntheticConfig
from reellama.models.synthetic.render import render
from reellama.models.synthetic.synthetic_clip import ClipQuestion, SyntheticClip
from reellama.models.synthetic.video_writer import write_video
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.tasks.benchmark_tasks import TASKS

NAMING_TASKS = (
    "object naming",
    "object existence",
    "scene transition",
)  # of no use for unknown kinds
FRAME_RATES = (8, 12, 24, 30)
HEIGHTS = (192, 240, 360)
CODECS = ("h264", "mpeg4", "vp9")


@dataclass(frozen=True)
class BenchmarkSplit:
    """Which pictures a split is drawn with."""

    styles: tuple[str, ...]
    kinds: str  # as for `SyntheticClips`


BENCHMARK_SPLITS = {
    "new-clips": BenchmarkSplit(("noto", "openmoji", "shapes"), "known"),
    "new-style": BenchmarkSplit(("twemoji",), "known"),
    "new-pictures": BenchmarkSplit(("noto", "openmoji"), "new"),
}


def benchmark_items(
    split: str,
    clips: int,
    seed: int,
    folder: Path,
    *,
    tasks: Collection[str] = tuple(TASKS),
    assets: Path = ASSETS,
) -> Iterator[EvalItem]:
    """`clips` questions of each task, one video each, written into `folder` as they are taken.

    Object naming comes as an open question; all others have choices. Of fewer `tasks` the clips are
    those that these have among all.
    """
    drawn = BENCHMARK_SPLITS[split]
    share = 1 / len(drawn.styles)
    config = SyntheticConfig(
        styles=drawn.styles, style_weights=(share,) * len(drawn.styles), seed=seed
    )
    source = SyntheticClips(config, 192, assets, split="test", kinds=drawn.kinds)
    n_found: Counter[str] = Counter()
    for number, (task, name) in enumerate(TASKS.items()):
        if task not in tasks or (drawn.kinds == "new" and task in NAMING_TASKS):
            continue
        attempt = number * 1_000_000
        while n_found[task] < clips:
            attempt += 1
            clip_and_question = _question(source, attempt, name, task)
            if clip_and_question is not None:
                clip, question = clip_and_question
                video = _write(clip, folder / f"{split}-{attempt}", attempt)
                n_found[task] += 1
                yield _item(question, video)


def _question(
    source: SyntheticClips, number: int, name: str, task: str
) -> tuple[SyntheticClip, ClipQuestion] | None:
    """Clip `number` with its first question of the task, if it has one."""
    pool = source.picture_pool(number)
    if task == "attribute":  # a colour is asked for where there is one
        pool = replace(pool, tint_share=1.0)
    clip = source.clip(number, name, pool)
    questions = [question for question in clip.questions if question.task == task]
    return (clip, questions[0]) if questions else None


def _item(question: ClipQuestion, video: Path) -> EvalItem:
    choices = () if question.task == "object naming" else question.choices
    answer = question.answer
    if question.task == "object naming":  # without its article
        answer = answer.split(" ", 1)[1]
    return EvalItem(question.task, question.question, answer, choices, video)


def _write(clip: SyntheticClip, path: Path, number: int) -> Path:
    """The clip as a video, of a frame rate, height and codec that `number` decides."""
    rng = np.random.default_rng(number)
    fps, height = int(rng.choice(FRAME_RATES)), int(rng.choice(HEIGHTS))
    codec = str(rng.choice(CODECS))
    width = round(clip.scene.size[0] * height / clip.scene.size[1] / 2) * 2
    scene = replace(clip.scene, size=(width, height))
    count = max(8, round(scene.duration * fps))
    video = path.with_suffix(".webm" if codec == "vp9" else ".mp4")
    times = (np.arange(count) + 0.5) / count * scene.duration
    write_video(video, render(scene, times), fps, codec)
    return video
