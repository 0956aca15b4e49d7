"""A `VideoEncoder` says when it looks at a video, so that the LLM leaves it the cores."""

from pathlib import Path

import pytest

from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.pipeline.chat.timings import Timings
from reellama.pipeline.chat.video_encoder import VideoEncoder
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import VideoError


def test_it_is_busy_while_frames_are_read_and_not_for_what_is_known(
    demo_video: Path, tmp_path: Path
) -> None:
    encoder = VideoEncoder(Bundle.load(), ArrayCache(tmp_path))
    seen: list[bool] = []

    def look(path: Path) -> None:
        encoder.encode(
            path, VideoReadOptions(), Timings(), lambda done, total: seen.append(encoder.busy)
        )
        assert not encoder.busy

    look(demo_video)
    assert seen and all(seen)
    seen.clear()
    look(demo_video)
    assert seen == []
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        look(tmp_path / "no.mp4")
    assert not encoder.busy
