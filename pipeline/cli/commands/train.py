"""`reellama train`: a recipe in, a bundle out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from gguf_tools.errors import ReellamaError
from models.synthetic.assets.downloads import ASSETS
from models.training import distributed
from models.training.captions import train_captions
from models.training.config import CaptionRecipe, StoryRecipe, TrainingConfig
from pipeline.cli.console import note
from pipeline.video.clip import read_frames
from pipeline.video.read_options import MAX_SIDE


@dataclass(frozen=True)
class ConfigOverrides:
    """What the command line changes in a recipe on captions; None leaves it."""

    data: Path | None
    projector: str | None
    steps: str | None

    def apply(self, recipe: CaptionRecipe | StoryRecipe, path: Path) -> CaptionRecipe | StoryRecipe:
        """The recipe at `path` with the changes; raises ReellamaError for one of no use there."""
        if isinstance(recipe, StoryRecipe):
            for entry in fields(self):
                if getattr(self, entry.name) is not None:
                    raise ReellamaError(
                        f"{path}: --{entry.name} is not for recipes with stories; change the recipe"
                    )
            return recipe
        if self.data is not None:
            recipe = replace(recipe, data=str(self.data), stills=0)
        if self.projector is not None:
            recipe = replace(recipe, projector=replace(recipe.projector, kind=self.projector))
        if self.steps is not None:
            align, motion, answer = _steps(self.steps)
            recipe = replace(
                recipe,
                align=replace(recipe.align, steps=align),
                motion=replace(recipe.motion, steps=motion),
                answer=replace(recipe.answer, steps=answer),
            )
        return recipe


def _steps(text: str) -> list[int]:
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ReellamaError(f"--steps {text}: give those of the three stages, such as 500,200,100")
    return [int(number) for number in numbers]


def read_video(path: Path, frames: int) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Frames and seconds as training takes them; read as `ask` reads them."""
    clip = read_frames(path, frames=frames, max_side=MAX_SIDE)
    return clip.frames, clip.times


def run(
    recipe_path: Path,
    out: Path | None,
    work: Path | None,
    material: Path | None,
    changes: ConfigOverrides,
    processes: int = 1,
) -> None:
    """Train; what a later run goes on with is kept in `work` (default: beside the bundle)."""
    recipe = changes.apply(TrainingConfig.read(recipe_path), recipe_path)
    out = out or Path(recipe.name)
    work = work or out.with_name(out.name + ".work")
    ready = partial(
        train_captions.run,
        recipe,
        out,
        work=work,
        read_video=read_video,
        material=material or ASSETS,
        report=note,
    )
    if processes == 1:
        ready()
    elif not isinstance(recipe, StoryRecipe):
        raise ReellamaError(f"{recipe_path}: --processes is for recipes with stories; leave it out")
    else:
        distributed.spawn(ready, processes)
