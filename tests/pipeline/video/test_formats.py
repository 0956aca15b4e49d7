"""Containers, animations, stills and folders; turned, mirrored, and with oblong pixels."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.images import natural_key
from reellama.pipeline.video.pictures.geometry import display_size
from reellama.pipeline.video.source import VideoError
from tests.helpers.film import (
    HEIGHT,
    WIDTH,
    corners,
    number,
    numbered,
    set_display_matrix,
    steady,
    write_film,
)

FILMS = [
    ("film.mp4", "libx264"),
    ("film.mkv", "libx264"),
    ("film.mov", "mpeg4"),
    ("film.avi", "mpeg4"),
    ("vp8.webm", "libvpx"),
    ("vp9.webm", "libvpx-vp9"),
    ("film.ts", "libx264"),
    ("film.flv", "libx264"),
    ("bare.h264", "libx264"),
    ("film.3gp", "mpeg4"),
    ("film.wmv", "wmv2"),
    ("film.ogv", "libvpx"),
    ("camera.m2ts", "libx264"),
    ("dvd.vob", "mpeg2video"),
    ("studio.mxf", "mpeg2video"),
]
# MPEG-2 knows no ten frames a second.
RATES = {"mpeg2video": 25}


def colours(rgb: np.ndarray) -> str:
    """The corners of a picture by name: "rg/bw" as it was drawn."""
    names = {(True, False, False): "r", (False, True, False): "g", (False, False, True): "b"}
    names[True, True, True] = "w"
    height, width = rgb.shape[:2]
    points = [(y * height // 4, x * width // 4) for y in (1, 3) for x in (1, 3)]
    a, b, c, d = (names[tuple((rgb[point] > 127).tolist())] for point in points)
    return f"{a}{b}/{c}{d}"


@pytest.mark.parametrize(("name", "codec"), FILMS)
def test_films_of_every_container_and_codec_are_read(tmp_path: Path, name: str, codec: str):
    rate = RATES.get(codec, 10)
    path = write_film(tmp_path / name, steady(4, rate), codec=codec, rate=rate)
    clip = read_frames(path, frames=4)
    assert clip.notes == ()
    assert clip.duration == pytest.approx(4.0, abs=0.15)
    assert clip.times == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.11)
    numbers = [number(frame) for frame in clip.frames]
    assert numbers == pytest.approx([rate * t for t in (0.5, 1.5, 2.5, 3.5)], abs=rate - 10)
    every = read_frames(path, frames=199).frames
    assert [number(frame) for frame in every] == list(range(4 * rate))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animated_pictures_keep_their_own_pace(tmp_path: Path, name: str):
    pictures = [Image.fromarray(numbered(i)) for i in range(6)]
    milliseconds = [100, 100, 100, 100, 600, 1000]
    path = tmp_path / name
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds)
    clip = read_frames(path, frames=99)
    assert [number(frame) for frame in clip.frames] == list(range(6))
    assert clip.times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 1.0])
    assert clip.duration == pytest.approx(2.0)
    assert clip.notes == ("asked for 99 frames, the file has 6",)
    assert [number(frame) for frame in read_frames(path, frames=2).frames] == [4, 5]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff"])
def test_a_still_picture_is_one_frame(tmp_path: Path, name: str):
    Image.fromarray(numbered(1234)).save(tmp_path / name)
    clip = read_frames(tmp_path / name)
    assert [number(frame) for frame in clip.frames] == [1234]
    assert clip.times.tolist() == [0.0]
    assert clip.duration == 0.0
    assert clip.notes == ()


def test_a_photo_is_turned_as_the_camera_says(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: to be turned a quarter to the right
    Image.fromarray(corners()).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    (photo,) = read_frames(tmp_path / "photo.jpg").frames
    assert photo.shape == (WIDTH, HEIGHT, 3)
    assert colours(photo) == "br/wg"


def test_a_film_of_photos_is_turned_as_the_camera_says(tmp_path: Path):
    for orientation, expected in {1: "rg/bw", 3: "wb/gr", 6: "br/wg", 8: "gw/rb"}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.mjpeg"
        Image.fromarray(corners()).save(path, format="JPEG", exif=exif, quality=95)
        (photo,) = read_frames(path).frames
        assert colours(photo) == expected


def test_what_is_transparent_shows_white(tmp_path: Path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "glass.png")
    assert read_frames(tmp_path / "glass.png").frames[0].min() == 255


def test_a_folder_is_read_in_natural_order_one_second_apart(tmp_path: Path):
    for i in [1, 2, 9, 10, 11, 100]:
        Image.fromarray(numbered(i)).save(tmp_path / f"img{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".img0.png").write_text("hidden")
    clip = read_frames(tmp_path, frames=6)
    assert [number(frame) for frame in clip.frames] == [1, 2, 9, 10, 11, 100]
    assert clip.times.tolist() == [0, 1, 2, 3, 4, 5]
    assert clip.duration == 6.0
    assert [number(f) for f in read_frames(tmp_path, frames=2).frames] == [2, 11]
    assert [number(f) for f in read_frames(tmp_path, start=4).frames] == [11, 100]


def test_a_damaged_picture_in_a_folder_is_left_out_and_named(tmp_path: Path):
    for i in range(3):
        Image.fromarray(numbered(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    clip = read_frames(tmp_path, frames=3)
    assert [number(frame) for frame in clip.frames] == [0, 2]
    assert "1.png" in clip.notes[0]


def test_names_are_sorted_in_natural_order():
    names = ["b1", "a10", "a2", "A1", "a", "7", "a02x"]
    ordered = sorted(map(Path, names), key=natural_key)
    assert [path.name for path in ordered] == ["7", "a", "A1", "a2", "a02x", "a10", "b1"]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), "rg/bw"),
        ((0, 1, -1, 0), "br/wg"),  # a quarter to the right
        ((-1, 0, 0, -1), "wb/gr"),
        ((0, -1, 1, 0), "gw/rb"),
        ((-1, 0, 0, 1), "gr/wb"),  # mirrored left to right
        ((1, 0, 0, -1), "bw/rg"),
        ((0, 1, 1, 0), "rb/gw"),
        ((0, -1, -1, 0), "wg/br"),
    ],
)
def test_a_film_is_turned_and_mirrored_as_it_says(tmp_path: Path, matrix, expected: str):
    path = write_film(tmp_path / "film.mp4", steady(0.5), draw=corners)
    set_display_matrix(path, *matrix)
    for frame in read_frames(path, frames=2).frames:
        assert colours(frame) == expected
        assert frame.shape == ((HEIGHT, WIDTH, 3) if matrix[0] else (WIDTH, HEIGHT, 3))


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path):
    for aspect, shape in {(4, 3): (120, 213, 3), (2, 3): (180, 160, 3)}.items():
        path = tmp_path / f"{aspect[0]}.mp4"
        write_film(path, steady(0.5), pixel_aspect=Fraction(*aspect))
        (frame,) = read_frames(path, frames=1).frames
        assert frame.shape == shape
        assert number(frame) == 2
        (small,) = read_frames(path, frames=1, max_side=60).frames
        assert max(small.shape) == 60


@pytest.mark.parametrize("name", ["film.mp4", "still.jpg", "still.png"])
def test_frames_are_scaled_down_but_never_up(tmp_path: Path, name: str):
    path = tmp_path / name
    if path.suffix == ".mp4":
        write_film(path, [0.0], draw=lambda i: numbered(1234))
    else:
        Image.fromarray(numbered(1234)).save(path)
    small = read_frames(path, max_side=40).frames[0]
    assert small.shape == (30, 40, 3)
    assert number(small) == 1234
    assert read_frames(path, max_side=500).frames[0].shape == (HEIGHT, WIDTH, 3)


def test_a_hostile_pixel_aspect_is_ignored():
    assert display_size(640, 480, pixel_aspect=1e-4) == (640, 480)
    assert display_size(640, 480, pixel_aspect=65535.0) == (640, 480)
    assert display_size(10000, 1, max_side=64) == (64, 1)


def test_colours_survive(tmp_path: Path):
    clip = read_frames(write_film(tmp_path / "film.mp4", steady(0.5), draw=corners), frames=1)
    difference = np.abs(clip.frames[0].astype(int) - corners())
    assert np.median(difference) <= 6


def test_a_name_that_looks_like_a_protocol_or_pattern_is_just_a_name(tmp_path: Path):
    for name in ["12:30.mp4", "concat:a|b.mp4", "100%d.mp4", "file:x.mp4", "é ü.mp4"]:
        path = write_film(tmp_path / "plain.mp4", steady(0.3)).rename(tmp_path / name)
        assert len(read_frames(path, frames=3).frames) == 3


def test_a_playlist_cannot_reach_the_network(tmp_path: Path):
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"
    (tmp_path / "list.m3u8").write_text(playlist + "#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=r"list\.m3u8"):
        read_frames(tmp_path / "list.m3u8")


def test_videos_among_the_pictures_of_a_folder_are_noted(tmp_path: Path):
    write_film(tmp_path / "film.mp4", steady(0.5))
    with pytest.raises(VideoError, match="videos are given one by one, not as a folder"):
        read_frames(tmp_path)
    Image.fromarray(numbered(7)).save(tmp_path / "7.png")
    clip = read_frames(tmp_path, frames=1)
    assert [number(frame) for frame in clip.frames] == [7]
    assert clip.notes == ("left out 1 of the folder's files: give videos one by one",)
