"""Long videos: scenes with times, in every format, questions about one of them, and search."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.pipeline.long_video import video_index
from reellama.pipeline.long_video.timeline import LongVideo, Timeline, TimelineScene
from reellama.pipeline.long_video.timeline_formats import WRITERS, to_markdown, to_srt, to_vtt
from reellama.pipeline.long_video.video_index import VideoIndex, index_video, ordinary_texts, search
from reellama.pipeline.video.container import Container
from reellama.pipeline.video.source import VideoError
from reellama.pipeline.video.subtitles import WRITTEN_BY_US
from tests.helpers.film import corners, steady, write_film
from tests.helpers.ollama_server import serve

pytestmark = pytest.mark.numeric

# What each scene of the film shows: a shape on a ground, and the ground's colour.
SCENES = [
    ("red star", (40, 60, 160)),
    ("green square", (220, 210, 190)),
    ("blue ball", (90, 40, 30)),
]
SECONDS = 4


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds: three scenes of four, in each of which another shape moves right."""
    from reellama.models.synthetic.assets.pictures import load_pictures

    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for kind, ground in SCENES:
            (picture,) = load_pictures(("shapes",), kinds=[kind])
            rgba = np.asarray(Image.fromarray(picture.rgba).resize((90, 90)), np.float32)
            alpha = rgba[..., 3:] / 255
            for left in np.linspace(0, 230, 10 * SECONDS).astype(int):
                canvas = np.full((240, 320, 3), ground, np.float32)
                place = canvas[75:165, left : left + 90]
                place[:] = alpha * rgba[..., :3] + (1 - alpha) * place
                frame = av.VideoFrame.from_ndarray(canvas.astype(np.uint8), "rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("moments")


@pytest.fixture(scope="module")
def long_video(cache: Path) -> Iterator[LongVideo]:
    with LongVideo(n_threads=1, cache=cache) as long_video:
        yield long_video


@pytest.fixture(scope="module")
def mini(long_video: LongVideo) -> Bundle:
    assert isinstance(long_video.bundle, Bundle)
    return long_video.bundle


@pytest.fixture(scope="module")
def timeline(film: Path, long_video: LongVideo) -> Timeline:
    return long_video.timeline(film)


def test_scenes_are_cut_where_the_picture_changes(timeline: Timeline) -> None:
    borders = [scene.start for scene in timeline.scenes]
    assert borders == pytest.approx([0, 4, 8], abs=0.5)
    assert timeline.scenes[-1].end == pytest.approx(12, abs=0.2)
    for before, after in pairwise(timeline.scenes):
        assert before.end == after.start


def test_each_scene_says_what_it_shows(timeline: Timeline) -> None:
    words = [scene.text.lower() for scene in timeline.scenes]
    assert all(words)
    assert [kind.split()[1] in said for (kind, _), said in zip(SCENES, words, strict=True)] == [
        True
    ] * 3
    assert timeline.summary


def test_a_question_is_answered_from_its_scene(film: Path, long_video: LongVideo) -> None:
    found = long_video.ask(film, "Which way does the red star move?")
    assert len(found) == 3
    assert [found[0].start, found[0].end] == pytest.approx([0, 4], abs=0.5)
    assert "right" in found[0].text


def test_words_find_their_moment(film: Path, mini: Bundle, cache: Path) -> None:
    moments = index_video(film, mini, cache=cache)
    for i, (kind, _) in enumerate(SCENES):
        best = search([moments], f"a {kind}", mini)[0]
        assert SECONDS * i <= best.time < SECONDS * (i + 1), kind


def test_a_kept_index_opens_no_frame(
    film: Path, mini: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_video(film, mini, cache=cache)
    monkeypatch.setattr(
        "reellama.pipeline.long_video.video_index._build_index",
        lambda *_: pytest.fail("looked again"),
    )
    second = index_video(film, mini, cache=cache)
    assert np.array_equal(first.embeddings, second.embeddings)
    assert np.array_equal(first.times, second.times)


def test_a_damaged_cache_is_looked_past(film: Path, mini: Bundle, tmp_path: Path) -> None:
    first = index_video(film, mini, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(index_video(film, mini, cache=tmp_path).times, first.times)


def test_old_indexes_make_room_for_new_ones(film: Path, mini: Bundle, tmp_path: Path) -> None:
    for name, size, age in (("old.npz", 1 << 30, 100), ("older.npz", 1 << 20, 200)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, size)  # a file of holes
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    index_video(film, mini, cache=tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1 << 20


def test_fewer_scenes_keep_the_strongest_cuts(film: Path, mini: Bundle, cache: Path) -> None:
    moments = index_video(film, mini, cache=cache)
    assert len(moments.scenes(2, 2.0)) == 2
    assert len(moments.scenes(99, 5.0)) == 1  # no two cuts are further from the ends
    for max_scenes in range(1, 5):
        scenes = moments.scenes(max_scenes, 0.1)
        assert scenes[0][0] == 0 and scenes[-1][1] == moments.duration
        assert all(a[1] == b[0] for a, b in pairwise(scenes))


def index_of(duration: float, cuts: Sequence[float] = ()) -> VideoIndex:
    """A frame every ten seconds, of pictures that change their colours at `cuts`."""
    times = np.arange(0.0, duration, 10.0)
    shade = np.searchsorted(cuts, times, "right") % 2
    colours = np.repeat(shade[:, None], 51, axis=1).astype(np.float32)
    return VideoIndex(Path("film.mp4"), duration, times, colours, np.zeros((len(times), 0)))


def test_an_hour_without_cuts_is_cut_in_minutes() -> None:
    scenes = index_of(3600.0).scenes(300, 2.0)
    assert scenes == [(60.0 * i, 60.0 * (i + 1)) for i in range(60)]


def test_only_scenes_that_are_too_long_are_cut_and_at_their_cuts_first() -> None:
    scenes = index_of(200.0, cuts=[20, 50]).scenes(300, 2.0)
    assert scenes == [(0, 20), (20, 50), (50, 100), (100, 150), (150, 200)]


def test_pieces_keep_to_the_number_and_the_length_that_were_asked_for() -> None:
    film = index_of(3600.0, cuts=[600])
    for max_scenes, min_seconds in ((1, 2.0), (2, 2.0), (7, 2.0), (300, 90.0), (300, 700.0)):
        scenes = film.scenes(max_scenes, min_seconds)
        lengths = [end - start for start, end in scenes]
        assert len(scenes) <= max_scenes and min(lengths) >= min_seconds
        assert scenes[0][0] == 0 and scenes[-1][1] == 3600
        assert all(a[1] == b[0] for a, b in pairwise(scenes))
    longest_first = film.scenes(5, 2.0)
    assert [end - start for start, end in longest_first] == [600, 750, 750, 750, 750]


def test_the_timeline_of_a_still_film_has_several_times(
    tmp_path: Path, long_video: LongVideo
) -> None:
    still = write_film(tmp_path / "still.mp4", steady(150, rate=1), rate=1, draw=corners)
    made = long_video.timeline(still)
    assert [scene.start for scene in made.scenes] == pytest.approx([0, 50, 100], abs=1)
    assert all(scene.text for scene in made.scenes)


def test_a_file_that_is_no_video_is_reported(mini: Bundle, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(VideoError, match=r"notes.mp4"):
        index_video(tmp_path / "notes.mp4", mini, cache=None)


NASTY = Timeline(
    Path("a|b <x>.mp4"),
    7300.0,
    (
        TimelineScene(0, 61.25, 30, "One --> two\n\nthree & <b>"),
        TimelineScene(61.25, 7300, 4000, "A | pipe."),
    ),
    "Sum.",
)


def test_subtitles_are_what_players_read() -> None:
    srt = to_srt(NASTY).split("\n\n")
    assert srt[0] == f"1\n00:00:00,000 --> 00:01:01,250\nOne -> two three & <b>{WRITTEN_BY_US}"
    assert srt[1].startswith("2\n00:01:01,250 --> 02:01:40,000\n")
    vtt = to_vtt(NASTY)
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:01:01.250\nOne -> two three &amp; &lt;b>")


def test_markdown_has_a_row_a_scene() -> None:
    rows = [line for line in to_markdown(NASTY).splitlines() if line.startswith("| 0:0")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 4
    assert "![0:30.0](p/1.jpg)" in to_markdown(NASTY, ["p/1.jpg", "p/2.jpg"])


def test_ffmpeg_reads_the_subtitles(tmp_path: Path) -> None:
    for form in ("srt", "vtt"):
        path = tmp_path / f"a.{form}"
        path.write_text(WRITERS[form](NASTY))
        with av.open(path) as container:
            (stream,) = container.streams.subtitles
            assert sum(bool(packet.size) for packet in container.demux(stream)) == 2


def test_the_command_writes_any_format_and_thumbnails(
    reellama: Callable, film: Path, tmp_path: Path
) -> None:
    shown = reellama("timeline", film, "--threads", "1")
    assert shown.status == 0
    assert len(re.findall(r"^\d:\d\d\.\d - \d", shown.out, re.MULTILINE)) == 3
    out = tmp_path / "film.md"
    assert reellama("timeline", film, "--out", out, "--thumbnails", "--threads", "1").status == 0
    pictures = re.findall(r"\((film-pictures/\d+\.jpg)\)", out.read_text())
    assert len(pictures) == 3 and all((tmp_path / each).is_file() for each in pictures)
    data = json.loads(reellama("timeline", film, "--format", "json", "--threads", "1").out)
    assert [scene["start"] for scene in data["scenes"]] == pytest.approx([0, 4, 8], abs=0.5)
    assert reellama("timeline", film, "--format", "xml").status == 2


def test_the_command_answers_with_times(reellama: Callable, film: Path) -> None:
    result = reellama("timeline", film, "--ask", "Where does the red star go?", "--threads", "1")
    assert result.status == 0
    assert re.match(r"0:00\.0 - 0:0[34]\.\d  .*right", result.out)


def test_search_prints_score_time_and_file(reellama: Callable, film: Path, tmp_path: Path) -> None:
    result = reellama("search", film, "a green square", "-n", "2")
    assert result.status == 0
    score, time, path = result.out.splitlines()[0].split()
    assert 0 < float(score) <= 1 and "0:04.0" <= time < "0:08.0" and path == str(film)
    found = reellama("search", film, "a blue ball", "--json", "--thumbnails", tmp_path / "t")
    (first, *_) = json.loads(found.out)
    assert 8 <= first["time"] < 12 and Path(first["thumbnail"]).is_file()
    missing = reellama("search", tmp_path / "gone.mp4", "a dog")
    assert missing.status == 1 and "gone.mp4" in missing.err


def test_search_says_when_nothing_fits(reellama: Callable, film: Path) -> None:
    result = reellama("search", film, "a xylophone")
    assert (result.status, result.out) == (0, "")
    assert 'nothing fits "a xylophone"; --all shows' in result.err
    assert len(reellama("search", film, "a xylophone", "--all").out.splitlines()) == 3


def test_a_score_is_the_share_of_ordinary_words_that_fit_less_well(mini: Bundle) -> None:
    ordinary = mini.embed_texts(ordinary_texts(mini))
    wanted = mini.embed_texts(["a red star"])[0]
    index = VideoIndex(
        Path("x"), 3.0, np.arange(3.0), np.zeros((3, 51)), np.stack([wanted, -wanted, 0 * wanted])
    )
    best, *others = search([index], "a red star", mini, n=3)
    assert best.score == pytest.approx(np.mean(ordinary @ wanted < wanted @ wanted))
    assert [match.score for match in others] == [0.0, 0.0] or len(others) == 0
    assert [match.time for match in search([index], "a red star", mini, min_score=0.9)] == [0.0]


def test_a_model_of_ollamas_retells_and_answers_from_the_notes(
    reellama: Callable, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"talker": ["completion"]}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        server.answer = ["Three ", "things move."]
        with_talker = ("timeline", film, "--threads", "1", "--llm", "ollama:talker")
        assert reellama(*with_talker).out.startswith("Three things move.\n")
        answered = reellama(*with_talker, "--ask", "Where does the red star go?")
        assert answered.out == "Three things move.\n"
        missing = reellama("timeline", film, "--llm", "ollama:nobody")
        assert missing.status == 1 and "ollama pull nobody" in missing.err
    for chat, word in zip(server.chats, ("Summarize", "red star"), strict=True):
        notes, asked = (message["content"] for message in chat["messages"])
        assert "0:00.0 to 0:04" in notes and word in asked


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a video was opened since the test began.

    An open video has two handles: one decodes, one looks at packets. To go back to the start of a
    handle FFmpeg has to open it anew, which closes it first.
    """
    opened: list[str] = []
    rewound: list[Path] = []
    open_file, rewind = av.open, Container._rewind

    def count(file: str, **options: Any) -> Any:
        opened.append(file)
        return open_file(file, **options)

    def count_rewinds(self: Container) -> None:
        rewound.append(self.path)
        rewind(self)

    monkeypatch.setattr("reellama.pipeline.video.container.av.open", count)
    monkeypatch.setattr(Container, "_rewind", count_rewinds)
    return lambda: (len(opened) - len(rewound)) // 2


def test_a_timeline_opens_the_file_once_for_index_scenes_and_thumbnails(
    reellama: Callable, film: Path, tmp_path: Path, openings: Callable[[], int]
) -> None:
    out = tmp_path / "film.md"
    arguments = ("timeline", film, "--no-cache", "--out", out, "--thumbnails", "--threads", "1")
    assert reellama(*arguments).status == 0
    assert len(list((tmp_path / "film-pictures").iterdir())) == 3
    assert openings() == 1


def test_a_search_opens_a_file_once_for_all_thumbnails_of_it(
    reellama: Callable, film: Path, tmp_path: Path, openings: Callable[[], int]
) -> None:
    words = ("search", film, "a red star", "--all", "-n", "3")
    assert reellama(*words).status == 0
    looked = openings()
    assert reellama(*words, "--thumbnails", tmp_path).status == 0
    assert len(list(tmp_path.glob("*.jpg"))) > 1
    assert openings() == 2 * looked + 1


def test_a_second_search_of_more_videos_than_the_cache_holds_finds_the_first_of_them(
    reellama: Callable, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [tmp_path / f"{i}.mp4" for i in range(4)]
    for video in videos:
        video.write_bytes(film.read_bytes())
    monkeypatch.setattr(video_index, "CACHE_FOLDER", tmp_path / "indexes")
    build, built = video_index._build_index, []

    def counted(source: Any, path: Path, *rest: Any) -> VideoIndex:
        built.append(path.name)
        return build(source, path, *rest)

    monkeypatch.setattr(video_index, "_build_index", counted)
    assert reellama("search", videos[0], "a red star").status == 0
    (kept,) = (tmp_path / "indexes").iterdir()
    limit = int(2.5 * kept.stat().st_size)
    monkeypatch.setattr(ArrayCache.__init__, "__defaults__", (limit,))
    assert reellama("search", *videos, "a red star").status == 0
    built.clear()
    assert reellama("search", *videos, "a red star").status == 0
    assert built == ["2.mp4", "3.mp4"]
