"""A `VideoEncoder` says when it looks at a video, so that the LLM leaves it the cores."""

from pathlib import Path

import pytest

from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.pipeline.chat.timings import Timings
from reellama.pipeline.chat.video_encoder import VideoEncoder
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import VideoError


def test_encoder_is_busy_while_reading_frames_but_not_on_a_cache_hit(
    demo_video: Path, tmp_path: Path
) -> None:
    encoder = VideoEncoder(Bundle.load(), ArrayCache(tmp_path))
    was_busy: list[bool] = []

    def encode(path: Path) -> None:
        encoder.encode(
            path, VideoReadOptions(), Timings(), lambda done, total: was_busy.append(encoder.busy)
        )
        assert not encoder.busy

    encode(demo_video)
    assert was_busy and all(was_busy)
    was_busy.clear()
    encode(demo_video)
    assert was_busy == []
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        encode(tmp_path / "no.mp4")
    assert not encoder.busy
