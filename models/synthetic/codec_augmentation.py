"""Augmentation by a video codec: clips are encoded at a random bit rate and decoded again.

Codec artefacts change over time: a still picture blurs, sharpens and jumps between keyframes. A
projector that was not trained on such artefacts takes them for a zoom.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import av
import numpy as np

from reellama.models.synthetic.render import render
from reellama.models.synthetic.scene import Scene

AUGMENTATION_CODECS = ("mpeg4", "mpeg2video", "libx264", "libvpx")
_CODEC_SHARES = (0.45, 0.15, 0.25, 0.15)
AUGMENTATION_HEIGHTS = (192, 240, 288)
MIN_BITS_PER_PIXEL, MAX_BITS_PER_PIXEL = 0.02, 0.5  # a bad video call, a DVD
MAX_FRAME_STEP = 4  # at most every 4th frame of the file is sampled
# The same clip must always have the same frames, however busy the processor is. A positive cpu-used
# would make libvpx adapt to its load. Beside other busy processes, x264's lookahead, even on one
# thread, gave other packets for the same frames in 16 of 634 runs; without it, none of 317
# differed.
_FAST_OPTIONS = {
    "libx264": {"preset": "veryfast", "rc-lookahead": "0", "mbtree": "0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "-8"},
}


def render_through_codec(
    rng: np.random.Generator, scene: Scene, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Encode the scene as a video file with random settings and sample it at `times`.

    times: seconds, ascending. Returns frames uint8 `[T, H, W, 3]` and their seconds `[T]`, where T
    is smaller than `len(times)` if several times fall on one frame.
    """
    total = len(times) * int(rng.integers(1, MAX_FRAME_STEP + 1))
    height = int(rng.choice(AUGMENTATION_HEIGHTS))
    width = round(scene.size[0] * height / scene.size[1] / 2) * 2  # even, as codecs need
    frame_seconds = (np.arange(total) + 0.5) / total * scene.duration
    drawn = render(replace(scene, size=(width, height)), frame_seconds)
    bits = float(np.exp(rng.uniform(np.log(MIN_BITS_PER_PIXEL), np.log(MAX_BITS_PER_PIXEL))))
    codec = str(rng.choice([*AUGMENTATION_CODECS], p=_CODEC_SHARES))
    decoded = reencode(codec, drawn, bits, key_every=int(rng.choice((12, 50, 250))))
    last = len(decoded) - 1
    sampled = np.unique(np.clip((times / scene.duration * total).astype(int), 0, last))
    return decoded[sampled], frame_seconds[sampled]


def reencode(codec: str, frames: np.ndarray, bits: float, key_every: int = 12) -> np.ndarray:
    """Encode frames uint8 `[T, H, W, 3]` at about `bits` bits a pixel, and decode them again."""
    file = BytesIO()
    height, width = frames[0].shape[:2]
    fps = 25  # any number: the bit rate is per frame
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=fps, options=_FAST_OPTIONS.get(codec, {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = max(1000, round(bits * width * height * fps))
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1  # worker processes encode side by side
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as written:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in written.decode(video=0)])
