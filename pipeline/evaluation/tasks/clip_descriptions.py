"""A bundle's own descriptions of clips that it never saw, against exact ground truth.

Every clip goes the whole way that a person's video goes: it is written as a file, read again,
looked at, and described by the LLM in llama.cpp with greedy sampling.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.models.bundle import Bundle
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig
from reellama.models.synthetic.video_writer import write_video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.accuracy import Accuracy
from reellama.pipeline.evaluation.tasks.description_scoring import (
    DescriptionVerdict,
    accuracies,
    judge_description,
)

CLIP_FPS = 8  # of the clips that are written


@dataclass(frozen=True)
class DescribedClip:
    """One clip, what is true of it and what was said."""

    truth: str
    said: str
    verdict: DescriptionVerdict
    seconds: float  # from the file to the whole answer


@dataclass(frozen=True)
class DescriptionResults:
    """All clips of a run."""

    bundle: str
    config: RenderedConfig
    clips: list[DescribedClip]

    @property
    def scores(self) -> dict[str, Accuracy]:
        return accuracies([clip.verdict for clip in self.clips])

    def figures(self, command: str) -> dict[str, Any]:
        """The scores for `scores.json`, with the command that gave them."""
        scores = {key: share.to_json() for key, share in self.scores.items()}
        return {"command": command, "clips": len(self.clips), **scores}

    def to_json(self) -> dict[str, Any]:
        """The object that `reellama eval --json` prints."""
        return {
            "bundle": self.bundle,
            "styles": list(self.config.styles),
            "seed": self.config.seed,
            "scores": {name: share.to_json() for name, share in self.scores.items()},
            "clips": [asdict(clip) for clip in self.clips],
        }


def clips_to_draw(bundle: Bundle, styles: tuple[str, ...]) -> RenderedConfig:
    """The drawing settings that a bundle was trained with, for its test clips."""
    stages = bundle.config.stages
    trained: Mapping[str, Any] = stages[-1]["config"] if stages else {}
    drawn: Mapping[str, Any] = trained.get("rendered", {})
    if not drawn or trained.get("data"):
        raise ReellamaError(
            f"{bundle.folder}: the bundle was not trained on drawn clips, so there are none to test"
        )
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in drawn.items()
    }
    config = RenderedConfig(**values)
    if styles:
        config = replace(config, styles=styles, style_weights=(1 / len(styles),) * len(styles))
    return config


def evaluate_descriptions(
    bundle: str | Path,
    *,
    clips: int = 300,
    assets: Path = ASSETS,
    styles: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None,
    **engine: Any,
) -> DescriptionResults:
    """Describe `clips` clips of the test split, drawn in `styles` (default: those of training)."""
    answered: list[DescribedClip] = []
    with VideoChat(bundle=bundle, **engine) as video_chat, temporary_folder() as folder:
        if not isinstance(video_chat.bundle, Bundle):
            raise ReellamaError(
                f"{bundle} was not trained on drawn clips, so there are none to describe; ask it "
                "with --benchmark, --data or --bench"
            )
        config = clips_to_draw(video_chat.bundle, styles)
        source = RenderedClips(config, assets)
        for number in range(clips):
            answered.append(_describe(video_chat, source, number, folder))
            if progress:
                progress(number + 1, clips)
    return DescriptionResults(str(bundle), config, answered)


def _describe(
    video_chat: VideoChat, source: RenderedClips, number: int, folder: Path
) -> DescribedClip:
    clip = source.clip("test", number)
    times = frame_times(clip.scene.duration, max(8, round(clip.scene.duration * CLIP_FPS)))
    path = folder / f"{number}.mp4"
    write_video(path, render(clip.scene, times), len(times) / clip.scene.duration)
    started_at = time.perf_counter()
    video_chat.conversation.clear()
    video_chat.videos.clear()
    video_chat.add(path)
    said = video_chat.describe(max_tokens=64)
    path.unlink()
    verdict = judge_description(said, clip.scene.actors)
    return DescribedClip(clip.caption, said, verdict, time.perf_counter() - started_at)


def format_report(evaluation: DescriptionResults) -> str:
    """The scores as a table for people."""
    styles = ", ".join(evaluation.config.styles)
    lines = [f"{evaluation.bundle}: {len(evaluation.clips)} clips, {styles}"]
    for name, share in evaluation.scores.items():
        low, high = share.interval()
        lines.append(f"{name:<24}{share.value:7.1%}  ({low:.1%} to {high:.1%}, of {share.of})")
    return "\n".join(lines)


def to_json_text(evaluation: DescriptionResults) -> str:
    """The figures and each description as the text of a JSON file."""
    return json.dumps(evaluation.to_json(), indent=2)
