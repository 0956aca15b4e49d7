"""Files that are no video, or only part of one: one clear line, or the frames that are left."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reellama.pipeline.video import cut_off
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import SamplingMode
from reellama.pipeline.video.source import VideoError
from tests.helpers.film import number, numbered, steady, write_film, write_sound

SAMPLINGS: list[SamplingMode] = ["uniform", "keyframes", "scenes"]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", steady(4))


@pytest.fixture(scope="module")
def web_film(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Path:
    """The same film with its index in front, so that a part of it can be played."""
    path = tmp_path_factory.mktemp("film") / "web.mp4"
    with av.open(film) as source, av.open(path, "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def refusal(path: Path, **options) -> str:
    """The message with which `path` is refused: one line that names the file."""
    with pytest.raises(VideoError) as error:
        read_frames(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_text_renamed_to_mp4_is_refused(tmp_path: Path):
    path = tmp_path / "notes.mp4"
    path.write_text("Dear diary,\nthis is not a video.\n" * 50)
    assert "not a video or picture that FFmpeg can read" in refusal(path)


def test_plain_text_is_refused(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary,\n" * 50)
    assert "not a video" in refusal(path)


def test_a_file_with_sound_alone_is_refused(tmp_path: Path):
    assert "has sound but no video" in refusal(write_sound(tmp_path / "song.m4a"))


def test_a_cover_picture_does_not_make_a_song_a_video(tmp_path: Path):
    plain, path = write_sound(tmp_path / "plain.m4a"), tmp_path / "song.mp4"
    with av.open(plain) as source, av.open(path, "w") as target:
        sound = target.add_stream_from_template(source.streams.audio[0])
        cover = target.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 160, 120, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        target.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1), "rgb24")))
        target.mux(cover.encode(None))
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                target.mux(packet)
    assert "has sound but no video" in refusal(path)


def test_an_empty_file_is_refused(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    assert "the file is empty (0 bytes)" in refusal(tmp_path / "empty.mp4")


def test_a_missing_file_is_refused(tmp_path: Path):
    assert "no such file" in refusal(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("url", ["https://example.org/a.mp4", "rtsp://camera/1"])
def test_a_url_is_not_fetched(url: str):
    with pytest.raises(VideoError) as refused:
        read_frames(Path(url))
    # As it was typed: a path has one slash after the colon.
    assert str(refused.value).startswith(f"{url}: this is a URL, and nothing is fetched")


def test_a_folder_without_pictures_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no picture")
    assert "no pictures in this folder" in refusal(tmp_path)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions do not bind root, so act as nobody meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("kind", ["film.mp4", "folder"])
def test_a_video_without_permission_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    else:
        write_film(path, steady(0.5))
    path.chmod(0)
    try:
        with unprivileged():
            assert "permission" in refusal(path)
    finally:
        path.chmod(0o700)


def test_a_start_past_the_end_of_a_video_is_refused(film: Path, tmp_path: Path):
    assert "start (90 s) is past the end of the video (4.0 s)" in refusal(film, start=90)
    Image.fromarray(numbered(1)).save(tmp_path / "still.png")
    assert "past the end" in refusal(tmp_path / "still.png", start=1)


def test_an_mp4_cut_off_before_its_index_is_refused(film: Path, tmp_path: Path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert "cut off or damaged" in refusal(path)


def test_an_mp4_whose_index_leads_to_no_frame_is_refused(web_film: Path, tmp_path: Path):
    data = web_film.read_bytes()
    path = tmp_path / "head.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 20])
    assert "the file is cut off or damaged" in refusal(path)


def test_a_download_that_broke_off_in_its_header_is_cut_off(web_film: Path, tmp_path: Path):
    data, path = web_film.read_bytes(), tmp_path / "cut.mp4"
    for length in range(8, data.index(b"mdat"), 31):
        path.write_bytes(data[:length])
        assert "cut off or damaged" in refusal(path), length


@pytest.mark.parametrize(
    ("kind", "length", "codec"),
    [
        ("mkv", 100, "libx264"),
        ("avi", 2000, "libx264"),
        ("flv", 100, "libx264"),
        ("ts", 300, "libx264"),
        ("wmv", 300, "wmv2"),
        ("mxf", 300, "mpeg2video"),
    ],
)
def test_other_containers_cut_off_in_their_headers_are_refused(
    tmp_path: Path, kind: str, length: int, codec: str
):
    rate = 25 if kind == "mxf" else 10
    times = [i / rate for i in range(rate)]
    whole = write_film(tmp_path / f"film.{kind}", times, codec=codec, rate=rate)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole.read_bytes()[:length])
    assert "cut off or damaged" in refusal(path)


def test_frames_that_the_end_of_a_file_lacks_are_not_called_the_same(tmp_path: Path):
    whole = write_film(tmp_path / "film.flv", steady(4), gop=20).read_bytes()
    path = tmp_path / "cut.flv"
    path.write_bytes(whole[: len(whole) // 2])
    assert not any("would be the same" in note for note in read_frames(path, frames=8).notes)


def test_a_second_film_in_an_flv_is_found_wherever_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "film.flv", steady(1)).read_bytes()
    two = tmp_path / "two.flv"
    two.write_bytes(film + film)
    for n_bytes in (7, 64, len(film) - 13, len(film)):
        monkeypatch.setattr(cut_off, "_PIECE_BYTES", n_bytes)
        assert cut_off.film_follows(two) and not cut_off.film_follows(tmp_path / "film.flv")


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_what_is_left_of_a_file_that_breaks_off_comes_back(
    web_film: Path, tmp_path: Path, kind: str
):
    whole = web_film if kind == "mp4" else write_film(tmp_path / "film.mkv", steady(4))
    data = whole.read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: len(data) * 7 // 10])
    clip = read_frames(path, frames=4)
    assert len(clip.frames) == 4
    assert 1.0 < clip.duration < 3.5
    assert [number(f) for f in clip.frames] == [round(time * 10) for time in clip.times]
    assert "the file breaks off after" in clip.notes[0]
    assert clip.notes[0].endswith("of 4.0 s")


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("avi", "mpeg4"),
        ("wmv", "wmv2"),
        ("mxf", "mpeg2video"),
        ("ts", "libx264"),
        ("m2ts", "libx264"),
        ("ogv", "libvpx"),
    ],
)
def test_a_container_that_knows_its_end_tells_where_it_breaks_off(
    tmp_path: Path, kind: str, codec: str
):
    whole = write_film(tmp_path / f"film.{kind}", steady(4, 25), codec=codec, rate=25)
    assert read_frames(whole, frames=4).notes == ()
    path, size = tmp_path / f"cut.{kind}", whole.stat().st_size
    for kept in (size * 6 // 10, size * 8 // 10 + 100):
        path.write_bytes(whole.read_bytes()[:kept])
        clip = read_frames(path, frames=4)
        assert f"the file breaks off after {clip.duration:.1f} s" in clip.notes
        assert 1.0 < clip.duration < 3.9
        assert [number(f) for f in clip.frames] == [round(time * 25) for time in clip.times]


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("wmv", "wmv2"), ("flv", "libx264")]
)
def test_a_film_behind_the_end_of_another_is_noted(tmp_path: Path, kind: str, codec: str):
    film = write_film(tmp_path / f"film.{kind}", steady(2), codec=codec).read_bytes()
    path = tmp_path / f"twice.{kind}"
    path.write_bytes(film + film)
    assert any("another film follows" in note for note in read_frames(path, frames=4).notes)
    path.write_bytes(film + bytes(1000))  # padding is none
    assert not any("follows" in note for note in read_frames(path, frames=4).notes)


@pytest.mark.parametrize("kind", ["avi", "mpg", "ogv"])
def test_films_put_together_are_read_where_their_format_allows_it(tmp_path: Path, kind: str):
    codec = {"avi": "mpeg4", "mpg": "mpeg1video", "ogv": "libvpx"}[kind]
    film = write_film(tmp_path / f"film.{kind}", steady(2, 25), codec=codec, rate=25).read_bytes()
    path = tmp_path / f"twice.{kind}"
    path.write_bytes(film + film)
    clip = read_frames(path, frames=8)
    assert clip.duration == pytest.approx(4.0, abs=0.2)
    assert clip.notes == ()


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"#EXTM3U\n#EXTINF:5,\nfilm.mp4\n", "a playlist"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "a playlist"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed by gzip"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "a drawing"),
    ],
)
def test_what_a_file_is_that_is_no_video(tmp_path: Path, head: bytes, what: str):
    path = tmp_path / "film.mp4"
    path.write_bytes(head)
    assert what in refusal(path)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.mp4",
        "HTTPS://example.com/a.mp4",
        "s3://bucket/a.mp4",
        "data:video/mp4;base64,AAAA",
        "www.example.com/a.mp4",
        "youtube.com/watch?v=abc",
    ],
)
def test_a_url_is_refused_as_one(url: str):
    with pytest.raises(VideoError, match="this is a URL, and nothing is fetched") as error:
        read_frames(Path(url))
    assert str(error.value).startswith(url)


def test_a_file_url_is_answered_with_its_path(film: Path):
    with pytest.raises(VideoError, match="give the path: /tmp/a b.mp4"):
        read_frames("file:///tmp/a%20b.mp4")


@pytest.mark.parametrize("name", ["12:30.mp4", "http:film.mp4", "100%d.mp4", "a\nb.mp4", "-x.mp4"])
def test_names_that_mean_something_to_ffmpeg_or_a_shell_are_read_as_names(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(film.read_bytes())
    assert len(read_frames(name, frames=4).frames) == 4


def test_damage_in_the_middle_costs_only_what_it_hits(film: Path, tmp_path: Path):
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path = tmp_path / "scratched.mp4"
    path.write_bytes(data)
    clip = read_frames(path, frames=40)
    numbers = [number(frame) for frame in clip.frames]
    assert numbers[:5] == list(range(5))
    assert numbers[-5:] == list(range(35, 40))


def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "this picture" in refusal(path)


def test_an_animation_that_breaks_off_gives_what_it_has(tmp_path: Path):
    path = tmp_path / "a.gif"
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(frame) for frame in noise]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1 <= len(read_frames(path, frames=8).frames) <= 5


def test_ffmpeg_keeps_quiet(film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    data = bytearray(film.read_bytes())
    data[len(data) // 3 : len(data) // 2] = os.urandom(len(data) // 2 - len(data) // 3)
    path = tmp_path / "noise.mp4"
    path.write_bytes(data)
    read_frames(path, frames=40)
    refusal(tmp_path / "nowhere.mp4")
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    flips=st.integers(0, 40),
    keep=st.floats(0.05, 1.0),
    front=st.booleans(),
)
def test_random_damage_gives_frames_or_a_video_error(
    web_film: Path, tmp_path_factory: pytest.TempPathFactory, seed, flips, keep, front
):
    data = bytearray(web_film.read_bytes())
    rng = random.Random(seed)
    reach = data.index(b"mdat") if front else len(data)  # the headers are where it gets dangerous
    for _ in range(flips):
        data[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    path = tmp_path_factory.getbasetemp() / "fuzzed.mp4"
    path.write_bytes(data[: max(1, int(len(data) * keep))])
    sampling = rng.choice(SAMPLINGS)
    try:
        clip = read_frames(path, frames=6, sampling=sampling, max_side=64)
    except VideoError:
        return
    assert 1 <= len(clip.frames) <= 6
    assert np.all(np.diff(clip.times) > 0)


def test_a_wmv_whose_size_is_beyond_every_file_is_read(tmp_path: Path):
    path = write_film(tmp_path / "film.wmv", steady(2), codec="wmv2")
    data = bytearray(path.read_bytes())
    size = data.index(len(data).to_bytes(8, "little"))  # of the file, by its properties
    data[size : size + 8] = b"\xff" * 8
    path.write_bytes(data)
    clip = read_frames(path, frames=4)
    assert len(clip.frames) == 4
    assert any("breaks off" in note for note in clip.notes)
