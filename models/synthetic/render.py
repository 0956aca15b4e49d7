"""Render scenes as frames at any times, and write frames as video files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.camera import WORLD_SCALE
from reellama.models.synthetic.scene import MOTIONS, Actor, Drawable, Pose, Scene, random_scene
from reellama.models.synthetic.scene_captions import scene_caption, scene_questions

__all__ = [
    "MOTIONS",
    "Actor",
    "Scene",
    "frame_times",
    "random_scene",
    "render",
    "scene_caption",
    "scene_questions",
    "write_video",
]


def frame_times(duration: float, frames: int) -> np.ndarray:
    """The middles of `frames` equal parts of the duration: float64 [frames], seconds."""
    return (np.arange(frames) + 0.5) * (duration / frames)


def render(scene: Scene, times: np.ndarray) -> np.ndarray:
    """The scene's frames at `times` (seconds, any order): uint8 RGB [T, height, width, 3]."""
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
    """A renderer of one scene; the shots of a scene with a cut have one each."""

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
    """An actor's picture, with its last size and rotation cached, which most motions keep."""

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
        resize = self.resized.width != side
        if resize:
            self.resized = self.picture.resize((side, side), Image.Resampling.BILINEAR)
        if resize or self.angle != angle:
            self.turned = self.resized
            if angle:
                self.turned = self.resized.rotate(angle, Image.Resampling.BILINEAR, expand=True)
            self.angle = angle
        return self.turned


# Beside other busy processes x264's lookahead gives other packets for the same frames now and then,
# even on one thread.
SAME_UNDER_LOAD = {"rc-lookahead": "0", "mbtree": "0"}


def write_video(
    path: Path, frames: np.ndarray | Sequence[np.ndarray], fps: float = 24, codec: str = "h264"
) -> None:
    """Write uint8 RGB frames [T, H, W, 3] as a video; H and W must be even.

    H.264 where this build of FFmpeg can write it, else MPEG-4; the same frames always give the same
    bytes. The file is written whole or not at all: raises ReellamaError when it cannot be.
    """
    import av
    from av.error import FFmpegError

    available_codec = codec if _can_encode(codec) else "mpeg4"
    try:
        # Without "bitexact", a WebM file contains a random number.
        with (
            replacing(path, keep_suffix=True) as temporary,
            av.open(str(temporary), "w", options={"fflags": "bitexact"}) as container,
        ):
            stream = container.add_stream(
                available_codec,
                rate=Fraction(fps).limit_denominator(1001),
                options=SAME_UNDER_LOAD if available_codec == "h264" else {},
            )
            if not isinstance(stream, av.VideoStream):
                raise ReellamaError(
                    f"cannot write the video {path}: {available_codec} is no video codec"
                )
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1  # else the bytes depend on cores and load
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    except (FFmpegError, OSError, ValueError) as error:  # ValueError: of an ending it does not know
        raise ReellamaError(f"cannot write the video {path}: {error}") from error


def _can_encode(codec: str) -> bool:
    import av

    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
