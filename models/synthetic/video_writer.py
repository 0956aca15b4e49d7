"""Write frames as a video file."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError

# x264's lookahead, even on one thread, sometimes gives other packets for the same frames if other
# processes are busy.
DETERMINISTIC_OPTIONS = {"rc-lookahead": "0", "mbtree": "0"}


def write_video(
    path: Path, frames: np.ndarray | Sequence[np.ndarray], fps: float = 24, codec: str = "h264"
) -> None:
    """Write uint8 RGB frames `[T, H, W, 3]` as a video file, atomically; H and W must be even.

    The same frames always give the same bytes. MPEG-4 is written where this build of FFmpeg has no
    encoder for `codec`. Raises ReellamaError.
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
                options=DETERMINISTIC_OPTIONS if available_codec == "h264" else {},
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
    except (FFmpegError, OSError, ValueError) as error:  # ValueError for an unknown file suffix
        raise ReellamaError(f"cannot write the video {path}: {error}") from error


def _can_encode(codec: str) -> bool:
    import av

    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
