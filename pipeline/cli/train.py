"""`reellama train`: a recipe in, a bundle out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gguf_tools.errors import ReellamaError
from models import train
from models.material import MATERIAL
from models.recipe import Recipe
from pipeline.cli.display import note
from pipeline.frames import read_frames
from pipeline.video_chat import MAX_SIDE


@dataclass(frozen=True)
class Changes:
    """What the command line changes in a recipe; None leaves it."""

    data: Path | None
    projector: str | None
    steps: str | None

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with the changes."""
        if self.data:
            recipe = replace(recipe, data=str(self.data), stills=0)
        if self.projector:
            recipe = replace(recipe, projector=replace(recipe.projector, kind=self.projector))
        if self.steps:
            align, answer = _steps(self.steps)
            recipe = replace(
                recipe,
                align=replace(recipe.align, steps=align),
                answer=replace(recipe.answer, steps=answer),
            )
        return recipe


def _steps(text: str) -> tuple[int, int]:
    align, _, answer = text.partition(",")
    if not (align.isdecimal() and answer.isdecimal()):
        raise ReellamaError(f"--steps {text}: give the steps of both stages, such as 500,100")
    return int(align), int(answer)


def read_video(path: Path, frames: int) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Frames and seconds as training takes them; read as `ask` reads them."""
    clip = read_frames(path, frames=frames, max_side=MAX_SIDE)
    return clip.frames, clip.times


def run(
    recipe_path: Path, out: Path | None, work: Path | None, material: Path | None, changes: Changes
) -> None:
    """Train; what a later run goes on with is kept in `work` (default: beside the bundle)."""
    recipe = changes.apply(Recipe.read(recipe_path))
    out = out or Path(recipe.name)
    work = work or out.with_name(out.name + ".work")
    train.run(
        recipe,
        out,
        work=work,
        read_video=read_video,
        material=material or MATERIAL,
        report=note,
    )
