"""Compose scenes: an empty one, actors that do not overlap, a photograph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.backgrounds import random_background
from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.scene import Actor, Scene
from reellama.models.synthetic.scene_generation import overlap, random_actor, random_motion


def empty_scene(rng: np.random.Generator, pool: PicturePool) -> Scene:
    """A scene without actors, of random size, background and duration (2 to 10 s)."""
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
    """Add an actor that does not overlap the others; unchanged where 40 tries find no place.

    side: in shares of the short side of `size`, (width, height).
    """
    for _ in range(40):
        any_motion = motion or random_motion(rng, picture)
        actor = random_actor(rng, picture, side, size, any_motion)
        if all(overlap(other, actor, size) <= 0.15 * side for other in actors):
            return [*actors, actor]
    return actors


def photograph_scene(rng: np.random.Generator, pool: PicturePool, scene: Scene) -> Scene:
    """A photograph as the background of an empty scene, or a large unnamed picture in it."""
    if rng.random() < 0.3:
        return replace(scene, background=random_background(rng, pool.photos, p_photo=1.0))
    x, y, side = rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.9)
    mirrored = bool(rng.random() < 0.5)
    thing = Actor(
        pool.unnamed_picture(rng), "stays still", float(x), float(y), float(side), mirrored=mirrored
    )
    return replace(scene, actors=(thing,))
