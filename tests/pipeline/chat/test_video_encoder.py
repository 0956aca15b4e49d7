"""A video is looked at once: what was made of it is kept by its content."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.text.prompt_parts import count_soft_tokens
from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.models.synthetic.video_writer import write_video
from reellama.models.token_pooling.options import PoolingOptions
from reellama.models.vision_bundle import VisionBundle
from reellama.pipeline.chat.timings import Timings
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.chat.video_encoder import VideoEncoder
from reellama.pipeline.llm.engine import Engine
from reellama.pipeline.video import file_digest
from reellama.pipeline.video.clip import Clip, read_frames
from reellama.pipeline.video.frame_sampling import select_frames
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import FrameSource, VideoError
from reellama.pipeline.video.subtitles import Subtitle
from reellama.pipeline.video.video_file import VideoFile
from tests.helpers.terminal import ROOT

OPTIONS = VideoReadOptions(frames=3, max_side=128)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The videos whose frames were read since the test began."""
    paths: list[object] = []

    def counted(source: FrameSource, *rest: Any) -> Iterator[tuple[float, np.ndarray]]:
        paths.append(source.path)
        return select_frames(source, *rest)

    monkeypatch.setattr("reellama.pipeline.video.clip.select_frames", counted)
    return paths


@pytest.fixture
def video(square_video: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(square_video, tmp_path / "square.mp4"))


@pytest.fixture
def encode(small_bundle: Path, tmp_path: Path) -> Callable[..., tuple]:
    """Look at a video as a command does that has just started."""

    def run(path: Path, options: VideoReadOptions = OPTIONS, folder: Path = small_bundle) -> tuple:
        encoder = VideoEncoder(Bundle.load(folder), ArrayCache(tmp_path / "cache"))
        return encoder.encode(path, options, Timings())[:2]

    return run


def test_a_cached_video_reads_no_frame_and_is_the_same(
    video: Path, encode: Callable[..., tuple], reads: list[object]
) -> None:
    first, made = encode(video)
    again, kept = encode(video)
    assert reads == [video]
    assert all(np.array_equal(a, b) for a, b in zip(made, kept, strict=True))
    assert (again.duration, again.notes, again.facts) == (first.duration, first.notes, first.facts)
    assert len(again.frames) == len(first.frames) and again.is_wide
    assert reads == [video], "none of this needs a frame"
    assert np.array_equal(again.frames[0], first.frames[0])


def test_a_video_is_known_by_its_content(
    video: Path, encode: Callable[..., tuple], reads: list[object], tmp_path: Path
) -> None:
    encode(video)
    copy = Path(shutil.copy(video, tmp_path / "copy.mp4"))
    encode(copy)
    assert len(reads) == 1
    with open(copy, "ab") as file:  # another box at the end: not one frame is another
        file.write(b"\0\0\0\x10free" + bytes(8))
    encode(copy)
    assert len(reads) == 2


def test_other_read_options_or_another_bundle_encode_again(
    video: Path,
    encode: Callable[..., tuple],
    reads: list[object],
    small_bundle: Path,
    tmp_path: Path,
) -> None:
    encode(video)
    encode(video, VideoReadOptions(frames=2, max_side=128))
    encode(video, VideoReadOptions(frames=3, max_side=128, start=1.0))
    assert len(reads) == 3
    other = Path(shutil.copytree(small_bundle, tmp_path / "other"))
    os.utime(other / "projector.safetensors", (1, 1))
    encode(video, folder=other)
    assert len(reads) == 4


def test_a_folder_of_pictures_is_known_by_all_of_them(
    encode: Callable[..., tuple], reads: list[object], tmp_path: Path
) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("1.png", "red"), ("2.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    encode(folder), encode(folder)
    assert len(reads) == 1
    Image.new("RGB", (40, 30), "green").save(folder / "2.png")
    encode(folder)
    assert len(reads) == 2


def test_a_large_file_is_known_by_its_date(
    video: Path, encode: Callable[..., tuple], reads: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digest, "MAX_HASHED", 100)
    encode(video), encode(video)
    assert len(reads) == 1
    os.utime(video, (1, 1))
    encode(video)
    assert len(reads) == 2
    other = video.with_name("other.mp4")
    other.write_bytes(video.read_bytes())
    os.utime(other, (1, 1))
    other.replace(video)  # another file of the same size and date
    encode(video)
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("family", "name", "pooling"),
    [("smolvlm", "one.mp4", "auto"), ("gemma3", "animation.gif", "subsample")],
)
def test_another_budget_of_what_may_be_a_still_is_encoded_anew(
    vision_model: Callable[[str], VisionModel],
    tmp_path: Path,
    family: str,
    name: str,
    pooling: str,
) -> None:
    model, file = vision_model(family), tmp_path / name
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (1 if name == "one.mp4" else 12, 224, 224, 3), dtype=np.uint8)
    if name == "one.mp4":
        write_video(file, pictures, 10.0)
    else:
        first, *others = map(Image.fromarray, pictures)
        first.save(file, save_all=True, append_images=others, duration=500)
    bundle = VisionBundle(model.llm, model.mmproj)

    def rows(cache: ArrayCache | None, tokens: int | None) -> int:
        options = PoolingOptions(tokens, pooling)
        encoder = VideoEncoder(bundle, cache)
        encoded = encoder.encode(file, VideoReadOptions(), Timings(), None, options, lambda: 3000)
        return count_soft_tokens(bundle.prompt_parts(encoded.encoded, options, 3000))

    budgets, kept = (60, 2000), ArrayCache(tmp_path / "kept")
    assert [rows(kept, tokens) for tokens in budgets] == [rows(None, tokens) for tokens in budgets]


