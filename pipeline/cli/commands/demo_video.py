"""`reellama demo-video`: a short video whose content is known, to try things on."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from typer import BadParameter

from reellama.gguf_tools.atomic_write import check_new
from reellama.models.synthetic.assets.pictures import load_kinds, load_pictures, shape_kinds
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene import MOTIONS
from reellama.models.synthetic.scene_captions import scene_caption
from reellama.models.synthetic.scene_generation import random_scene
from reellama.models.synthetic.video_writer import write_video
from reellama.pipeline.cli.console import note
from reellama.pipeline.video.file_signature import VIDEO_SUFFIXES

DEMO_FPS = 24


def run(path: Path, kind: str, motion: str, *, force: bool = False) -> None:
    """Draw `kind` doing `motion` and write it to `path`; `force`: also over a file."""
    if motion not in MOTIONS:
        raise BadParameter(f"no motion is called {motion!r}; there are: {', '.join(MOTIONS)}")
    style = "shapes" if kind in shape_kinds() else "openmoji"
    kinds = {*shape_kinds(), *(known.name for known in load_kinds())}
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds) or ["red star", "dog"]
        raise BadParameter(f"no picture is called {kind!r}; there is {' or '.join(near)}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise BadParameter(f"{path}: its ending is not one of a video; call it {path.stem}.mp4")
    check_new(path, force=force)
    picture = load_pictures((style,), kinds=[kind])[0]
    rng = np.random.default_rng(7)
    scene = random_scene(rng, [picture], size=(640, 360), p_two=0, picture=picture, motion=motion)
    times = frame_times(scene.duration, round(scene.duration * DEMO_FPS))
    write_video(path, render(scene, times), DEMO_FPS)
    note(f"{path}: {scene_caption(scene)}")
