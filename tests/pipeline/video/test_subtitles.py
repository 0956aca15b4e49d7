"""Subtitles in a file or beside it come with their times, and answer what is said."""

from pathlib import Path

import av
import pytest
from av.packet import Packet

from reellama.pipeline.chat.subtitle_answers import (
    answer_from_subtitles,
    as_text,
    asks_of_subtitles,
    between,
)
from reellama.pipeline.long_video.timeline import Timeline, TimelineScene
from reellama.pipeline.long_video.timeline_formats import to_srt, to_vtt
from reellama.pipeline.video.clip import open_video
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.subtitles import Subtitle, _words, read_subtitles
from tests.helpers.film import steady, write_film

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> there,
how are you?

2
00:00:03,000 --> 00:00:04,000
{\\an8}Fine, thanks.
"""
VTT = "WEBVTT\n\n" + SRT.replace(",000", ".000").replace(",500", ".500")
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}Hello{\\i0} there,\\Nhow are you?
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Fine, thanks.
"""
LINES = (Subtitle(1.0, 2.5, "Hello there, how are you?"), Subtitle(3.0, 4.0, "Fine, thanks."))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "talk.mp4", steady(5))


def with_track(film: Path, path: Path, text: str, ending: str, later: float = 0.0) -> Path:
    """The film with subtitles as a track of the container, all of it `later` seconds."""
    written = path.with_name(f"words.{ending}")
    written.write_text(text)
    with av.open(film) as source, av.open(written) as words, av.open(path, "w") as target:
        tracks = {
            stream: target.add_stream_from_template(stream)
            for stream in (source.streams.video[0], words.streams.subtitles[0])
        }
        packets: list[Packet] = []
        for container, (stream, track) in zip((source, words), tracks.items(), strict=True):
            for packet in container.demux(stream):
                if packet.pts is not None and packet.dts is not None:
                    shift = round(later / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = track
                    packets.append(packet)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            target.mux(packet)
    written.unlink()
    return path


@pytest.mark.parametrize(("ending", "text"), [("srt", SRT), ("vtt", VTT), ("ass", ASS)])
@pytest.mark.parametrize("name", ["talk", "talk.en", "talk.mp4"])
def test_a_file_beside_the_video_is_read(film: Path, name: str, ending: str, text: str) -> None:
    beside = film.with_name(f"{name}.{ending}")
    beside.write_text(text)
    try:
        assert read_subtitles(film) == LINES
    finally:
        beside.unlink()


@pytest.mark.parametrize(("ending", "text"), [("srt", SRT), ("ass", ASS), ("vtt", VTT)])
def test_a_track_of_the_container_is_read(
    film: Path, tmp_path: Path, ending: str, text: str
) -> None:
    assert read_subtitles(with_track(film, tmp_path / "a.mkv", text, ending)) == LINES


def test_times_count_from_the_first_frame(film: Path, tmp_path: Path) -> None:
    with open_video(with_track(film, tmp_path / "late.mkv", SRT, "srt", later=20)) as video:
        assert video.subtitles() == LINES


def test_text_of_an_mp4_has_its_length_before_it() -> None:
    text = "Déjà vu".encode()
    assert _words(len(text).to_bytes(2, "big") + text + b"\0\0styl", "mov_text") == "Déjà vu"


def test_a_video_without_subtitles_has_none(film: Path, tmp_path: Path) -> None:
    assert read_subtitles(film) == ()
    (tmp_path / "a.srt").write_bytes(b"\x00\xff" * 99)
    assert read_subtitles(tmp_path / "a.mp4") == ()


def test_what_a_timeline_wrote_is_not_taken_for_speech(film: Path) -> None:
    scenes = (TimelineScene(0, 2, 1, "A dog runs."), TimelineScene(2, 5, 3, "A cat."))
    for ending, write in (("srt", to_srt), ("vtt", to_vtt)):
        beside = film.with_suffix(f".{ending}")
        beside.write_text(write(Timeline(film, 5.0, scenes, "")))
        assert read_subtitles(film) == ()
        beside.unlink()


def test_old_encodings_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\nVoilà\n".encode("cp1252"))
    assert [line.text for line in read_subtitles(tmp_path / "a.mp4")] == ["Voilà"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is said at 0:01.5?", 'At 0:01.0 the subtitles say: "Hello there, how are you?"'),
        ("What do they say at 3 seconds?", 'At 0:03.0 the subtitles say: "Fine, thanks."'),
        ("what does the man say in the video around 0:03", "Fine, thanks."),
        ("What is said at 1:00?", "The subtitles say nothing at 1:00.0; the nearest line is at"),
        (
            "What is said in the video?",
            'The subtitles say: 0:01.0 "Hello there, how are you?", ',
        ),
        ("What are the subtitles?", "Fine, thanks."),
        ('When do they say "Hello"?', 'The subtitles say "hello" at 0:01.0.'),
        ("When is “goodbye” said?", 'The subtitles never say "goodbye".'),
    ],
)
def test_what_is_said_is_answered_word_for_word(question: str, answer: str) -> None:
    assert answer in (answer_from_subtitles(question, LINES) or "")


@pytest.mark.parametrize("question", ["What happens?", "What does the sign say?", "What is it?"])
def test_other_questions_are_left_to_the_model(question: str) -> None:
    assert answer_from_subtitles(question, LINES) is None
    assert answer_from_subtitles("What is said?", ()) is None


def test_a_question_for_subtitles_is_known_before_a_video_is_opened() -> None:
    assert asks_of_subtitles("What is said at 0:12?") and asks_of_subtitles('When is "a" said?')
    assert not asks_of_subtitles("What happens?")


def test_the_lines_are_those_of_the_part_that_is_looked_at() -> None:
    assert between(LINES, VideoReadOptions(start=2.6)) == LINES[1:]
    assert between(LINES, VideoReadOptions(end=2.6)) == LINES[:1]


def test_a_prompt_has_room_for_all_lines_or_for_some_of_all_of_the_video() -> None:
    assert as_text(LINES, 256) == (
        "Subtitles:\n[0:01.0] Hello there, how are you?\n[0:03.0] Fine, thanks.\n"
    )
    many = [Subtitle(i, i + 1, f"line {i}") for i in range(1000)]
    text = as_text(many, 512)
    assert len(text) <= 600 and text.count("\n") > 10
    assert "line 0" in text and "line 9" in text.splitlines()[-1]
    assert as_text((), 512) == ""
