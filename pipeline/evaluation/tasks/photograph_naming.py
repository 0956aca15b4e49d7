"""Photographs of things that training never saw, panned and zoomed, to be named."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reellama.models.synthetic.assets.backgrounds import Background
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.assets.photographs import stamps_folder
from reellama.models.synthetic.assets.pictures import DATA, Picture
from reellama.models.synthetic.camera import CAMERA_MOVES, Camera
from reellama.models.synthetic.render import render
from reellama.models.synthetic.scene import Actor, Scene
from reellama.models.synthetic.video_writer import write_video
from reellama.models.vision.imagenet_labels import synonyms
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.tasks.benchmark_tasks import PHOTOGRAPHS

SPLIT_NAME = "photographs"
PICTURE_SIDE = 384  # pixels of a cut-out that is asked for
VIDEO_FPS = 12


def photograph_items(
    clips: int, seed: int, folder: Path, *, assets: Path = ASSETS
) -> Iterator[EvalItem]:
    """Up to `clips` photographs, a video each, written into `folder` as they are taken.

    A description is asked for, and is right when one of the kind's names stands in it.
    """
    source = stamps_folder(assets)
    with (DATA / "photographs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(seed).permutation(len(rows))
    for number in order[:clips]:
        row = rows[number]
        rng = np.random.default_rng([seed, int(number)])
        video = folder / f"photograph-{number}.mp4"
        scene = _scene(rng, source / row["stamp"])
        count = round(scene.duration * VIDEO_FPS)
        write_video(video, render(scene, (np.arange(count) + 0.5) / VIDEO_FPS), VIDEO_FPS)
        name, *others = synonyms(int(row["class"]))
        yield EvalItem(PHOTOGRAPHS, "", name, (), video, also=tuple(others))


def _scene(rng: np.random.Generator, stamp: Path) -> Scene:
    """The photograph on a plain ground, as in a studio, and a camera that moves."""
    with Image.open(stamp) as image:
        cut_out = image.convert("RGBA")
    cut_out = ImageOps.contain(cut_out.crop(cut_out.getbbox()), (PICTURE_SIDE, PICTURE_SIDE))
    square = Image.new("RGBA", (PICTURE_SIDE, PICTURE_SIDE))
    square.paste(
        cut_out, ((PICTURE_SIDE - cut_out.width) // 2, (PICTURE_SIDE - cut_out.height) // 2)
    )
    picture = Picture(stamp.stem, "photograph", np.asarray(square))
    x, y, side = rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.5, 0.65)
    actor = Actor(picture, "stays still", float(x), float(y), float(side))
    move = str(rng.choice(CAMERA_MOVES))
    ground = Background(str(rng.choice(("flat", "linear", "radial"))), int(rng.integers(2**32)))
    return Scene((actor,), ground, (640, 480), 5.0, camera=Camera.random(rng, move))