def test_a_file_that_changes_while_it_is_looked_at_is_not_kept(
    video: Path, encode: Callable[..., tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(source: FrameSource, *rest: Any, **more: Any) -> Clip:
        clip = read_frames(source, *rest, **more)
        os.utime(source.path, (1, 1))
        return clip

    monkeypatch.setattr("reellama.pipeline.chat.video_encoder.read_frames", changed)
    encode(video)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["cut off", "no facts", "empty"])
def test_a_damaged_entry_is_made_again(
    video: Path, encode: Callable[..., tuple], reads: list[object], tmp_path: Path, damage: str
) -> None:
    _, made = encode(video)
    (entry,) = (tmp_path / "cache").iterdir()
    if damage == "no facts":
        np.savez(entry, **made._asdict())
    else:
        entry.write_bytes(entry.read_bytes()[:-50] if damage == "cut off" else b"")
    _, again = encode(video)
    assert len(reads) == 2 and np.array_equal(again.array, made.array)
    encode(video)
    assert len(reads) == 2


def test_frames_of_a_file_that_has_gone_are_an_error_for_people(
    video: Path, encode: Callable[..., tuple]
) -> None:
    encode(video)
    clip, _ = encode(video)
    video.unlink()
    with pytest.raises(VideoError, match="no such file"):
        clip.frames[0]
    with pytest.raises(VideoError, match="no such file"):
        encode(video)


def test_subtitles_in_a_file_are_kept_and_those_beside_it_are_read(
    video: Path, encode: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = Subtitle(0.0, 1.0, "inside")
    monkeypatch.setattr(VideoFile, "subtitles", lambda self: (inside,))
    assert encode(video)[0].subtitles == (inside,)
    monkeypatch.undo()
    assert encode(video)[0].subtitles == (inside,), "nobody looked into the file again"
    video.with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nbeside\n")
    (beside,) = encode(video)[0].subtitles
    assert beside.text == "beside"
    assert encode(video, replace(OPTIONS, start=1.5))[0].subtitles == ()
    assert encode(video, replace(OPTIONS, subtitles="off"))[0].subtitles == ()


def test_a_chat_answers_alike_when_its_video_is_known(
    video: Path, reads: list[object], tmp_path: Path
) -> None:
    answers = []
    for _ in range(2):
        with VideoChat(video, cache=tmp_path / "cache", n_ctx=512, n_threads=1) as video_chat:
            happens = video_chat.ask("What happens?", max_tokens=8)
            answers.append((happens, video_chat.ask("What is the resolution?")))
    assert answers[0] == answers[1] and "320 by 240" in answers[0][1]
    assert len(reads) == 1


def test_processes_that_write_at_once_and_are_killed_leave_whole_entries(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from reellama.models.array_cache import ArrayCache\n"
        "cache = ArrayCache(Path(sys.argv[1]), limit=3_000_000)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for n in range(8):\n"
        "        cache.write(str(n), rows=np.full(100_000, n, np.float32))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    cache = ArrayCache(tmp_path)
    n_entries = 0
    while n_entries < 40:
        entry = cache.read(str(n_entries % 8))
        if entry is not None:
            assert (entry["rows"] == n_entries % 8).all() and len(entry["rows"]) == 100_000
            n_entries += 1
    for writer in writers:
        writer.kill()
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    for path in tmp_path.glob("[0-7].npz"):
        assert cache.read(path.stem) is not None


def test_the_llm_is_loaded_while_frames_are_read(
    square_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = threading.Event()

    class PatientEngine(Engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert reading.wait(60), "frames were not read meanwhile"
            super().__init__(*arguments, **options)

    def noticed(*arguments: Any, **options: Any) -> Clip:
        reading.set()
        return read_frames(*arguments, **options)

    monkeypatch.setattr("reellama.pipeline.chat.video_chat.Engine", PatientEngine)
    monkeypatch.setattr("reellama.pipeline.chat.video_encoder.read_frames", noticed)
    with VideoChat(square_video, cache=None, n_ctx=512, n_threads=1) as video_chat:
        assert reading.is_set() and video_chat.ask("What happens?", max_tokens=4)


def test_an_llm_that_does_not_load_is_an_error_once_it_is_needed(
    square_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BrokenEngine(Engine):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ReellamaError("the LLM is damaged")

    monkeypatch.setattr("reellama.pipeline.chat.video_chat.Engine", BrokenEngine)
    with pytest.raises(ReellamaError, match="the LLM is damaged"):
        VideoChat()
    video_chat = VideoChat(wait=False, cache=None)
    with pytest.raises(ReellamaError, match="the LLM is damaged"):
        video_chat.add(square_video)
    video_chat.close()
