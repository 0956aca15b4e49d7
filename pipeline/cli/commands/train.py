"""`reellama train`: a training config in, a bundle out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from rich.text import Text

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.training.captions.train_captions import train_captions
from reellama.models.training.config import (
    CaptionConfig,
    MultiStageConfig,
    StageConfig,
    read_config,
)
from reellama.models.training.train_stages import is_finished, selected, train_stages
from reellama.models.training.trainer import TrainerConfig
from reellama.pipeline.cli.commands.export_graphs import export_trained
from reellama.pipeline.cli.console import note, strip_control
from reellama.pipeline.cli.console import out as stdout
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import MAX_SIDE


@dataclass(frozen=True)
class ConfigOverrides:
    """What the command line changes in a config on captions; None leaves it."""

    data: Path | None
    projector: str | None
    steps: str | None

    def apply(self, config: CaptionConfig) -> CaptionConfig:
        """The config with the changes; raises ReellamaError for a value of no use."""
        if self.data is not None:
            config = replace(config, data=str(self.data), stills=0)
        if self.projector is not None:
            config = replace(config, projector=replace(config.projector, kind=self.projector))
        if self.steps is not None:
            align, motion, answer = parse_steps(self.steps)
            config = replace(
                config,
                align=replace(config.align, steps=align),
                motion=replace(config.motion, steps=motion),
                answer=replace(config.answer, steps=answer),
            )
        return config


@dataclass(frozen=True)
class StageChoice:
    """What the command line decides of a config with stages; None leaves it to the config."""

    stage: str | None = None
    processes: int | None = None


def parse_steps(text: str) -> list[int]:
    """Steps of the three phases on captions. Raises ReellamaError for other text."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ReellamaError(f"{text!r:.40}: give those of the three phases, such as 500,200,100")
    return [int(number) for number in numbers]


def _refuse(options: ConfigOverrides | StageChoice, path: Path, kind: str) -> None:
    """Raise ReellamaError for an option that does nothing with a config of the other type."""
    for entry in fields(options):
        if getattr(options, entry.name) is not None:
            raise ReellamaError(f"{path}: --{entry.name} is not for configs {kind}; leave it out")


def read_video(path: Path, frames: int) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Frames and seconds as training takes them; read as `ask` reads them."""
    clip = read_frames(path, frames=frames, max_side=MAX_SIDE)
    return clip.frames, clip.times


def run(
    path: Path,
    out: Path | None,
    work: Path | None,
    assets: Path | None,
    changes: ConfigOverrides,
    choice: StageChoice,
    dry_run: bool = False,
) -> None:
    """Train; a later run resumes from what is kept in `work` (default: beside the bundle)."""
    config = read_config(path)
    if isinstance(config, MultiStageConfig):
        _refuse(changes, path, "with stages")
    else:
        _refuse(choice, path, "without stages")
        config = changes.apply(config)
    out = out or Path(config.name)
    work = work or out.with_name(out.name + ".work")
    assets = assets or ASSETS
    if dry_run:
        for line in describe_plan(config, out, choice.stage):
            stdout.print(Text(strip_control(line)), soft_wrap=True)
    elif isinstance(config, MultiStageConfig):
        bundle = train_stages(
            config, out, work=work, assets=assets, report=note,
            only=choice.stage, processes=choice.processes, read_video=read_video,
        )  # fmt: skip
        export_trained(bundle.folder)
    else:
        train_captions(config, out, work=work, read_video=read_video, report=note, assets=assets)
        export_trained(out)


def describe_plan(
    config: CaptionConfig | MultiStageConfig, out: Path, only: str | None = None
) -> Iterator[str]:
    """Lines for a person: what is trained from what, in which steps, and about how long.

    Times are steps times the config's `seconds_per_step`.
    """
    if isinstance(config, CaptionConfig):
        yield f"{config.name}: from new weights"
        yield from _phase_lines(config.phases())
        yield from _total([config.phases()])
        return
    left = []
    for stage in selected(config, only):
        finished = is_finished(config, stage, out)
        yield f"{stage.stage}: {_origin(stage)}{' (finished)' if finished else ''}"
        yield from _phase_lines(stage.phases(), stage.measured_on)
        if not finished:
            left.append(stage.phases())
    yield from _total(left)


def _origin(stage: StageConfig) -> str:
    """What a stage starts from."""
    averages = {
        "projector": (stage.weight_average, stage.average_with or stage.init_from),
        "adapter": (stage.lora_weight_average, stage.init_from),
    }
    parts = [f"from {stage.init_from or 'new weights'}"]
    for what, (share, other) in averages.items():
        if share:
            parts.append(f"{what} averaged with {share:.0%} of {other}")
    return ", ".join(parts)


def _phase_lines(phases: dict[str, TrainerConfig], measured_on: str = "") -> Iterator[str]:
    for name, phase in phases.items():
        time = "time not measured"
        if phase.seconds_per_step:
            time = f"{format_hours(phase.steps * phase.seconds_per_step)} measured"
            time += f" on {measured_on}" if measured_on else ""
        yield f"  {name:<10}{phase.steps:>6} steps, {time}"


def _total(stages: list[dict[str, TrainerConfig]]) -> Iterator[str]:
    phases = [phase for stage in stages for phase in stage.values()]
    seconds = sum(phase.steps * phase.seconds_per_step for phase in phases)
    unknown = sum(not phase.seconds_per_step for phase in phases)
    line = f"left: {sum(phase.steps for phase in phases)} steps, about {format_hours(seconds)}"
    yield f"{line} and {unknown} phases that nobody measured" if unknown else line
    yield (
        "Times are steps times the config's seconds_per_step, without loading and validation; "
        "another machine takes longer or shorter."
    )


def format_hours(seconds: float) -> str:
    """Seconds as hours and minutes: "2 h 05 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
