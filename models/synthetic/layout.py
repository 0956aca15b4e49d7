"""Scenes put together: an empty one, actors side by side, a photograph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.synthetic.assets.backgrounds import random_background
from models.synthetic.assets.picture_pool import PicturePool
from models.synthetic.assets.pictures import Picture
from models.synthetic.scene import (
    Actor,
    Scene,
    overlap,
    random_actor,
    random_motion,
)


def empty_scene(rng: np.random.Generator, pool: PicturePool) -> Scene:
    """An empty scene."""
    size = ((192, 192), (256, 192), (344, 192))[int(rng.integers(3))]
    return Scene((), random_background(rng, pool.photos), size, float(rng.uniform(2.0, 10.0)))


def add_beside(
    rng: np.random.Generator,
    actors: list[Actor],
    picture: Picture,
    side: float,
    size: tuple[int, int],
    motion: str | None = None,
) -> list[Actor]:
    """The actors and one more that keeps out of their way, if there is a place for it."""
    for _ in range(40):
        does = motion or random_motion(rng, picture)
        actor = random_actor(rng, picture, side, size, does)
        if all(overlap(other, actor, size) <= 0.15 * side for other in actors):
            return [*actors, actor]
    return actors


def photograph_scene(rng: np.random.Generator, pool: PicturePool, scene: Scene) -> Scene:
    """A photograph that fills an empty scene, or something cut out of one, large."""
    if rng.random() < 0.3:
        return replace(scene, background=random_background(rng, pool.photos, p_photo=1.0))
    x, y, side = rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.9)
    mirrored = bool(rng.random() < 0.5)
    thing = Actor(
        pool.unnamed_picture(rng), "stays still", float(x), float(y), float(side), mirrored=mirrored
    )
    return replace(scene, actors=(thing,))
