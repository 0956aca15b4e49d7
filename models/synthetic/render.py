"""Render scenes as frames at any times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from reellama.models.synthetic.camera import WORLD_SCALE
from reellama.models.synthetic.scene import Drawable, Pose, Scene


def frame_times(duration: float, frames: int) -> np.ndarray:
    """The middles of `frames` equal parts of the duration, in seconds: float64 `[frames]`."""
    return (np.arange(frames) + 0.5) * (duration / frames)


def render(scene: Scene, times: np.ndarray) -> np.ndarray:
    """The scene's frames at `times [T]` (seconds, any order): uint8 RGB `[T, height, width, 3]`."""
    width, height = scene.size
    frames = np.empty((len(times), height, width, 3), np.uint8)
    shots = [
        _Shot(scene),
        *([_Shot(replace(scene.second_shot, size=scene.size))] if scene.second_shot else []),
    ]
    for frame, time in zip(frames, times, strict=True):
        u = min(1.0, max(0.0, float(time) / scene.duration))
        if scene.second_shot and u >= scene.cut_time:
            frame[...] = shots[1].draw((u - scene.cut_time) / (1 - scene.cut_time))
        else:
            frame[...] = shots[0].draw(u / scene.cut_time if scene.second_shot else u)
    return frames


class _Shot:
    """Renders one shot: a scene, or the part of a scene before or after its cut."""

    def __init__(self, scene: Scene) -> None:
        self.camera, self.size = scene.camera, scene.size
        world = WORLD_SCALE if scene.camera else 1
        wide, tall = (round(side * world) for side in scene.size)
        self.background = scene.background.paint(wide, tall)
        self.sprites = [_Sprite(actor, min(wide, tall)) for actor in scene.actors]

    def draw(self, u: float) -> np.ndarray:
        """The frame at time u: uint8 [height, width, 3]."""
        canvas = self.background.copy()
        for sprite in reversed(self.sprites):  # the main actor is drawn last, on top
            sprite.draw(canvas, sprite.actor.pose(u))
        if self.camera:
            left, top, right, bottom = self.camera.view(u)
            w, h = canvas.size
            box = (left * w, top * h, right * w, bottom * h)
            canvas = canvas.resize(self.size, Image.Resampling.BILINEAR, box=box)
        return np.asarray(canvas)


class _Sprite:
    """Draws an actor. It caches the picture in its last size and rotation, which most motions
    keep."""

    def __init__(self, actor: Drawable, short_side: int) -> None:
        self.actor = actor
        self.short_side = short_side
        image = actor.picture.image
        self.picture = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if actor.mirrored else image
        self.resized = self.turned = self.picture
        self.angle = 0.0

    def draw(self, canvas: Image.Image, pose: Pose) -> None:
        if not pose.visible:
            return
        image = self._at(max(1, round(pose.size * self.short_side)), pose.angle)
        left = round(pose.x * canvas.width - image.width / 2)
        top = round(pose.y * canvas.height - image.height / 2)
        canvas.paste(image, (left, top), image)

    def _at(self, side: int, angle: float) -> Image.Image:
        """The picture with this side in pixels, rotated by an angle in degrees."""
        resize = self.resized.width != side
        if resize:
            self.resized = self.picture.resize((side, side), Image.Resampling.BILINEAR)
        if resize or self.angle != angle:
            self.turned = self.resized
            if angle:
                self.turned = self.resized.rotate(angle, Image.Resampling.BILINEAR, expand=True)
            self.angle = angle
        return self.turned
